# SPDX-License-Identifier: Apache-2.0
"""The policy document `sericin-policy/1`: what somebody accepts, every field given or waived (docs/policy.md)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final, TypeVar

from .errors import AttestationError, PolicyInvalid
from .findings import Given, Waived, require_keys, waived_or
from .gpu.appraise import GpuPolicy
from .roots import PolicyRoots, parse_roots
from .strict_json import loads
from .tdx.appraise import TdxPolicy

SCHEMA: Final = "sericin-policy/1"
MAX_POLICY: Final = 256 * 1024
MAX_LIST: Final = 256
_SECTIONS: Final = ("roots", "tdx", "image", "runtime", "gpu", "models", "channel", "registry", "time")

T = TypeVar("T")


class ChannelMode(StrEnum):
    """What carries the sealed exchange, and whether its key must be attested."""

    RA_TLS = "ra-tls"
    SEALED = "sealed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRule:
    """One image as a whole: registers of different images are never mixed."""

    name: str
    image_id: bytes  # 32
    mr_td: bytes  # 48
    rtmr0: Given[tuple[bytes, ...]] | Waived
    rtmr1: bytes
    rtmr2: bytes
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeRule:
    """What the measured configuration may be."""

    machine: str
    config_sha384: Given[tuple[bytes, ...]] | Waived
    operator_sha384: Given[tuple[bytes, ...]] | Waived
    engines: Given[tuple[str, ...]] | Waived
    logging: Given[tuple[str, ...]] | Waived


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRule:
    """One model that may answer."""

    name: str
    weights: bytes  # 32
    template: Given[bytes] | Waived
    determinism: Given[tuple[str, ...]] | Waived


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRule:
    """How the enclave is reached. `strict` demands X25519MLKEM768 and an exporter-bound liveness proof."""

    mode: ChannelMode
    strict: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryRule:
    """A registry contract that must list the image, proved no older than the staleness limit."""

    address: str
    max_staleness: int  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeRule:
    """How far the host's clock may be off, in seconds."""

    max_skew: int
    max_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A parsed policy, and the digest of the exact document."""

    name: str
    sha256: bytes
    roots: PolicyRoots
    tdx: TdxPolicy
    images: tuple[ImageRule, ...]  # none when the registry alone says which images
    images_waived: Waived | None
    runtime: RuntimeRule
    gpu: GpuPolicy | Waived
    models: Given[tuple[ModelRule, ...]] | Waived
    channel: ChannelRule
    registry: RegistryRule | Waived
    time: TimeRule

    @classmethod
    def parse(cls, data: bytes) -> Policy:
        """Read a policy document of at most 256 KiB. Raises PolicyInvalid for anything unknown, absent or empty."""
        try:
            document = loads(data, limit=MAX_POLICY, what="policy")
        except AttestationError as e:
            raise PolicyInvalid("policy", want=e.want, got=e.got or e.code) from None
        d = require_keys(document, "policy", required=("schema", "name", *_SECTIONS))
        if d["schema"] != SCHEMA:
            raise PolicyInvalid("policy.schema", want=SCHEMA, got="another schema")
        gpu = waived_or(d["gpu"], "gpu")
        registry = waived_or(d["registry"], "registry")
        models = waived_or(d["models"], "models")
        image = waived_or(d["image"], "image")
        if isinstance(image, Waived) and isinstance(registry, Waived):
            raise PolicyInvalid("policy.image", want="a list of images, or a registry that lists them", got="neither")
        roots = parse_roots(d["roots"], "roots")
        return cls(
            name=_text(d["name"], "policy.name"),
            sha256=sha256(data).digest(),
            roots=roots,
            tdx=TdxPolicy.parse(d["tdx"], "tdx"),
            images=() if isinstance(image, Waived) else _list(image, "image", _image),
            images_waived=image if isinstance(image, Waived) else None,
            runtime=_runtime(d["runtime"], "runtime", roots),
            gpu=gpu if isinstance(gpu, Waived) else GpuPolicy.parse(gpu, "gpu"),
            models=models if isinstance(models, Waived) else Given(_list(models, "models", _model)),
            channel=_channel(d["channel"], "channel"),
            registry=registry if isinstance(registry, Waived) else _registry(registry, "registry"),
            time=_time(d["time"], "time"),
        )


def _text(value: object, where: str, limit: int = 128) -> str:
    if not isinstance(value, str) or not value or len(value) > limit:
        raise PolicyInvalid(where, want=f"text of 1 to {limit} characters", got=type(value).__name__)
    return value


def _hex(size: int) -> Callable[[object, str], bytes]:
    def read(value: object, where: str) -> bytes:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]+", value) or len(value) != 2 * size:
            raise PolicyInvalid(where, want=f"{size} bytes in lower-case hex", got=type(value).__name__)
        return bytes.fromhex(value)

    return read


def _uint(value: object, where: str, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise PolicyInvalid(
            where, want=f"an integer from 0 to {limit}", got=value if isinstance(value, int) else "other"
        )
    return value


def _list(value: object, where: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
    """Read a list. An empty one never means "any": it is PolicyInvalid."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_LIST:
        raise PolicyInvalid(where, want=f"a list of 1 to {MAX_LIST} entries, or waived with a reason", got="none")
    return tuple(read(item, f"{where}[{i}]") for i, item in enumerate(value))


