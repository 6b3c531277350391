# SPDX-License-Identifier: Apache-2.0
"""What an appraisal found, clause by clause. Truth is decided elsewhere; this is acceptance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from .errors import PolicyInvalid

T = TypeVar("T")


class Finding(NamedTuple):
    """One clause of a policy and whether it holds. `code` names the refusal when it does not.

    A tuple, because each verdict makes dozens; write its fields by name.
    """

    rule: str
    holds: bool
    code: str
    want: str
    got: str
    waived: str | None = None

    def to_json(self) -> dict[str, object]:
        """Give the finding as the documented JSON object."""
        return {
            "rule": self.rule,
            "holds": self.holds,
            "code": None if self.holds else self.code,
            "want": self.want,
            "got": self.got,
            "waived": self.waived,
        }


@dataclass(frozen=True, slots=True)
class Waived:
    """A clause that the policy's author gave up, and why. Printed in every verdict."""

    reason: str


@dataclass(frozen=True, slots=True)
class Given(Generic[T]):
    """A clause that the policy's author set."""

    value: T


def clause(rule: str, code: str, *, holds: bool, want: object, got: object) -> Finding:
    """Make the finding of a clause that was given."""
    return Finding(rule=rule, holds=holds, code=code, want=str(want), got=str(got))


def waiver(rule: str, waived: Waived, *, got: object = "") -> Finding:
    """Make the finding of a clause that was waived: it holds, visibly."""
    return Finding(rule=rule, holds=True, code="", want="waived", got=str(got), waived=waived.reason)


def require_keys(
    value: object, where: str, *, required: Iterable[str], optional: Iterable[str] = ()
) -> dict[str, object]:
    """Require a policy section to be an object with exactly these keys; unknown ones are PolicyInvalid."""
    if not isinstance(value, dict):
        raise PolicyInvalid(where, want="an object", got=type(value).__name__)
    need, may = frozenset(required), frozenset(optional)
    for key in sorted(need - value.keys()):
        raise PolicyInvalid(f"{where}.{key}", want="given, or waived with a reason", got="absent")
    for key in sorted(value.keys() - need - may):
        raise PolicyInvalid(f"{where}.{key}", want="a known field", got="unknown")
    return dict(value)


def waived_or(value: object, where: str) -> Waived | object:
    """Recognise ``{"waived": "reason"}``; give anything else back unchanged."""
    if isinstance(value, dict) and value.keys() == {"waived"}:
        reason = value["waived"]
        if not isinstance(reason, str) or not reason.strip() or len(reason) > 500:
            raise PolicyInvalid(f"{where}.waived", want="a reason of 1 to 500 characters", got=type(reason).__name__)
        return Waived(reason)
    return value
