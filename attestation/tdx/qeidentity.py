# SPDX-License-Identifier: Apache-2.0
"""Which quoting enclave is genuine? QE identity v2 with id TD_QE (Intel PCS API v4, Get TDX QE Identity)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from .. import strict_json
from .signed_json import Fields, Names
from .tcbinfo import SvnLevel, read_svn_levels

MAX_QE_IDENTITY: Final = 64 * 1024

_NAMES: Final = Names(
    "id", "version", "issueDate", "nextUpdate", "tcbEvaluationDataNumber", "miscselect", "miscselectMask", "attributes",
    "attributesMask", "mrsigner", "isvprodid", "tcbLevels",
)  # fmt: skip
_CODE: Final = "QeIdentityInvalid"
_UNSUPPORTED: Final = "QeIdentityUnsupported"


@dataclass(frozen=True, slots=True, kw_only=True)
class QeIdentity:
    """Parsed QE identity. Its signature is the verifier's business."""

    issue_date: datetime
    next_update: datetime
    evaluation_data_number: int
    misc_select: bytes  # 4
    misc_select_mask: bytes  # 4
    attributes: bytes  # 16
    attributes_mask: bytes  # 16
    mr_signer: bytes  # 32
    isv_prod_id: int
    levels: tuple[SvnLevel, ...]  # highest first; may be empty, and then nothing reaches one

    @classmethod
    def parse(cls, data: bytes) -> QeIdentity:
        """Parse the exact signed text. Raises Malformed."""
        value = strict_json.loads(data, limit=MAX_QE_IDENTITY, what="qe_identity")
        f = Fields(value, "qe_identity", _NAMES, code=_CODE)
        for name, want in (("id", "TD_QE"), ("version", 2)):
            f.require(name, want, code=_UNSUPPORTED)
        return cls(
            issue_date=f.time("issueDate"),
            next_update=f.time("nextUpdate"),
            evaluation_data_number=f.uint("tcbEvaluationDataNumber", 2**31),
            misc_select=f.hexa("miscselect", 4),
            misc_select_mask=f.hexa("miscselectMask", 4),
            attributes=f.hexa("attributes", 16),
            attributes_mask=f.hexa("attributesMask", 16),
            mr_signer=f.hexa("mrsigner", 32),
            isv_prod_id=f.uint("isvprodid", 65535),
            levels=read_svn_levels(f, code=_CODE, least=0, most=65535),
        )
