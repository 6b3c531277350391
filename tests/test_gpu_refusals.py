# SPDX-License-Identifier: Apache-2.0
"""GPU evidence with one thing wrong, signed anew around it: each refused by its own code."""
# ruff: noqa: E501 - one row, one line

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from hypothesis import given as forall
from hypothesis import settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, PolicyInvalid
from attestation.gpu.appraise import GpuPolicy
from attestation.gpu.binding import gpu_nonce, gpu_set_digest
from attestation.gpu.rim import verify_rim
from attestation.gpu.spdm import parse_report
from enclave.simulator.gpu_device import golden, make_device, make_rims, rim_fields
from enclave.simulator.gpu_ocsp import LIFETIME, respond
from enclave.simulator.gpu_report import encode_block
from enclave.simulator.gpu_rim import encode_rim, encode_signed_info, sign_rim, with_signature
from tests.gpu_cases import (
    CC_STATE,
    DAY,
    NONCE,
    NOW,
    GpuCase,
    anchor,
    authority,
    but,
    given,
    machine,
    measurement,
    ocsp_responses,
    opaque,
    other_authority,
    pem,
    rims,
    without,
)

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973


@pytest.mark.parametrize(("mode", "count"), [("spt", 1), ("mpt", 4), ("ppcie", 1)])
def test_every_machine_is_verified(mode: str, count: int) -> None:
    found = GpuCase(mode=mode, count=count).verified()
    assert len(found.gpus) == {"spt": 1, "mpt": 4, "ppcie": 8}[mode]
    assert str(found.mode) == mode
    assert found.window.holds(NOW)


def test_the_strict_policy_accepts_one_gpu() -> None:
    assert [f for f in GpuCase().findings() if not f.holds] == []


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if at >= 0 else flip(len(data) + at)(data)


def issued(**changes: Any) -> Callable[[Any], bytes]:
    """Issue the leaf anew under the device's own CA, with something changed; its key stays."""

    def chain(device: Any) -> bytes:
        ica = authority().issuers[f"{device.product}-ica"]
        made = make_device(authority(), product=device.product, pdi=device.pdi)
        fields: dict[str, Any] = {"usage": ("digital_signature",), "ca": False}
        leaf = ica.issue("GH100 A01 GSP FMC LF", device.leaf.key.public_key(), **(fields | changes))
        return pem((leaf, *made.chain[1:]))

    return chain


