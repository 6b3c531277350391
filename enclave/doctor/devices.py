# SPDX-License-Identifier: Apache-2.0
"""Are this host's NVIDIA GPUs ready to be given away, in confidential mode?

Their mode is read by NVIDIA's own gpu-admin-tools (`nvidia_gpu_tools.py`), which need root. What a GPU's firmware is
worth is judged inside the enclave, by its attestation, and not here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .check import Check, Outcome, Wanted, decides, fails, holds, not_needed
from .host import Host, plain

NVIDIA: Final = "0x10de"
PCI: Final = "/sys/bus/pci/devices"
DRIVER: Final = "/proc/driver/nvidia/gpus"
TOOL: Final = "nvidia_gpu_tools.py"
SET: Final = 8  # GPUs of one NVLink fabric, which share their switches
ATTESTS: Final = (
    "96.00.5e.00.01"  # the oldest VBIOS for which a report and NVIDIA's reference values were seen to agree
)
_GPU_CLASSES: Final = ("0x0300", "0x0302")
_SWITCH_CLASS: Final = "0x0680"
_VBIOS: Final = re.compile(r"^Video BIOS:\s*((?:[0-9a-f]{2}\.){4}[0-9a-f]{2})\s*$", re.MULTILINE | re.IGNORECASE)
_NONE: Final = "no NVIDIA GPU: this host serves enclaves without one"
_MODE: Final = re.compile(
    r"(?P<address>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]).*?(?P<kind>CC|PPCIe) mode is (?P<mode>\w+)", re.IGNORECASE
)


def _found(host: Host, classes: Sequence[str]) -> list[str]:
    """Give the PCI addresses of NVIDIA's devices of these classes."""
    return [
        address
        for address in host.names(PCI)
        if host.text(f"{PCI}/{address}/vendor") == NVIDIA
        and (host.text(f"{PCI}/{address}/class") or "").startswith(tuple(classes))
    ]


def _gpus(host: Host, wanted: Wanted) -> list[str]:
    return list(wanted.gpus) if wanted.gpus is not None else _found(host, _GPU_CLASSES)


def _present(host: Host, wanted: Wanted) -> Outcome:
    there = _found(host, _GPU_CLASSES)
    if wanted.gpus is None:
        return holds(", ".join(there)) if there else not_needed(_NONE)
    if not wanted.gpus:
        return not_needed("the shape has no GPU")
    absent = [address for address in wanted.gpus if address not in there]
    return decides(f"no GPU at {', '.join(absent)}" if absent else ", ".join(wanted.gpus), good=not absent)


def _iommu(host: Host, wanted: Wanted) -> Outcome:
    gpus = _gpus(host, wanted)
    if not gpus:
        return not_needed(_NONE)
    bare = [address for address in gpus if host.link(f"{PCI}/{address}/iommu_group") is None]
    return decides(f"no IOMMU group: {', '.join(bare)}" if bare else "every GPU has its IOMMU group", good=not bare)


def _bound(host: Host, wanted: Wanted) -> Outcome:
    gpus = _gpus(host, wanted)
    if not gpus:
        return not_needed(_NONE)
    drivers = {address: host.link(f"{PCI}/{address}/driver") or "none" for address in gpus}
    wrong = [f"{address} has {driver}" for address, driver in drivers.items() if driver != "vfio-pci"]
    return decides(", ".join(wrong) or "every GPU is with vfio-pci", good=not wrong)


def _iommufd(host: Host, wanted: Wanted) -> Outcome:
    if not _gpus(host, wanted):
        return not_needed(_NONE)
    there = host.exists("/dev/iommu")
    return decides("/dev/iommu is there" if there else "no /dev/iommu", good=there)


def _locked(host: Host, wanted: Wanted) -> Outcome:
    if not _gpus(host, wanted):
        return not_needed(_NONE)
    limits = host.text("/proc/self/limits") or ""
    found = re.search(r"^Max locked memory\s+(\S+)", limits, re.MULTILINE)
    if found is None:
        return fails("no limit found in /proc/self/limits")
    good = found[1] == "unlimited" or (found[1].isdigit() and int(found[1]) >= wanted.memory)
    return decides(f"{found[1]} bytes of locked memory", good=good)


def _modes(host: Host, wanted: Wanted, kind: str) -> dict[str, str]:
    """Ask the tool for one mode of every GPU; a GPU that it says nothing of is `unknown`. Raises Unseen."""
    said = host.output(TOOL, "--devices", "gpus", f"--query-{kind.lower()}-mode")
    found = {m["address"].lower(): m["mode"].lower() for m in _MODE.finditer(said) if m["kind"].lower() == kind.lower()}
    return {address: found.get(address, "unknown") for address in _gpus(host, wanted)}


def _confidential(host: Host, wanted: Wanted) -> Outcome:
    if not _gpus(host, wanted):
        return not_needed(_NONE)
    if _whole_set(host, wanted):
        return not_needed("a set of eight is protected by its PPCIe mode instead")
    modes = _modes(host, wanted, "CC")
    return decides(_told(modes), good=all(mode == "on" for mode in modes.values()))


