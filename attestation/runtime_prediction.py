# SPDX-License-Identifier: Apache-2.0
"""Which events of RTMR3 are known before a machine boots? Those of the documents; never the register itself.

The last event names keys that are made at each boot, a GPU event evidence of that boot: RTMR3 is replayed from
the log that evidence carries (attestation.verify), and never predicted.
"""

from __future__ import annotations

from hashlib import sha256, sha384
from typing import Final

from . import cbor
from .config import EnclaveConfig
from .errors import Untrusted
from .runtime_log import Event
from .tdx.measure import Predicted

REGISTER: Final = 3
_NOT_GIVEN: Final = "not given"


def runtime_events(
    *, image_id: bytes, config: bytes | None, operator: bytes | None, models: tuple[bytes, ...] | None
) -> tuple[Predicted, ...]:
    """Give the six events of a boot, those without a digest that were not to be computed.

    `config` and `operator` are exact file bytes (`operator` is empty where the machine gets none), `models` the SHA-256
    of each model file in any order. Raises Malformed for a config that is none, Untrusted(ManifestMismatch) for models
    that are not the config's.
    """
    parsed = EnclaveConfig.parse(config) if config is not None else None
    pinned = [model.sha256 for model in parsed.models] if parsed is not None else []
    if parsed is not None and models is not None and sorted(models) != sorted(pinned):
        want, got = (", ".join(sorted(digest.hex() for digest in group)) for group in (pinned, models))
        raise Untrusted("ManifestMismatch", "config.models", want=want, got=got)
    known = parsed is not None and models is not None
    model = sha256(cbor.encode(pinned)).digest() if known else None
    no_gpus = parsed is not None and parsed.gpu.count == 0
    why_gpu = _NOT_GIVEN if parsed is None else "evidence of that boot: replayed, never predicted"
    return (
        _event("image-id", image_id, ""),
        _event("config", sha384(config).digest() if config is not None else None, _NOT_GIVEN),
        _event("operator", sha384(operator).digest() if operator is not None else None, _NOT_GIVEN),
        _event("model", model, _NOT_GIVEN),
        _event("gpu", b"" if no_gpus else None, why_gpu),
        _event("ready", None, "keys made at each boot: replayed, never predicted"),
    )


def _event(name: str, payload: bytes | None, why: str) -> Predicted:
    digest = Event(name=name, payload=payload).digest if payload is not None else None
    return Predicted(register=REGISTER, type=0, name=name, digest=digest, cause=why if digest is None else "")