RIM_CHAIN = ("rim-signer", "rim-l3", "rim-ca", "rim-root")
REPORTS: list[tuple[str, dict[str, Any], str]] = [
    ("a bit of the nonce", {"after": flip(5)}, "GpuReportSignatureInvalid"),
    ("a bit of a measurement", {"after": flip(60)}, "GpuReportSignatureInvalid"),
    ("a bit of the signature", {"after": flip(-1)}, "GpuReportSignatureInvalid"),
    ("r is 0", {"signature": lambda s: bytes(48) + s[48:]}, "GpuReportSignatureInvalid"),
    ("s is n", {"signature": lambda s: s[:48] + ORDER.to_bytes(48, "big")}, "GpuReportSignatureInvalid"),
    ("r and s swapped", {"signature": lambda s: s[48:] + s[:48]}, "GpuReportSignatureInvalid"),
    ("another nonce", {"nonce": bytes(32)}, "GpuNonceMismatch"),
    ("cut", {"after": lambda d: d[:-1]}, "MalformedGpuReport"),
    ("a byte more", {"after": lambda d: d + b"\1"}, "TrailingData"),
    ("empty", {"after": lambda _: b""}, "MalformedGpuReport"),
    ("SPDM 1.2", {"fields": but(response=(0x12, 0x60, 0, 0))}, "UnsupportedGpuReport"),
    ("an error response", {"fields": but(response=(0x11, 0x7F, 0, 0))}, "UnsupportedGpuReport"),
    ("a request without signature", {"fields": but(request=(0x11, 0xE0, 0, 0xFF))}, "UnsupportedGpuReport"),
    ("another slot", {"fields": but(slot=1)}, "UnsupportedGpuReport"),
    ("no blocks", {"fields": but(number_of_blocks=0)}, "UnsupportedGpuReport"),
    ("one block fewer", {"fields": but(number_of_blocks=63)}, "UnsupportedGpuReport"),
    ("one block more", {"fields": but(number_of_blocks=65)}, "UnsupportedGpuReport"),
    ("a longer record", {"fields": but(record_length=3521)}, "UnsupportedGpuReport"),
    ("a shorter record", {"fields": but(record_length=3519)}, "UnsupportedGpuReport"),
    ("longer opaque data", {"fields": but(opaque_length=0xFFFF)}, "MalformedGpuReport"),
    ("a block twice", {"fields": but(blocks={2: encode_block(1, bytes(48))})}, "UnsupportedGpuReport"),
    ("block 0", {"fields": but(blocks={1: encode_block(0, bytes(48))})}, "UnsupportedGpuReport"),
    ("another specification", {"fields": but(blocks={1: encode_block(1, bytes(48), specification=2)})}, "UnsupportedGpuReport"),
    ("another value type", {"fields": but(blocks={1: encode_block(1, bytes(48), value_type=2)})}, "UnsupportedGpuReport"),
    ("a value of 47 bytes", {"fields": but(blocks={1: encode_block(1, bytes(47))})}, "UnsupportedGpuReport"),
    ("an opaque field twice", {"fields": opaque(lambda f: [*f, f[0]])}, "MalformedOpaqueData"),
    ("no driver version", {"fields": without(3)}, "MalformedOpaqueData"),
    ("no VBIOS version", {"fields": without(6)}, "MalformedOpaqueData"),
    ("no project", {"fields": without(17)}, "MalformedOpaqueData"),
    ("no firmware identity", {"fields": without(20)}, "GpuFwidMismatch"),
    ("another firmware identity", {"fields": given(20, bytes(48))}, "GpuFwidMismatch"),
    ("a GPU offered as a switch", {"kind": "switch"}, "UnsupportedGpuReport"),
    ("another device's chain", {"chain": lambda d: make_device(authority(), pdi=d.pdi).pem}, "GpuReportSignatureInvalid"),
    ("a chain in another order", {"chain": lambda d: pem(d.chain[::-1])}, "UntrustedRoot"),
    ("four certificates", {"chain": lambda d: pem(d.chain[:-1])}, "MalformedCertificate"),
    ("six certificates", {"chain": lambda d: pem((*d.chain, d.chain[-1]))}, "MalformedCertificate"),
    ("the leaf twice", {"chain": lambda d: pem((d.chain[0], d.chain[0], *d.chain[2:]))}, "CertificateRoleMismatch"),
    ("text around the chain", {"chain": lambda d: b"hello\n" + d.pem}, "MalformedCertificate"),
    ("a megabyte of PEM", {"chain": lambda d: d.pem * 300}, "MalformedCertificate"),
    ("another root", {"chain": lambda d: pem((*d.chain[:-1], other_authority().device_root.certificate))}, "UntrustedRoot"),
    ("another world", {"chain": lambda _: make_device(other_authority()).pem}, "UntrustedRoot"),
    ("the chain of reference values", {"chain": lambda _: pem(authority().chain(*RIM_CHAIN, "rim-root"))}, "UntrustedRoot"),
    ("a leaf of another issuer", {"chain": issued()}, "GpuChainInvalid"),
    ("an expired chain", {"now": NOW + 60 * DAY}, "CertificateExpired"),
    ("a chain of tomorrow", {"now": NOW - 3 * DAY}, "CertificateNotYetValid"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in REPORTS], ids=[row[0] for row in REPORTS])
