# SPDX-License-Identifier: Apache-2.0
"""Every parser of bytes that a stranger writes, with good inputs to begin from: for hypothesis and for the campaign."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from attestation.gpu.anchor import GpuTrustAnchor
from attestation.gpu.chain import verify_chain
from attestation.gpu.eat import parse_keys, verify_eat
from attestation.gpu.evidence import GpuDeviceEvidence, GpuEndorsementSet, GpuEvidence
from attestation.gpu.opaque import decode_opaque
from attestation.gpu.revocation import check_revocation
from attestation.gpu.rim import verify_rim
from attestation.gpu.rimxml import canonical, parse_xml
from attestation.gpu.spdm import parse_report
from attestation.tdx.anchor import SIMULATED_NAMES, TdxTrustAnchor
from attestation.tdx.certificates import split_pem
from attestation.tdx.collateral import Collateral
from attestation.tdx.crl import verify_crl
from attestation.tdx.eventlog import parse_event_log, replay
from attestation.tdx.pck import Platform, platform_of
from attestation.tdx.qeidentity import QeIdentity
from attestation.tdx.quote import Quote
from attestation.tdx.tcbinfo import TcbInfo
from attestation.tdx.verify import verify_quote
from enclave.simulator.tdx_platform import sgx_extension
from tests import gpu_cases, tdx_cases
from tests.tdx_cases import Case


@dataclass(frozen=True, slots=True)
class Parser:
    """A reader of hostile bytes. `limit` is the longest input that it looks at."""

    name: str
    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    limit: int = 65536


@cache
def case(version: int) -> Case:
    return Case.new(1, version=version).build()


def quotes() -> list[bytes]:
    return [case(4).signed, case(5).signed]


def collateral() -> Collateral:
    return Collateral.from_json(case(4).text)


def verified_quote(data: bytes) -> object:
    anchor = TdxTrustAnchor(root_sha256=tdx_cases.authority().root_sha256, names=SIMULATED_NAMES)
    return verify_quote(data, collateral(), anchor=anchor, now=tdx_cases.NOW)


def revocation_list(data: bytes) -> object:
    from attestation.tdx.certificates import verify_pck_chain
    from attestation.tdx.memory import NoMemory

    anchor = TdxTrustAnchor(root_sha256=tdx_cases.authority().root_sha256, names=SIMULATED_NAMES)
    chain = Quote.parse(case(4).signed).auth.chain
    _, ca, _ = verify_pck_chain(chain, anchor=anchor, now=tdx_cases.NOW, memory=NoMemory())
    return verify_crl(data, ca, name="pck_crl", now=tdx_cases.NOW)


def event_logs() -> list[bytes]:
    from tests.test_tdx_eventlog import binary

    events = [{"imr": i % 4, "event_type": 3, "digest": "ab" * 48, "event_payload": "00"} for i in range(8)]
    return [binary(), json.dumps(events).encode()]


def gpu_anchor() -> GpuTrustAnchor:
    return gpu_cases.anchor()


def reports() -> list[bytes]:
    return [d.report(gpu_cases.NONCE) for d in (gpu_cases.machine("spt", 1)[0], gpu_cases.machine("mpt", 1)[0])]


def answers(data: bytes) -> object:
    links = verify_chain(gpu_cases.machine("spt", 1)[0].pem, kind="gpu", anchor=gpu_anchor()).links
    organizations = gpu_anchor().organizations
    return check_revocation(links, responses=[data], crls=(), organizations=organizations, now=gpu_cases.NOW)


def gpu_crl(data: bytes) -> object:
    links = verify_chain(gpu_cases.machine("spt", 1)[0].pem, kind="gpu", anchor=gpu_anchor()).links
    organizations = gpu_anchor().organizations
    return check_revocation(links, responses=(), crls=[data], organizations=organizations, now=gpu_cases.NOW)


def gpu_crls() -> list[bytes]:
    from tests.test_gpu_endorsements import SERIAL, crl

    return [crl(), crl(revoked=[SERIAL ^ 1])]


def tokens() -> list[bytes]:
    from tests.test_gpu_eat import Token

    return [Token().encode()]


def token(data: bytes) -> object:
    from tests.test_gpu_eat import KID, key

    return verify_eat(data, keys={KID: key().public_key()}, nonce=gpu_cases.NONCE, now=gpu_cases.NOW)


def key_sets() -> list[bytes]:
    from tests.test_gpu_eat import jwk

    return [json.dumps({"keys": [jwk(), jwk(kid="second")]}).encode()]


def gpu_evidence(data: bytes) -> object:
    from attestation import cbor

    return GpuEvidence.from_map(cbor.decode(data, what="gpu", code="MalformedEvidence", limit=65536))


def gpu_maps() -> list[bytes]:
    from attestation import cbor

    devices = tuple(
        GpuDeviceEvidence(kind="gpu", report=r, chain=gpu_cases.machine("spt", 1)[0].pem, cc_state={"ready": 1})
        for r in reports()[:1]
    )
    empty = GpuEndorsementSet(rims=(b"<a/>",), ocsp=(b"x",), crls=())
    made = GpuEvidence(nonce_kind=1, devices=devices, boot_devices=devices, endorsements=empty)
    return [cbor.encode(made.to_map())]


def evidence_list(data: bytes) -> object:
    from tempfile import NamedTemporaryFile

    from client.errors import UsageFault
    from client.gpu_report import read_list

    with NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        try:
            return read_list(Path(file.name))
        except UsageFault:
            return None


def evidence_lists() -> list[bytes]:
    pem = gpu_cases.machine("spt", 1)[0].pem
    item = {"evidence": b64encode(reports()[0]).decode(), "certificate": b64encode(pem).decode()}
    return [json.dumps([item]).encode()]


def opaque_of(kind: str) -> list[bytes]:
    devices = [gpu_cases.machine("ppcie", 1)[8]] if kind == "switch" else [gpu_cases.machine("spt", 1)[0]]
    return [parse_report(device.report(gpu_cases.NONCE), kind=kind).opaque for device in devices]


def read_chain(data: bytes) -> object:
    return verify_chain(data, kind="gpu", anchor=gpu_anchor())


PARSERS: tuple[Parser, ...] = (
    Parser("quote", Quote.parse, quotes),
    Parser("quote-verify", verified_quote, quotes),
    Parser("collateral", Collateral.from_json, lambda: [case(4).text]),
    Parser("tcb-info", TcbInfo.parse, lambda: [collateral().tcb_info]),
    Parser("qe-identity", QeIdentity.parse, lambda: [collateral().qe_identity]),
    Parser("pck-extension", Platform.parse, lambda: [sgx_extension(tdx_cases.PLATFORM).value]),
    Parser("pck", platform_of, lambda: [tdx_cases.authority().pck.certificate.public_bytes(Encoding.DER)]),
    Parser("pck-chain", lambda d: split_pem(d, 3, "chain"), lambda: [Quote.parse(case(4).signed).auth.chain]),
    Parser("tdx-crl", revocation_list, lambda: [collateral().pck_crl]),
    Parser("event-log", lambda d: replay(parse_event_log(d)), event_logs),
    Parser("spdm", lambda d: parse_report(d, kind="gpu"), reports),
    Parser("opaque-gpu", lambda d: decode_opaque(d, kind="gpu"), lambda: opaque_of("gpu")),
    Parser("opaque-switch", lambda d: decode_opaque(d, kind="switch"), lambda: opaque_of("switch")),
    Parser("gpu-chain", read_chain, lambda: [gpu_cases.machine("spt", 1)[0].pem]),
    Parser("rim-xml", lambda d: canonical(parse_xml(d)), lambda: list(gpu_cases.rims("GH100"))),
    Parser("rim", lambda d: verify_rim(d, anchor=gpu_anchor()), lambda: list(gpu_cases.rims("GH100"))),
    Parser("ocsp", answers, lambda: list(gpu_cases.ocsp_responses("spt", 1))[:2]),
    Parser("gpu-crl", gpu_crl, gpu_crls),
    Parser("eat", token, tokens),
    Parser("eat-keys", parse_keys, key_sets),
    Parser("gpu-evidence", gpu_evidence, gpu_maps),
    Parser("gpu-evidence-list", evidence_list, evidence_lists),
)  # fmt: skip
