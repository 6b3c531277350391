# SPDX-License-Identifier: Apache-2.0
"""The endorsements of one platform model, as they were signed: TCB info, QE identity, two CRLs, issuer chains."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from .. import strict_json
from ..errors import Malformed
from .certificates import MAX_PEM
from .crl import MAX_CRL
from .qeidentity import MAX_QE_IDENTITY
from .signed_json import Fields, Names
from .tcbinfo import MAX_TCB_INFO

MAX_COLLATERAL: Final = 1 << 20

_CODE: Final = "JsonInvalid"
_TEXTS: Final = {
    "pck_crl_issuer_chain": MAX_PEM,
    "tcb_info_issuer_chain": MAX_PEM,
    "tcb_info": MAX_TCB_INFO,
    "qe_identity_issuer_chain": MAX_PEM,
    "qe_identity": MAX_QE_IDENTITY,
}
_HEX: Final = {"root_ca_crl": MAX_CRL, "pck_crl": MAX_CRL}
_SIGNATURES: Final = ("tcb_info_signature", "qe_identity_signature")
_NAMES: Final = Names(*_TEXTS, *_HEX, *_SIGNATURES, optional=("pck_certificate_chain",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """Raw endorsements. Texts keep every byte that a signature covers; nothing is verified."""

    pck_crl_issuer_chain: bytes  # PEM; unused: the CRL must be signed by the quote's own PCK CA
    root_ca_crl: bytes  # DER
    pck_crl: bytes  # DER
    tcb_info_issuer_chain: bytes  # PEM
    tcb_info: bytes  # the exact JSON text
    tcb_info_signature: bytes  # 64, r || s
    qe_identity_issuer_chain: bytes  # PEM
    qe_identity: bytes  # the exact JSON text
    qe_identity_signature: bytes  # 64, r || s

    @classmethod
    def from_json(cls, data: bytes) -> Collateral:
        """Read the JSON document that dcap-qvl and PCCS tools write. Raises Malformed."""
        value = strict_json.loads(data, limit=MAX_COLLATERAL, what="collateral")
        f = Fields(value, "collateral", _NAMES, code=_CODE)
        texts = {name: f.text(name, limit).encode("utf-8", "surrogatepass") for name, limit in _TEXTS.items()}
        crls = {name: _hex(f, name, 2 * limit) for name, limit in _HEX.items()}
        signatures = {name: f.hexa(name, 64) for name in _SIGNATURES}
        return cls(**texts, **crls, **signatures)

    @property
    def parts(self) -> tuple[bytes, ...]:
        """Every part that verification looks at."""
        documents = (self.tcb_info, self.tcb_info_signature, self.qe_identity, self.qe_identity_signature)
        chains = (self.tcb_info_issuer_chain, self.qe_identity_issuer_chain)
        return (self.root_ca_crl, self.pck_crl, *chains, *documents)

    def to_json(self) -> bytes:
        """Write the document that `from_json` reads."""
        document = {name: getattr(self, name).decode("utf-8", "surrogatepass") for name in _TEXTS}
        document |= {name: getattr(self, name).hex() for name in (*_HEX, *_SIGNATURES)}
        return json.dumps(document, sort_keys=True).encode()


def _hex(f: Fields, name: str, limit: int) -> bytes:
    text = f.text(name, limit)
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if not data or 2 * len(data) != len(text):
        raise Malformed(_CODE, f"collateral.{name}", want="hex", got="another form")
    return data