def test_a_report_or_chain_with_one_thing_wrong(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(AttestationError) as e:
        GpuCase(**changes).verified()
    assert e.value.code == code


def test_the_twin_of_a_signature_is_accepted_and_changes_no_identity() -> None:
    def twin(signature: bytes) -> bytes:
        return signature[:48] + (ORDER - int.from_bytes(signature[48:], "big")).to_bytes(48, "big")

    case = GpuCase(signature=twin)
    assert len(case.verified().gpus) == 1
    device = case.evidence()[0]
    bent = replace(device, report=device.report[:-1] + bytes([device.report[-1] ^ 1]))
    assert gpu_set_digest([bent]) == gpu_set_digest([device])


# ---- reference values


def rim(change: Callable[[str], str] = lambda text: text, *, which: int = 0, **fields: Any) -> tuple[bytes, ...]:
    """Give both reference values of a GPU, one of them changed before it is signed."""
    made = []
    chain = authority().chain("rim-signer", "rim-l3", "rim-ca", "rim-root")
    for number, values in enumerate(rim_fields("GH100")):
        bent = replace(values, **fields) if number == which else values
        text = encode_rim(bent)
        made.append(sign_rim(change(text) if number == which else text, authority().issuers["rim-signer"].key, chain))
    return tuple(made)


def signed_by(*roles: str) -> tuple[bytes, ...]:
    """Sign with another chain."""
    key, chain = authority().issuers[roles[0]].key, authority().chain(*roles)
    return tuple(sign_rim(encode_rim(values), key, chain) for values in rim_fields("GH100"))


def unsigned(change: Callable[[bytes], bytes]) -> tuple[bytes, ...]:
    """Change a signed document."""
    first, second = rim()
    return change(first), second


def resigned_info(change: Callable[[str], str]) -> tuple[bytes, ...]:
    """Sign another SignedInfo."""
    from hashlib import sha384

    from enclave.simulator.gpu_report import sign_raw

    chain = authority().chain("rim-signer", "rim-l3", "rim-ca", "rim-root")
    text = encode_rim(rim_fields("GH100")[0])
    info = change(encode_signed_info(sha384(text.encode()).digest()))
    value = sign_raw(authority().issuers["rim-signer"].key, info.encode())
    return with_signature(text, info, value, chain), rim()[1]


RIMS: list[tuple[str, Callable[[], tuple[bytes, ...]], str]] = [
    ("a version of another driver", lambda: rim(version="550.90.07"), "RimMismatch"),
    ("a product of another chip", lambda: rim(product="GB100"), "RimMismatch"),
    ("no driver's values", lambda: rim()[1:], "RimMissing"),
    ("the driver's values twice", lambda: (*rim(), rim()[0]), "RimMismatch"),
    ("a changed hash", lambda: unsigned(lambda d: d.replace(b'Hash0="', b'Hash0="0', 1)), "RimSignatureInvalid"),
    ("a changed product", lambda: unsigned(lambda d: d.replace(b'product="GH100"', b'product="GB100"')), "RimSignatureInvalid"),
    ("a flipped signature", lambda: unsigned(lambda d: d.replace(b"<ds:SignatureValue>", b"<ds:SignatureValue>A")), "MalformedRim"),
    ("no signature", lambda: unsigned(lambda _: encode_rim(rim_fields("GH100")[0]).encode()), "MalformedRim"),
    ("signed by a device", lambda: signed_by("GH100-ica", "GH100-identity", "device-root", "device-root"), "UntrustedRoot"),
    ("signed in another world", lambda: make_rims(other_authority(), ["GH100"]), "UntrustedRoot"),
    ("signed by its CA", lambda: signed_by("rim-l3", "rim-ca", "rim-root", "rim-root"), "CertificateRoleMismatch"),
    ("a DOCTYPE", lambda: unsigned(lambda d: b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + d), "MalformedRim"),
    ("a processing instruction", lambda: rim(lambda t: "<?x y?>" + t), "MalformedRim"),
    ("a comment", lambda: rim(lambda t: t.replace("</ns0:Payload>", "<!--x--></ns0:Payload>")), "MalformedRim"),
    ("UTF-16", lambda: unsigned(lambda d: d.decode().encode("utf-16")), "MalformedRim"),
    ("too long", lambda: unsigned(lambda d: d + b" " * 300_000), "MalformedRim"),
    ("active as true", lambda: rim(lambda t: t.replace('active="True"', 'active="true"', 1)), "MalformedRim"),
    ("nothing active", lambda: rim(lambda t: t.replace('active="True"', 'active="False"')), "MalformedRim"),
    ("alternatives 0", lambda: rim(lambda t: t.replace('alternatives="1"', 'alternatives="0"', 1)), "MalformedRim"),
    ("alternatives 3 with one hash", lambda: rim(lambda t: t.replace('alternatives="1"', 'alternatives="3"', 1)), "MalformedRim"),
    ("a size of 47", lambda: rim(lambda t: t.replace('size="48"', 'size="47"', 1)), "MalformedRim"),
    ("an index twice", lambda: rim(lambda t: t.replace('index="1"', 'index="0"', 1)), "MalformedRim"),
    ("63 entries", lambda: rim(entries=63), "MalformedRim"),
    ("65 entries", lambda: rim(entries=65), "MalformedRim"),
    ("a hash in upper case", lambda: rim(lambda t: t.replace('Hash0="', 'Hash0="A', 1)), "MalformedRim"),
    ("two payloads", lambda: rim(lambda t: t.replace("</ns0:Payload>", "</ns0:Payload><ns0:Payload></ns0:Payload>")), "MalformedRim"),
    ("another manufacturer", lambda: rim(lambda t: t.replace('"5703"', '"5704"')), "MalformedRim"),
    ("another digest algorithm", lambda: resigned_info(lambda i: i.replace("xmldsig-more#sha384", "xmldsig#sha1")), "MalformedRim"),
    ("a reference by id", lambda: resigned_info(lambda i: i.replace('URI=""', 'URI="#x"')), "MalformedRim"),
    ("canonical form with comments", lambda: resigned_info(lambda i: i.replace("xml-c14n11", "xml-c14n11#WithComments")), "MalformedRim"),
    ("another digest", lambda: resigned_info(lambda i: i.replace("<ds:DigestValue>", "<ds:DigestValue>AAAA")), "MalformedRim"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "code"), [row[1:] for row in RIMS], ids=[row[0] for row in RIMS])
def test_reference_values_with_one_thing_wrong(make: Callable[[], tuple[bytes, ...]], code: str) -> None:
    with pytest.raises(AttestationError) as e:
        GpuCase(rims=make()).verified()
    assert e.value.code == code


# ---- revocation


def answer(**changes: Any) -> tuple[bytes, ...]:
    """Answer about the device's own CA otherwise than a good responder would; the other answers stay."""
    device = machine("spt", 1)[0]
    subject, issuer = device.chain[1], authority().issuers["GH100-ica"]
    responder = changes.pop("responder", None) or issuer.responder("NVIDIA OCSP Responder")
    subject = changes.pop("subject", subject)
    window = changes.pop("window", (NOW - timedelta(minutes=10), NOW + LIFETIME))
    made = respond(subject, changes.pop("issuer", issuer.certificate), responder, window=window, **changes)
    return (made, *ocsp_responses("spt", 1)[1:])


def stranger(role: str) -> Any:
    """Give a responder of another issuer."""
    return authority().issuers[role].responder("NVIDIA OCSP Responder")


HOLD, STOLEN = x509.ReasonFlags.certificate_hold, x509.ReasonFlags.key_compromise
REVOKED, UNKNOWN = ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
OCSP: list[tuple[str, Callable[[], tuple[bytes, ...]], str]] = [
    ("revoked", lambda: answer(status=REVOKED, reason=STOLEN), "OcspRevoked"),
    ("on hold", lambda: answer(status=REVOKED, reason=HOLD), "OcspRevoked"),
    ("unknown", lambda: answer(status=UNKNOWN), "OcspUnknown"),
    ("over", lambda: answer(window=(NOW - 2 * DAY, NOW - DAY)), "OcspExpired"),
    ("of tomorrow", lambda: answer(window=(NOW + DAY, NOW + 2 * DAY)), "OcspNotYetValid"),
    ("without an end", lambda: answer(window=(NOW - DAY, None)), "OcspExpired"),
    ("about a stranger", lambda: answer(subject=make_device(authority()).chain[1]), "OcspMismatch"),
    ("by a responder of another issuer", lambda: answer(responder=stranger("rim-ca")), "OcspSignatureInvalid"),
    ("by a responder without its purpose", lambda: answer(responder=authority().issuers["GH100-ica"]), "CertificateRoleMismatch"),
    ("rubbish", lambda: (b"x", *ocsp_responses("spt", 1)[1:]), "MalformedOcsp"),
    ("tryLater", lambda: (b"\x30\x03\x0a\x01\x03", *ocsp_responses("spt", 1)[1:]), "OcspUnknown"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "code"), [row[1:] for row in OCSP], ids=[row[0] for row in OCSP])
def test_answers_about_revocation_with_one_thing_wrong(make: Callable[[], tuple[bytes, ...]], code: str) -> None:
    with pytest.raises(AttestationError) as e:
        GpuCase(ocsp=make()).verified()
    assert e.value.code == code


# ---- sets


UNLINKED = opaque(lambda found: [(n, bytes(144) if n == 22 and len(v) == 144 else v) for n, v in found])
FOUR = GpuCase(mode="mpt", count=4)
STALE = GpuCase(mode="mpt", count=4, nonce=bytes(32))
SETS: list[tuple[str, dict[str, Any], str]] = [
    ("a GPU twice", {"devices": lambda d: [d[0], d[0]]}, "GpuDuplicateDevice"),
    ("nobody", {"devices": lambda _: []}, "GpuEvidenceMissing"),
    ("two of two modes", {"devices": lambda d: [*d, *FOUR.evidence()[:1]]}, "RimMismatch"),
    ("seven of eight", {"mode": "ppcie", "devices": lambda d: d[1:], "ocsp": ()}, "GpuTopologyInvalid"),
    ("three switches of four", {"mode": "ppcie", "devices": lambda d: d[:-1], "ocsp": ()}, "GpuTopologyInvalid"),
    ("switches alone", {"mode": "ppcie", "devices": lambda d: d[8:], "ocsp": ()}, "GpuEvidenceMissing"),
    ("no links", {"mode": "ppcie", "fields": UNLINKED}, "GpuTopologyInvalid"),
    ("one with another nonce", {"mode": "mpt", "count": 4, "devices": lambda d: [*d[:3], STALE.evidence()[3]]}, "GpuNonceMismatch"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in SETS], ids=[row[0] for row in SETS])
def test_devices_that_make_no_machine(changes: dict[str, Any], code: str) -> None:
    with pytest.raises(AttestationError) as e:
        GpuCase(**changes).verified()
    assert e.value.code == code


# ---- appraisal


def state(**changes: int) -> dict[str, Any]:
    return {"cc_state": CC_STATE | changes}


APPRAISALS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("another measurement", {"fields": measurement(3, bytes(48))}, {}, "GpuMeasurementMismatch"),
    ("confidential computing off", state(cc_feature=0), {}, "GpuModeRejected"),
    ("developer tools on", state(dev_tools=1), {}, "GpuModeRejected"),
    ("a simulated environment", state(environment=1), {}, "GpuModeRejected"),
    ("another multi-GPU mode", state(multi_gpu_mode=1), {}, "GpuModeRejected"),
    ("two GPUs wanted", {}, {"count": 2}, "GpuCountRejected"),
    ("another mode wanted", {}, {"modes": ["mpt"]}, "GpuModeRejected"),
    ("another chip wanted", {}, {"chips": ["GB100"]}, "GpuNotAllowed"),
    ("a newer driver wanted", {}, {"min_driver": "999.2"}, "GpuDriverRejected"),
    ("a VBIOS denied", {}, {"denied_vbios": ["96.00.00.00.01"]}, "GpuVbiosRejected"),
    ("another device wanted", {}, {"devices": ["12345"]}, "GpuNotAllowed"),
    ("other reference values wanted", {}, {"rims": ["00" * 32]}, "RimMismatch"),
    ("an answer missing", {"ocsp": ()}, {}, "GpuRevocationRejected"),
    ("no reference values", {"rims": (), "ocsp": ()}, {}, "RimMissing"),
]


