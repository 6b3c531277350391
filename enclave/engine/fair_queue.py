# SPDX-License-Identifier: Apache-2.0
"""Answers: who is next? Tenants take turns; within a tenant the earliest deadline goes first."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(order=True, slots=True)
class _Entry(Generic[Item]):
    deadline: float
    number: int
    key: int = field(compare=False)
    item: Item = field(compare=False)


class FairQueue(Generic[Item]):
    """A bounded queue. A quarter of it is kept from whichever tenant has the most waiting."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._share = max(1, limit - limit // 4)
        self._tenants: OrderedDict[bytes, list[_Entry[Item]]] = OrderedDict()
        self._where: dict[int, bytes] = {}
        self._number = 0
        self.earliest = math.inf  # no deadline in the queue is before this; a lower bound between two `expired`

    def __len__(self) -> int:
        return len(self._where)

    def __iter__(self) -> Iterator[Item]:
        return (entry.item for waiting in self._tenants.values() for entry in waiting)

    def __contains__(self, key: int) -> bool:
        return key in self._where

    def put(self, tenant: bytes, deadline: float, key: int, item: Item) -> bool:
        """Add an item; False when the queue, or this tenant's share of it, is full."""
        waiting = self._tenants.get(tenant, [])
        if len(self._where) >= self._limit or len(waiting) >= self._share:
            return False
        self._number += 1
        heapq.heappush(waiting, _Entry(deadline, self._number, key, item))
        self._tenants[tenant] = waiting
        self._where[key] = tenant
        self.earliest = min(self.earliest, deadline)
        return True

    def pop(self) -> Item | None:
        """Take the next item, or None. The tenant it came from goes to the end of the line."""
        if not self._tenants:
            return None
        tenant, waiting = next(iter(self._tenants.items()))
        entry = heapq.heappop(waiting)
        self._tenants.move_to_end(tenant)
        if not waiting:
            del self._tenants[tenant]
        del self._where[entry.key]
        return entry.item

    def remove(self, key: int) -> Item | None:
        """Take one item out of the line."""
        tenant = self._where.pop(key, None)
        if tenant is None:
            return None
        waiting = self._tenants[tenant]
        entry = next(entry for entry in waiting if entry.key == key)
        waiting.remove(entry)
        heapq.heapify(waiting)
        if not waiting:
            del self._tenants[tenant]
        return entry.item

    def expired(self, now: float) -> list[Item]:
        """Take out everything whose deadline has passed."""
        keys = [entry.key for waiting in self._tenants.values() for entry in waiting if entry.deadline <= now]
        late = [item for key in keys if (item := self.remove(key)) is not None]
        self.earliest = min((waiting[0].deadline for waiting in self._tenants.values()), default=math.inf)
        return late
