# SPDX-License-Identifier: Apache-2.0
"""Does this host have a QEMU that starts trust domains, the image's firmware, and the memory for them?"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from .check import Check, Outcome, Wanted, decides, fails, not_needed
from .host import Host, Unseen, plain

LEAST: Final = (10, 1)  # the first QEMU with the object tdx-guest
SEEN: Final = (11, 1)  # the newest whose tables and command line were looked at
MAX_FIRMWARE: Final = 64 << 20
_GIB: Final = 1 << 30


def _version(host: Host, wanted: Wanted) -> Outcome:
    first = host.output(wanted.qemu, "--version").partition("\n")[0]
    found = re.search(r"version (\d{1,3})\.(\d{1,3})", first)
    if found is None:
        return fails(plain(first) or "no word")
    version = int(found[1]), int(found[2])
    remark = f"; newer than {SEEN[0]}.{SEEN[1]}, RTMR0 may differ from what was published" if version > SEEN else ""
    if wanted.release is not None and version != wanted.release:
        release = "{}.{}".format(*wanted.release)
        return fails(
            f"{plain(first)}, the shape says {release}", f"install QEMU {release}, or measure a shape for yours"
        )
    return decides(plain(first) + remark, good=version >= LEAST)


def _object(host: Host, wanted: Wanted) -> Outcome:
    listed = host.output(wanted.qemu, "-object", "help").split()
    there = "tdx-guest" in listed
    return decides("tdx-guest is listed" if there else f"{len(listed)} words, tdx-guest is none of them", good=there)


def _vsock_device(host: Host, wanted: Wanted) -> Outcome:
    there = "guest-cid=" in host.output(wanted.qemu, "-device", "vhost-vsock-pci,help")
    return decides("vhost-vsock-pci has its guest-cid" if there else "no device vhost-vsock-pci", good=there)


def _firmware(_: Host, wanted: Wanted) -> Outcome:
    if wanted.firmware is None:
        return not_needed("no image given: --image DIR looks at its firmware")
    name, digest = wanted.firmware
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_FIRMWARE + 1)
    except OSError as e:
        raise Unseen(f"{name}: {e.strerror}") from None
    got = hashlib.sha256(data).digest()
    return decides(f"{name}: SHA-256 {got.hex()[:16]}...", good=got == digest)


def _amount(host: Host, name: str) -> int | None:
    """Give one amount of /proc/meminfo in bytes, None where it is not there."""
    found = re.search(rf"^{name}:\s+(\d{{1,15}}) kB$", host.text("/proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _memory(host: Host, wanted: Wanted) -> Outcome:
    free = _amount(host, "MemAvailable")
    if free is None:
        return fails("no MemAvailable in /proc/meminfo")
    return decides(
        f"{free / _GIB:.1f} GiB available, {wanted.memory / _GIB:.1f} GiB wanted", good=free >= wanted.memory
    )


def _huge(host: Host, wanted: Wanted) -> Outcome:
    """Huge pages are optional, and an enclave takes none: reserved ones are only missing from its memory."""
    reserved, free = _amount(host, "Hugetlb") or 0, _amount(host, "MemAvailable") or 0
    if not reserved:
        return not_needed("none reserved, none needed")
    return decides(f"{reserved / _GIB:.1f} GiB reserved, which no enclave uses", good=free >= wanted.memory)


def _nodes(host: Host, _: Wanted) -> Outcome:
    folder = "/sys/devices/system/node"
    possible, online = host.text(f"{folder}/possible"), host.text(f"{folder}/online")
    if possible is None:
        return not_needed("one memory node")
    return decides(f"possible {plain(possible)}, online {plain(online or 'none')}", good=possible == online)


def _vhost(host: Host, _: Wanted) -> Outcome:
    there = host.exists("/dev/vhost-vsock")
    return decides("/dev/vhost-vsock is there" if there else "no /dev/vhost-vsock", good=there)


def _foreign(host: Host, _: Wanted) -> Outcome:
    foreign = [name for name in ("vmw_vsock_vmci_transport", "hv_sock") if host.exists(f"/sys/module/{name}")]
    return decides(f"{foreign[0]} is loaded" if foreign else "no other transport", good=not foreign)


CHECKS: Final = (
    Check(
        name="qemu.version",
        want="QEMU 10.1 or newer",
        mend="install QEMU 10.1 or newer (qemu-system-x86), or name one with --qemu",
        look=_version,
    ),
    Check(
        name="qemu.tdx",
        want="the object tdx-guest",
        mend="use a QEMU built with TDX: version 10.1 or newer for x86-64 with KVM",
        look=_object,
    ),
    Check(
        name="qemu.vsock",
        want="the device vhost-vsock-pci",
        mend="use a QEMU built with vhost-vsock",
        look=_vsock_device,
    ),
    Check(
        name="qemu.firmware",
        want="the file that the image's manifest names",
        mend="copy the image again: its firmware is not the measured one",
        look=_firmware,
    ),
    Check(
        name="memory.free",
        want="all of the enclave's memory free: private memory is never overcommitted",
        mend="stop other work on this host, add memory, or use a smaller shape",
        look=_memory,
    ),
    Check(
        name="memory.hugepages",
        want="no huge pages reserved out of the enclave's memory",
        mend="give them back: `sysctl vm.nr_hugepages=0`, and no hugepages= on the kernel's command line",
        look=_huge,
    ),
    Check(
        name="memory.nodes",
        want="every memory node online",
        mend="bring every node online: TDX refuses memory that appears after boot",
        look=_nodes,
    ),
    Check(
        name="vsock.host",
        want="/dev/vhost-vsock",
        mend="run `modprobe vhost_vsock` as root, and add it to /etc/modules-load.d",
        look=_vhost,
    ),
    Check(
        name="vsock.alone",
        want="no vsock transport of another hypervisor",
        mend="unload it (rmmod) and keep it from loading: it takes the host's end of vsock",
        look=_foreign,
    ),
)