@pytest.mark.parametrize(
    ("changes", "policy", "code"), [row[1:] for row in APPRAISALS], ids=[row[0] for row in APPRAISALS]
)
def test_a_policy_refuses(changes: dict[str, Any], policy: dict[str, Any], code: str) -> None:
    refused = {f.code for f in GpuCase(**changes).findings(**policy) if not f.holds}
    assert code in refused


def test_evidence_of_the_epoch_is_not_fresh_for_a_client() -> None:
    from attestation.gpu.appraise import appraise_gpus
    from attestation.gpu.evidence import NONCE_EPOCH

    policy = GpuPolicy.parse(GpuPolicy.strict_template(), "gpu")
    found = appraise_gpus(GpuCase().verified(), policy, nonce_kind=NONCE_EPOCH, now=NOW)
    assert [f.rule for f in found if not f.holds] == ["gpu.fresh"]


def test_a_mismatch_is_excused_index_by_index() -> None:
    case = GpuCase(fields=measurement(3, bytes(48)))
    assert all(f.holds for f in case.findings(mismatch={"3": "known to be wrong in this release"}))
    assert not all(f.holds for f in case.findings(mismatch={"4": "another one"}))


INVALID: list[tuple[str, Any]] = [
    ("fresh", "boot"), ("count", 0), ("count", True), ("chips", []), ("chips", ["GA100"]), ("modes", ["off"]),
    ("min_driver", "latest"), ("denied_vbios", ["x"]), ("devices", ["0"]), ("revocation", "none"), ("rims", ["00"]),
    ("firmware_identity", "optional"), ("mismatch", {"64": "x"}), ("mismatch", {"3": ""}), ("uncovered", []),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), INVALID, ids=[f"{f} {v}" for f, v in INVALID])