def _list_or_waived(value: object, where: str, read: Callable[[object, str], T]) -> Given[tuple[T, ...]] | Waived:
    value = waived_or(value, where)
    return value if isinstance(value, Waived) else Given(_list(value, where, read))


def _when(value: object, where: str) -> datetime:
    text = _text(value, where)
    if not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z", text):
        raise PolicyInvalid(where, want="a time such as 2027-01-31T00:00:00Z", got="another form")
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise PolicyInvalid(where, want="a time that exists", got="none") from None


def _image(value: object, where: str) -> ImageRule:
    keys = ("name", "image_id", "mr_td", "rtmr0", "rtmr1", "rtmr2", "not_after")
    d = require_keys(value, where, required=keys)
    measurement = _hex(48)
    return ImageRule(
        name=_text(d["name"], f"{where}.name"),
        image_id=_hex(32)(d["image_id"], f"{where}.image_id"),
        mr_td=measurement(d["mr_td"], f"{where}.mr_td"),
        rtmr0=_list_or_waived(d["rtmr0"], f"{where}.rtmr0", measurement),
        rtmr1=measurement(d["rtmr1"], f"{where}.rtmr1"),
        rtmr2=measurement(d["rtmr2"], f"{where}.rtmr2"),
        not_after=_when(d["not_after"], f"{where}.not_after"),
    )


def _runtime(value: object, where: str, roots: PolicyRoots) -> RuntimeRule:
    d = require_keys(value, where, required=("machine", "config", "operator", "engine", "logging"))
    want = "simulated" if roots.simulated else "tdx"
    if d["machine"] != want:
        raise PolicyInvalid(f"{where}.machine", want=f"{want}, as the roots are", got=d["machine"])
    return RuntimeRule(
        machine=want,
        config_sha384=_list_or_waived(d["config"], f"{where}.config", _hex(48)),
        operator_sha384=_list_or_waived(d["operator"], f"{where}.operator", _hex(48)),
        engines=_list_or_waived(d["engine"], f"{where}.engine", _text),
        logging=_list_or_waived(d["logging"], f"{where}.logging", _text),
    )


def _model(value: object, where: str) -> ModelRule:
    d = require_keys(value, where, required=("name", "weights", "template", "determinism"))
    template = waived_or(d["template"], f"{where}.template")
    return ModelRule(
        name=_text(d["name"], f"{where}.name", 64),
        weights=_hex(32)(d["weights"], f"{where}.weights"),
        template=template if isinstance(template, Waived) else Given(_hex(32)(template, f"{where}.template")),
        determinism=_list_or_waived(d["determinism"], f"{where}.determinism", _text),
    )


def _channel(value: object, where: str) -> ChannelRule:
    d = require_keys(value, where, required=("mode", "strict"))
    if d["mode"] not in tuple(ChannelMode):
        raise PolicyInvalid(f"{where}.mode", want=" or ".join(ChannelMode), got="another")
    if not isinstance(d["strict"], bool):
        raise PolicyInvalid(f"{where}.strict", want="true or false", got="another")
    mode = ChannelMode(str(d["mode"]))
    if d["strict"] and mode is ChannelMode.SEALED:
        raise PolicyInvalid(f"{where}.strict", want="mode ra-tls", got="mode sealed")
    return ChannelRule(mode=mode, strict=d["strict"])


def _registry(value: object, where: str) -> RegistryRule:
    d = require_keys(value, where, required=("address", "max_staleness_seconds"))
    address = _text(d["address"], f"{where}.address")
    if not re.fullmatch(r"(?:0|-1):[0-9a-f]{64}", address):
        raise PolicyInvalid(f"{where}.address", want="an account as 0:64 lower-case hex digits", got="another form")
    return RegistryRule(
        address=address,
        max_staleness=_uint(d["max_staleness_seconds"], f"{where}.max_staleness_seconds", 2**31),
    )


def _time(value: object, where: str) -> TimeRule:
    d = require_keys(value, where, required=("max_skew_seconds", "max_epoch_seconds"))
    return TimeRule(
        max_skew=_uint(d["max_skew_seconds"], f"{where}.max_skew_seconds", 300),
        max_epoch=_uint(d["max_epoch_seconds"], f"{where}.max_epoch_seconds", 5400),
    )
