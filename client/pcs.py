# SPDX-License-Identifier: Apache-2.0
"""Fetch collateral from Intel's Provisioning Certification Service or a PCCS. Transport only: nothing here is trusted.

Every byte is verified later, by `attestation.tdx.verify`; a lying server costs time and nothing else (PCS API v4).
"""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httpx2

from attestation.errors import AttestationError
from attestation.tdx.certificates import split_pem
from attestation.tdx.collateral import Collateral
from attestation.tdx.pck import platform_of
from attestation.tdx.quote import Quote

from .errors import Unreachable, UsageFault

INTEL_PCS: Final = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL: Final = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
MAX_BODY: Final = 512 * 1024
MAX_HEADER: Final = 32 * 1024
TIMEOUT: Final = 20.0  # seconds of silence
TOTAL_SECONDS: Final = 90.0  # for one answer
UPDATES: Final = ("standard", "early")
_TDX: Final = "/tdx/certification/v4"
_SGX: Final = "/sgx/certification/v4"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformModel:
    """What collateral is fetched for: no platform is named, only its model."""

    fmspc: str  # 12 hex digits
    ca: str  # "platform" or "processor"

    @classmethod
    def of_quote(cls, data: bytes) -> PlatformModel:
        """Read it off a quote's PCK certificate. Raises AttestationError."""
        chain = split_pem(Quote.parse(data).auth.chain, 3, "pck_chain")
        ca = "processor" if b"Processor CA" in chain[1] else "platform"
        return cls(fmspc=platform_of(chain[0]).fmspc.hex(), ca=ca)


def update_query(update: str) -> str:
    """Turn --update into a query: standard, early, or a tcbEvaluationDataNumber. Raises UsageFault."""
    if update in UPDATES:
        return f"update={update}"
    if re.fullmatch(r"[0-9]{1,9}", update):
        return f"tcbEvaluationDataNumber={int(update)}"
    raise UsageFault(f"--update is {' or '.join(UPDATES)}, or a tcbEvaluationDataNumber")


class PcsClient:
    """Fetches the four parts and their chains: https only, bounded, no redirects."""

    def __init__(self, url: str = INTEL_PCS, *, client: httpx2.Client | None = None) -> None:
        base = url.rstrip("/")
        parts = urllib.parse.urlsplit(base)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
            raise UsageFault(f"{url}: an https address is needed")
        self._base = base
        self._intel = base == INTEL_PCS
        self._client = client

    def question(self, model: PlatformModel, update: str) -> str:
        """Name what `fetch` would ask, for a cache."""
        return f"{self._base} {model.fmspc} {model.ca} {update_query(update)}"

    def fetch(self, model: PlatformModel, *, update: str = "standard", step: Callable[[str], None]) -> Collateral:
        """Fetch everything for one platform model. Raises Unreachable; `step` is told what is being fetched."""
        query = update_query(update)
        step("TCB info")
        tcb, tcb_chain = self._get(f"{_TDX}/tcb?fmspc={model.fmspc}&{query}", "TCB-Info-Issuer-Chain")
        step("QE identity")
        qe, qe_chain = self._get(f"{_TDX}/qe/identity?{query}", "SGX-Enclave-Identity-Issuer-Chain")
        step("PCK CRL")
        crl, crl_chain = self._get(f"{_SGX}/pckcrl?ca={model.ca}&encoding=der", "SGX-PCK-CRL-Issuer-Chain")
        step("root CRL")
        root_crl = self._root_crl()
        info, info_signature = signed_part(tcb, "tcbInfo")
        identity, identity_signature = signed_part(qe, "enclaveIdentity")
        return Collateral(
            pck_crl_issuer_chain=crl_chain,
            root_ca_crl=root_crl,
            pck_crl=crl,
            tcb_info_issuer_chain=tcb_chain,
            tcb_info=info,
            tcb_info_signature=info_signature,
            qe_identity_issuer_chain=qe_chain,
            qe_identity=identity,
            qe_identity_signature=identity_signature,
        )

    def _root_crl(self) -> bytes:
        if self._intel:
            return self._body(INTEL_ROOT_CRL)[0]
        body, _ = self._body(f"{self._base}{_SGX}/rootcacrl")
        # A PCCS answers in hex, Intel in DER.
        return bytes.fromhex(body.decode()) if re.fullmatch(rb"(?:[0-9a-fA-F]{2})+", body) else body

    def _get(self, path: str, header: str) -> tuple[bytes, bytes]:
        """Give a body and the issuer chain that its header carries."""
        body, headers = self._body(self._base + path)
        chain = headers.get(header, "")
        if not chain or len(chain) > MAX_HEADER:
            raise Unreachable(f"{self._base}: the answer has no {header}")
        return body, urllib.parse.unquote(chain).encode("utf-8", "surrogatepass")

    def _body(self, url: str) -> tuple[bytes, httpx2.Headers]:
        """Make one request, bounded in bytes and in time, whatever lengths or encodings the server names."""
        ends = time.monotonic() + TOTAL_SECONDS
        if self._client is None:  # made for the first question: most clients never ask one
            self._client = httpx2.Client(timeout=TIMEOUT, follow_redirects=False)
        try:
            with self._client.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
                if answer.status_code != 200:
                    raise Unreachable(f"{url}: status {answer.status_code}")
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise Unreachable(f"{url}: an encoding that was not asked for")
                data = bytearray()
                for portion in answer.iter_raw():
                    data += portion
                    if len(data) > MAX_BODY:
                        raise Unreachable(f"{url}: more than {MAX_BODY} bytes")
                    if time.monotonic() > ends:
                        raise Unreachable(f"{url}: not done after {TOTAL_SECONDS:.0f} s")
                return bytes(data), answer.headers
        except httpx2.HTTPError as e:
            raise Unreachable(f"{url}: {type(e).__name__}") from None


def signed_part(body: bytes, name: str) -> tuple[bytes, bytes]:
    """Cut the exact signed text and the signature out of {"name": {...}, "signature": "hex"}. Raises Unreachable.

    Only this one shape is read: the text is what stands between the two, byte for byte.
    """
    found = re.fullmatch(
        rb'\s*\{\s*"' + name.encode() + rb'"\s*:\s*(\{.*\})\s*,\s*"signature"\s*:\s*"([0-9a-fA-F]{128})"\s*\}\s*',
        body,
        re.DOTALL,
    )
    if found is None:
        raise Unreachable(f"the server's answer is no signed {name}")
    return found[1], bytes.fromhex(found[2].decode())


def model_of(data: bytes) -> PlatformModel:
    """Give the platform model of a quote. Raises UsageFault for a file that is no quote."""
    try:
        return PlatformModel.of_quote(data)
    except AttestationError as e:
        raise UsageFault(f"not a quote whose platform can be read: {e}") from None