def _ppcie(host: Host, wanted: Wanted) -> Outcome:
    if not _gpus(host, wanted):
        return not_needed(_NONE)
    want = "on" if _whole_set(host, wanted) else "off"
    modes = _modes(host, wanted, "PPCIe")
    return decides(
        f"{_told(modes)}, wanted {want}",
        good=all(mode == want for mode in modes.values()),
        mend=f"sudo {TOOL} --devices gpus --set-ppcie-mode={want} --reset-after-ppcie-mode-switch",
    )


def _vbios(host: Host, wanted: Wanted) -> Outcome:
    """Read it off NVIDIA's driver; the ROM itself could be read only by writing to the device first."""
    gpus = _gpus(host, wanted)
    if not gpus:
        return not_needed(_NONE)
    said = {address: _VBIOS.search(host.text(f"{DRIVER}/{address}/information") or "") for address in gpus}
    seen = {address: found[1].lower() for address, found in said.items() if found}
    if not seen:
        return not_needed(
            f"no host sees it behind vfio-pci; an enclave's GPU report does (`sericin gpu show`): {ATTESTS} or newer"
        )
    hidden = [address for address in gpus if address not in seen]
    remark = f"; seen in the guest alone: {', '.join(hidden)}" if hidden else ""
    return decides(_told(seen) + remark, good=all(version >= ATTESTS for version in seen.values()))


def _vendor(host: Host, wanted: Wanted) -> Outcome:
    """Try what the launcher will connect for the guest: without these services no GPU passes the enclave's gate."""
    if not _gpus(host, wanted):
        return not_needed(_NONE)
    tried = {f"{outlet.name}:{outlet.port}": host.reaches(outlet.name, outlet.port) for outlet in wanted.outlets}
    failed = [f"{place}: {why}" for place, why in tried.items() if why is not None]
    return decides("; ".join(failed) or f"{', '.join(tried)} answer", good=not failed)


def _switches(host: Host, wanted: Wanted) -> Outcome:
    if not _whole_set(host, wanted):
        return not_needed("no set of eight GPUs")
    there = _found(host, (_SWITCH_CLASS,))
    wrong = [address for address in there if host.link(f"{PCI}/{address}/driver") != "vfio-pci"]
    if not there:
        return fails("eight GPUs and no NVSwitch")
    return decides(f"not with vfio-pci: {', '.join(wrong)}" if wrong else ", ".join(there), good=not wrong)


def _whole_set(host: Host, wanted: Wanted) -> bool:
    return wanted.gpus is not None and len(_gpus(host, wanted)) == SET


def _told(modes: dict[str, str]) -> str:
    return plain(", ".join(f"{address} {mode}" for address, mode in sorted(modes.items())))


CHECKS: Final = (
    Check(
        name="gpu.present",
        want="the shape's GPUs",
        mend="correct the shape's PCI addresses (lspci -D), or put the GPU back",
        look=_present,
    ),
    Check(
        name="gpu.iommu",
        want="an IOMMU group for every GPU",
        mend="turn on VT-d in the firmware setup and add intel_iommu=on to the kernel's command line",
        look=_iommu,
    ),
    Check(
        name="gpu.vfio",
        want="the driver vfio-pci",
        mend="add vfio-pci.ids=VENDOR:DEVICE to the kernel's command line, or bind by driver_override",
        look=_bound,
    ),
    Check(name="gpu.iommufd", want="/dev/iommu", mend="run `modprobe iommufd` as root", look=_iommufd),
    Check(
        name="gpu.locked",
        want="as much lockable memory as the enclave has",
        mend="raise it: `ulimit -l unlimited`, LimitMEMLOCK=infinity in a unit, or run as root",
        look=_locked,
    ),
    Check(
        name="gpu.confidential",
        want="confidential computing mode on, not devtools",
        mend=f"install NVIDIA's gpu-admin-tools; sudo {TOOL} --devices gpus --set-cc-mode=on "
        "--reset-after-cc-mode-switch",
        look=_confidential,
    ),
    Check(
        name="gpu.ppcie",
        want="protected PCIe mode off for single GPUs, on for a whole set of eight",
        mend="install NVIDIA's gpu-admin-tools and run as root",
        look=_ppcie,
    ),
    Check(
        name="gpu.vbios",
        want=f"a VBIOS that attests: {ATTESTS} or newer, with reference values of NVIDIA",
        mend="let the server's maker update the GPU's VBIOS to a version for which NVIDIA publishes reference values",
        look=_vbios,
    ),
    Check(
        name="gpu.vendor",
        want="NVIDIA's reference values, OCSP and CRLs can be asked for: the enclave asks through this host",
        mend="let this host reach these names and ports itself; launches know no proxy",
        look=_vendor,
    ),
    Check(
        name="gpu.switches",
        want="a whole set's NVSwitches, with vfio-pci",
        mend="bind every NVSwitch to vfio-pci and put them into PPCIe mode with their GPUs",
        look=_switches,
    ),
)
