# SPDX-License-Identifier: Apache-2.0
"""When an answer holds: the intersection of every validity window it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime


def require_aware(now: datetime) -> datetime:
    """Give `now` in UTC. A time without a zone is the caller's bug: ValueError."""
    if now.tzinfo is None:
        raise ValueError("now needs a time zone")
    return now.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """Holds from `not_before` (inclusive) until `not_after` (exclusive), both in UTC."""

    not_before: datetime
    not_after: datetime

    def meet(self, *others: Window) -> Window:
        """Give the intersection with `others`. It may be empty; `holds` is then never true."""
        begins, ends = self.not_before, self.not_after
        for other in others:
            begins, ends = max(begins, other.not_before), min(ends, other.not_after)
        return Window(begins, ends)

    def holds(self, now: datetime) -> bool:
        """Tell whether `now` lies inside."""
        if now.tzinfo is None:
            raise ValueError("now needs a time zone")
        return self.not_before <= now < self.not_after

    def to_json(self) -> dict[str, str]:
        """Give the window as RFC 3339 times."""
        return {"not_before": rfc3339(self.not_before), "not_after": rfc3339(self.not_after)}


def rfc3339(when: datetime) -> str:
    """Print a time as RFC 3339 in UTC with whole seconds."""
    return require_aware(when).strftime("%Y-%m-%dT%H:%M:%SZ")
