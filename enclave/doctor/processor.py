# SPDX-License-Identifier: Apache-2.0
"""Is this a processor with TDX, and has the firmware turned all of it on?

The registers are those that Intel's and Canonical's host reports read: IA32_TME_ACTIVATE (0x982), IA32_SEAMRR_PHYS_MASK
(0x1401), IA32_MKTME_KEYID_PARTITIONING (0x87), the SGX MCHECK result (0xa0) and MSR_PLATFORM_INFO (0xce).
"""

from __future__ import annotations

from typing import Final

from .check import Check, Outcome, Wanted, decides, fails, not_needed
from .host import Host

OTHER_HOST: Final = "use a host with an Intel Xeon that has TDX (fifth generation, or a fourth that lists it)"
_BIOS: Final = "in the firmware setup"


def _cpu(host: Host, _: Wanted) -> Outcome:
    lines = (host.text("/proc/cpuinfo") or "").splitlines()
    fields = {name.strip(): value.strip() for name, found, value in (line.partition(":") for line in lines) if found}
    model = fields.get("model name", "unknown processor")
    if "tdx_host_platform" in fields.get("flags", "").split():
        return decides(f"{model}, tdx_host_platform", good=True)
    if fields.get("vendor_id") != "GenuineIntel":
        return fails(f"{model}, not an Intel processor", OTHER_HOST)
    return fails(f"{model} without tdx_host_platform")


def _register(host: Host, register: int) -> int | Outcome:
    """Read a register; where there can be none, give the outcome that says so."""
    if "GenuineIntel" not in (host.text("/proc/cpuinfo") or ""):
        return fails("not an Intel processor", OTHER_HOST)
    value = host.msr(register)
    return fails(f"this processor has no register {register:#x}") if value is None else value


def _bit(host: Host, register: int, bit: int, *, want: int, name: str) -> Outcome:
    value = _register(host, register)
    if isinstance(value, Outcome):
        return value
    got = value >> bit & 1
    return decides(f"{name} is {got} ({register:#x} = {value:#x})", good=got == want)


def _tme(host: Host, _: Wanted) -> Outcome:
    return _bit(host, 0x982, 1, want=1, name="memory encryption")


def _seam(host: Host, _: Wanted) -> Outcome:
    return _bit(host, 0x1401, 11, want=1, name="SEAM range")


def _production(host: Host, _: Wanted) -> Outcome:
    return _bit(host, 0xCE, 27, want=0, name="pre-production")


def _keys(host: Host, _: Wanted) -> Outcome:
    value = _register(host, 0x87)
    if isinstance(value, Outcome):
        return value
    return decides(f"{value >> 32} private keys", good=value >> 32 > 0)


def _mcheck(host: Host, _: Wanted) -> Outcome:
    value = _register(host, 0xA0)
    if isinstance(value, Outcome):
        return value
    return decides(f"MCHECK result {value:#x}", good=value == 0)


def _width(host: Host, wanted: Wanted) -> Outcome:
    if wanted.phys_bits is None:
        return not_needed("no shape given: --shape FILE compares its phys_bits")
    # CPUID's own number: the kernel's in /proc/cpuinfo is less by the bits that hold key ids.
    width = host.cpuid(0x80000008)[0] & 0xFF
    mend = f"set phys_bits to {width} in the shape; it is another shape then, with an RTMR0 of its own to measure"
    return decides(f"{width} bits, the shape says {wanted.phys_bits}", good=width == wanted.phys_bits, mend=mend)


CHECKS: Final = (
    Check(
        name="cpu.tdx",
        want="the flag tdx_host_platform in /proc/cpuinfo",
        mend=f"turn on TDX {_BIOS}, and boot a kernel that knows TDX hosts",
        look=_cpu,
    ),
    Check(
        name="bios.tme",
        want="multi-key memory encryption on",
        mend=f"turn on Total Memory Encryption and TME-MT {_BIOS}, TME bypass and memory integrity as its maker says",
        look=_tme,
    ),
    Check(name="bios.seam", want="SEAM range on", mend=f"turn on the SEAM loader and TDX {_BIOS}", look=_seam),
    Check(
        name="bios.keys",
        want="at least one private key",
        mend=f"give TDX a share of the keys (TME-MT/TDX key split) {_BIOS}",
        look=_keys,
    ),
    Check(
        name="bios.sgx",
        want="MCHECK result 0",
        mend=f"turn on SGX {_BIOS}, do an SGX factory reset there, and update the firmware if it stays",
        look=_mcheck,
    ),
    Check(
        name="cpu.production",
        want="a production processor",
        mend="use a production processor: Intel certifies no other",
        look=_production,
    ),
    Check(
        name="cpu.width",
        want="physical addresses as wide as the shape says: TDX takes no other",
        mend="set the shape's phys_bits to the processor's",
        look=_width,
    ),
)
