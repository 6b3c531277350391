# SPDX-License-Identifier: Apache-2.0
"""What was verified of GPUs before: never past its window, never for other bytes, never more than fits."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from attestation.errors import AttestationError
from attestation.gpu import certificate, chain, revocation, rim
from attestation.gpu.chain import verify_chain
from attestation.gpu.rim import verify_rim
from enclave.simulator.gpu_device import make_device
from tests.gpu_cases import DAY, NOW, GpuCase, anchor, authority, machine, ocsp_responses, other_authority, rims
from tests.test_gpu_refusals import OCSP, REPORTS, RIMS

CACHES: tuple[Any, ...] = (
    chain.verify_chain,
    rim.verify_rim,
    revocation.verified_answer,
    certificate._check_signature,
)


def forget() -> None:
    for cache in CACHES:
        cache.cache_clear()


def sizes() -> list[int]:
    return [cache.cache_info().currsize for cache in CACHES]


def code_of(changes: dict[str, Any]) -> str:
    with pytest.raises(AttestationError) as e:
        GpuCase(**changes).verified()
    return e.value.code


Make = Callable[[], dict[str, Any]]


def as_is(changes: dict[str, Any]) -> Make:
    return lambda: changes


def endorsed(name: str, make: Callable[[], tuple[bytes, ...]]) -> Make:
    return lambda: {name: make()}


ROWS: list[tuple[str, Make, str]] = [
    *[(name, as_is(changes), code) for name, changes, code in REPORTS],
    *[(name, endorsed("rims", make), code) for name, make, code in RIMS],
    *[(name, endorsed("ocsp", make), code) for name, make, code in OCSP],
]


@pytest.mark.parametrize(("make", "code"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_a_memory_of_good_evidence_excuses_nothing(make: Callable[[], dict[str, Any]], code: str) -> None:
    """Every attack is refused by the same code, known evidence or none before it; and again."""
    changes = make()
    forget()
    assert code_of(changes) == code
    GpuCase().verified()
    assert code_of(changes) == code
    assert code_of(changes) == code
    GpuCase().verified()


def test_the_second_time_says_the_same_and_remembers_no_more() -> None:
    forget()
    first = GpuCase().verified()
    known = sizes()
    assert all(known)
    again = GpuCase().verified()
    assert sizes() == known
    assert (again.window, again.devices[0].serial, again.roots_used) == (
        first.window,
        first.devices[0].serial,
        first.roots_used,
    )


@pytest.mark.parametrize(
    ("now", "changes", "code"),
    [
        (NOW - 3 * DAY, {}, "CertificateNotYetValid"),
        (NOW + 31 * DAY, {}, "CertificateExpired"),
        (NOW + DAY, {}, "OcspExpired"),
        (NOW - timedelta(hours=1), {}, "OcspNotYetValid"),
        (NOW + 31 * DAY, {"rims": (), "ocsp": ()}, "CertificateExpired"),
    ],
)
def test_nothing_outlives_its_window(now: datetime, changes: dict[str, Any], code: str) -> None:
    GpuCase().verified()
    assert code_of({"now": now} | changes) == code


def test_a_responder_whose_certificate_is_over_does_not_live_on_in_memory() -> None:
    from tests.test_gpu_refusals import answer

    issuer = authority().issuers["GH100-ica"]
    short = issuer.responder("NVIDIA OCSP Responder")
    key = short.key
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    usage = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]),)
    window = (NOW - DAY, NOW + timedelta(hours=1))
    made = issuer.issue(
        "NVIDIA OCSP Responder",
        key.public_key(),
        usage=("digital_signature",),
        ca=False,
        extensions=usage,
        window=window,
    )
    from enclave.simulator.gpu_authority import Issuer

    given = answer(responder=Issuer(key=key, certificate=made))
    GpuCase(ocsp=given).verified()
    assert code_of({"ocsp": given, "now": NOW + timedelta(hours=2)}) == "CertificateExpired"


def test_another_root_has_its_own_memory() -> None:
    device, document = machine("spt", 1)[0], rims("GH100")[0]
    verify_chain(device.pem, kind="gpu", anchor=anchor())
    verify_rim(document, anchor=anchor())
    from hashlib import sha256

    from attestation.gpu.anchor import GpuTrustAnchor
    from enclave.simulator.gpu_authority import spki

    digests = [
        sha256(spki(r.key.public_key())).digest() for r in (other_authority().device_root, other_authority().rim_root)
    ]
    other = GpuTrustAnchor.of_simulator(device_root_spki=frozenset(digests[:1]), rim_root_spki=frozenset(digests[1:]))
    for work in (
        lambda: verify_chain(device.pem, kind="gpu", anchor=other),
        lambda: verify_rim(document, anchor=other),
    ):
        with pytest.raises(AttestationError) as e:
            work()
        assert e.value.code == "UntrustedRoot"


def test_a_known_gpu_chain_is_no_switch_chain() -> None:
    device = machine("spt", 1)[0]
    verify_chain(device.pem, kind="gpu", anchor=anchor())
    with pytest.raises(AttestationError) as e:
        verify_chain(device.pem, kind="switch", anchor=anchor())
    assert e.value.code == "CertificateRoleMismatch"


def test_refusals_are_not_kept() -> None:
    forget()
    GpuCase().verified()
    known = sizes()[:3]
    bent = rims("GH100")[0].replace(b'product="GH100"', b'product="GB100"')
    for _ in range(3):
        code_of({"rims": (bent, rims("GH100")[1])})
        code_of({"ocsp": (b"x", *ocsp_responses("spt", 1)[1:])})
        code_of({"chain": lambda _: make_device(other_authority()).pem})
    assert sizes()[:3] == known


def test_memories_are_bounded() -> None:
    assert [cache.cache_info().maxsize for cache in CACHES] == [64, 32, 128, 128]