def test_a_gpu_clause_of_another_form_is_invalid(field: str, value: Any) -> None:
    with pytest.raises(PolicyInvalid):
        GpuPolicy.parse(GpuPolicy.strict_template() | {field: value}, "gpu")


# ---- nonces and parsers


def test_each_kind_of_nonce_has_one_size() -> None:
    assert len({gpu_nonce(0, bytes(16)), gpu_nonce(1, bytes(32)), gpu_nonce(2, bytes(64))}) == 3
    for kind, size in ((0, 32), (1, 16), (2, 32), (3, 32)):
        with pytest.raises(ValueError, match="GPU nonce"):
            gpu_nonce(kind, bytes(size))


@settings(max_examples=150, deadline=None)
@forall(st.integers(0, 4200), st.binary(max_size=60))
def test_only_typed_errors_leave_the_parsers(at: int, noise: bytes) -> None:
    report, document = GpuCase().evidence()[0].report, rims("GH100")[0]
    for data, reader in (
        (report, lambda d: parse_report(d, kind="gpu")),
        (document, lambda d: verify_rim(d, anchor=anchor())),
    ):
        try:
            reader(data[:at] + noise + data[at + len(noise) :])
        except AttestationError:
            continue


def test_a_measurement_that_nobody_vouches_for_is_uncovered() -> None:
    found = GpuCase(fields=measurement(50, golden("GH100", 50))).findings()
    assert {f.code for f in found if not f.holds} <= {"GpuMeasurementUncovered"}


def test_the_nonce_is_compared_whole() -> None:
    for at in (0, 31):
        bent = bytearray(NONCE)
        bent[at] ^= 1
        with pytest.raises(AttestationError, match="GpuNonceMismatch"):
            GpuCase(nonce=bytes(bent)).verified()
