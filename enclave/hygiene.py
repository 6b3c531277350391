# SPDX-License-Identifier: Apache-2.0
"""Keep secrets out of core dumps, debuggers and swap, as far as the kernel lets this process."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from dataclasses import dataclass
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_PR_GET_DUMPABLE: Final = 3
_MCL_ALL: Final = 1 | 2 | 4  # current, future, as they are touched


@dataclass(frozen=True, slots=True, kw_only=True)
class HygieneState:
    """What holds now."""

    core_limit: int
    dumpable: bool
    locked: bool  # memory stays out of swap


def apply_hygiene() -> HygieneState:
    """Set what can be set and say what holds. Raises OSError when dumps cannot be switched off."""
    libc = forbid_dumps()
    os.umask(0o077)
    silence_libraries()
    return HygieneState(
        core_limit=resource.getrlimit(resource.RLIMIT_CORE)[0],
        dumpable=bool(libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)),
        locked=_lock_memory(libc),
    )


def forbid_dumps() -> ctypes.CDLL:
    """Switch core dumps and debuggers off for this process; give the C library. Raises OSError.

    A program that is executed starts dumpable again: every child that sees a request calls this itself.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_DUMPABLE)")
    return libc


def _lock_memory(libc: ctypes.CDLL) -> bool:
    """Lock memory only where no limit can turn that into failing allocations later."""
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard != resource.RLIM_INFINITY and os.geteuid() != 0:
        return False
    return bool(libc.mlockall(_MCL_ALL) == 0)


def silence_libraries() -> None:
    """Switch off the loggers of the libraries: they print what they were given."""
    for name in ("aiohttp", "aiohttp.access", "aiohttp.server", "aiohttp.web", "aiohttp.internal", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
        logger.disabled = True
