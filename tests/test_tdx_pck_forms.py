# SPDX-License-Identifier: Apache-2.0
"""The SGX extension of a PCK certificate, read in one step: never another answer than the careful reading gives."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from attestation.errors import Untrusted
from attestation.tdx import pck
from enclave.simulator.tdx_platform import PlatformProfile, sgx_extension, sgx_fields
from tests.tdx_cases import PLATFORM

EDGES = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
PCE_SVNS = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF)
SMALL = replace(PLATFORM, platform_instance_id=None)


def careful(extension: bytes) -> pck.Platform | None:
    with suppress(Untrusted):
        return pck._platform(extension)
    return None


def extension(profile: PlatformProfile) -> bytes:
    return sgx_extension(profile).value


@pytest.mark.parametrize("profile", [PLATFORM, SMALL, replace(PLATFORM, sgx_type=0), replace(PLATFORM, sgx_type=2)])
@pytest.mark.parametrize("pce_svn", PCE_SVNS)
def test_what_intel_writes_is_read_in_one_step(profile: PlatformProfile, pce_svn: int) -> None:
    for first in EDGES:
        for flags in ((True, False, False), (False, True, False), (False, False, True)):
            components = (*[first] * 8, *EDGES, 2, 3)
            given = replace(profile, pce_svn=pce_svn, components=components, flags=flags)
            found = pck._at_once(extension(given))
            assert found is not None
            assert found == careful(extension(given)) == pck.Platform.parse(extension(given))
            assert (found.tcb_components, found.cpu_svn, found.pce_svn) == (components, bytes(components), pce_svn)
            assert found.sgx_type == given.sgx_type
            known = (found.dynamic_platform, found.cached_keys, found.smt_enabled)
            assert known == (flags if given.platform_instance_id is not None else (None,) * 3)


@pytest.mark.parametrize("profile", [PLATFORM, SMALL, replace(PLATFORM, pce_svn=0x1234, components=(200,) * 16)])
def test_every_byte_changed_gives_what_the_careful_reading_gives(profile: PlatformProfile) -> None:
    good = extension(profile)
    for at, byte in enumerate(good):
        for value in {0, 1, 0x7F, 0x80, 0xFF, byte ^ 1, byte ^ 0x80, (byte + 1) % 256, (byte - 1) % 256} - {byte}:
            changed = good[:at] + bytes([value]) + good[at + 1 :]
            found = pck._at_once(changed)
            assert found is None or found == careful(changed)


def test_a_cut_or_longer_extension_is_none_of_intel_s() -> None:
    good = extension(PLATFORM)
    for size in range(len(good)):
        assert pck._at_once(good[:size]) is None
    assert pck._at_once(good + b"\0") is None


def test_another_order_is_read_carefully() -> None:
    fields = sgx_fields(PLATFORM)
    body = b"".join(reversed(fields))
    turned = b"\x30\x82" + len(body).to_bytes(2, "big") + body
    assert pck._at_once(turned) is None
    assert pck.Platform.parse(turned) == pck._at_once(extension(PLATFORM))


def test_a_cpu_svn_that_is_not_the_components_is_left_to_the_careful_reading_which_refuses() -> None:
    wrong = extension(replace(PLATFORM, cpu_svn=bytes(15) + b"\1"))
    assert pck._at_once(wrong) is None
    with pytest.raises(Untrusted, match="PckExtensionInvalid"):
        pck.Platform.parse(wrong)
