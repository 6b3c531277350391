# SPDX-License-Identifier: Apache-2.0
"""What can go wrong outside of evidence: the network, an unknown outcome, an authenticated no."""

from __future__ import annotations

from typing import ClassVar


class ClientError(Exception):
    """Base of the client's own errors; `code` is stable."""

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "ClientError"

    def to_json(self) -> dict[str, object]:
        """Give the error as the documented JSON object."""
        return {"code": self.code, "where": "client", "want": "", "got": str(self)}


class Unreachable(ClientError):
    """The network or a server did not answer, or answered nothing that can be believed. Try again."""

    exit_code = 6
    code = "Unreachable"


class RunOutcomeUnknown(ClientError):
    """Bytes of a request have left, and whether it ran cannot be known. Running elsewhere is the caller's decision."""

    exit_code = 6
    code = "RunOutcomeUnknown"


class UsageFault(ClientError):
    """The command line or a configuration file is wrong."""

    exit_code = 2
    code = "Usage"


class Declined(ClientError):
    """The enclave itself said no, sealed and authenticated."""

    exit_code = 7
    code = "Declined"

    def __init__(self, refusal: str, *, retry_after: int | None = None, field: str | None = None) -> None:
        self.refusal = refusal
        self.retry_after = retry_after
        self.field = field
        text = refusal + (f" ({field})" if field else "")
        super().__init__(text + (f"; try again in {retry_after} s" if retry_after is not None else ""))

    def to_json(self) -> dict[str, object]:
        """Give the error with the enclave's own code."""
        more = {"refusal": self.refusal, "retry_after": self.retry_after, "field": self.field}
        return super().to_json() | more
