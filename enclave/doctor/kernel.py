# SPDX-License-Identifier: Apache-2.0
"""Is this kernel a TDX host, with the TDX module running under it?"""

from __future__ import annotations

import re
from typing import Final

from .check import Check, Outcome, Wanted, decides, fails, holds
from .host import Host, Unseen, plain

LEAST: Final = (6, 16)  # the first release whose KVM runs trust domains
BETTER: Final = (6, 17)
GUEST_DEVICES: Final = ("/dev/tdx_guest", "/dev/tdx-guest")
_TDX: Final = "/sys/module/kvm_intel/parameters/tdx"


def _release(host: Host, _: Wanted) -> Outcome:
    release = host.text("/proc/sys/kernel/osrelease") or ""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", release)
    if found is None:
        return fails(f"release {plain(release) or 'unknown'}")
    version = int(found[1]), int(found[2])
    remark = "" if version >= BETTER or version < LEAST else "; 6.17 has later fixes"
    return decides(plain(release) + remark, good=version >= LEAST)


def _is_host(host: Host, _: Wanted) -> Outcome:
    there = [name for name in GUEST_DEVICES if host.exists(name)]
    return decides(f"{there[0]} is there: this is a guest" if there else "no guest device", good=not there)


def _kvm(host: Host, _: Wanted) -> Outcome:
    if not host.exists("/dev/kvm"):
        return fails("no /dev/kvm")
    why = host.opens("/dev/kvm")
    if why is None:
        return holds("/dev/kvm opens")
    return fails(f"/dev/kvm: {why}", "join the group kvm, or run as root" if "denied" in why else None)


def _enabled(host: Host) -> bool:
    return host.text(_TDX) in {"Y", "1"}


def _kvm_tdx(host: Host, _: Wanted) -> Outcome:
    value = host.text(_TDX)
    if value is None:
        return fails("kvm_intel has no parameter tdx", "load kvm_intel of a kernel with CONFIG_KVM_INTEL_TDX")
    return decides(f"tdx={plain(value)}", good=_enabled(host))


def _log(host: Host) -> tuple[list[str], bool]:
    """Give the kernel's words on TDX, and whether its log reaches back to the boot."""
    lines = host.kernel_log()
    return [line for line in lines if "virt/tdx" in line], any("Linux version" in line for line in lines)


def _keyids(host: Host, _: Wanted) -> Outcome:
    lines, whole = _log(host)
    for line in lines:
        if "BIOS enabled" in line:
            return holds(line)
    return _silent(host, whole=whole)


def _silent(host: Host, *, whole: bool) -> Outcome:
    """Say what a silent log means. The parameter tdx stays on only where KVM brought TDX up (Linux 6.16, vmx/tdx.c)."""
    if whole:
        return fails("no word of it in the kernel's log")
    if _enabled(host):
        return holds("the boot's messages are gone, but kvm_intel has tdx on, which needs it")
    raise Unseen("the kernel's log does not reach back to the boot", "reboot, then look again")


def _module(host: Host, _: Wanted) -> Outcome:
    version = host.text("/sys/devices/faux/tdx_host/version")
    if version:
        parts = [f"TDX module {version}"]
        for name, what in (("seamldr_version", "loader"), ("num_remaining_updates", "updates left:")):
            value = host.text(f"/sys/devices/faux/tdx_host/{name}")
            parts += [f"{what} {value}"] if value else []
        return holds(", ".join(parts))
    lines, whole = _log(host)
    for line in lines:
        if "initialization failed" in line:
            return fails(line, _cure(line))
    told = [line for line in lines if "TDX module" in line or "module initialized" in line]
    if any("module initialized" in line for line in told):
        return holds(told[0])
    return _silent(host, whole=whole)


def _cure(line: str) -> str | None:
    if "Hibernation" in line:
        return "add nohibernate to the kernel's command line and reboot"
    return "update the firmware (BIOS), which carries the TDX module, then reboot"


def _sleep(host: Host, _: Wanted) -> Outcome:
    if "nohibernate" in (host.text("/proc/cmdline") or "").split():
        return holds("nohibernate on the command line")
    states = host.text("/sys/power/state")
    if states is None:
        return holds("this kernel has no sleep states")
    return decides(f"sleep states: {states or 'none'}", good="disk" not in states.split())


CHECKS: Final = (
    Check(name="kernel.host", want="a host, no guest", mend="run this on the host itself", look=_is_host),
    Check(
        name="kernel.release",
        want="6.16 or newer",
        mend="install a kernel of 6.17 or newer, from your distribution's backports if need be",
        look=_release,
    ),
    Check(
        name="kernel.kvm",
        want="/dev/kvm opens",
        mend="turn on virtualization in the firmware setup and load kvm_intel",
        look=_kvm,
    ),
    Check(
        name="kernel.tdx",
        want="kvm_intel with tdx=Y",
        mend="add kvm_intel.tdx=1 to the kernel's command line and reboot",
        look=_kvm_tdx,
    ),
    Check(
        name="kernel.keyids",
        want="virt/tdx: BIOS enabled: private KeyID range",
        mend="turn on TDX in the firmware setup (the checks bios.* say which part is off)",
        look=_keyids,
    ),
    Check(
        name="kernel.module",
        want="a TDX module that is initialized",
        mend="update the firmware (BIOS), which carries the TDX module, and load kvm_intel with tdx=1",
        look=_module,
    ),
    Check(
        name="kernel.hibernation",
        want="hibernation off",
        mend="add nohibernate to the kernel's command line and reboot",
        look=_sleep,
    ),
)
