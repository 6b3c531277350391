# SPDX-License-Identifier: Apache-2.0
"""The boot map and the epoch map: which keys an enclave has, and what it is (docs/protocol.md, Boot map, Epoch map)."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from . import cbor
from .errors import Malformed
from .wire import label

PROFILE: Final = "sericin/1"
MACHINES: Final = ("tdx", "simulated")
ROLES: Final = ("receipt", "identity", "net")
KEY_ALGORITHM: Final = "ed25519"
SEAL_PUBLIC_KEY_SIZE: Final = 1216  # ML-KEM-768 encapsulation key (1184) || X25519 public key (32)
KID_SIZE: Final = 8
EPOCH_SECONDS: Final = 70 * 60  # not_after - not_before: 60 minutes, then 10 of grace
MAX_BOOT_BYTES: Final = 64 * 1024
MAX_EPOCH_BYTES: Final = 8 * 1024
MAX_MODELS: Final = 16
MAX_SEAL_KEYS: Final = 4

_BOOT: Final = "MalformedBoot"
_EPOCH: Final = "MalformedEpoch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Context and cache settings that a re-execution needs."""

    n_ctx: int  # tokens per sequence
    n_seq: int
    kv_unified: bool
    flash_attention: int
    type_k: str
    type_v: str
    n_ubatch: int
    threads: int

    def to_map(self) -> dict[int, object]:
        """Give the map of docs/protocol.md, key 6 of a model record."""
        values = (self.n_ctx, self.n_seq, self.kv_unified, self.flash_attention)
        return dict(enumerate((*values, self.type_k, self.type_v, self.n_ubatch, self.threads), start=1))

    @classmethod
    def from_map(cls, value: cbor.Value) -> ModelSettings:
        """Read the map. Raises Malformed(MalformedBoot)."""
        where = "boot.model.settings"
        m = cbor.int_map(value, what=where, code=_BOOT, required=range(1, 9))
        return cls(
            n_ctx=cbor.as_uint(m[1], f"{where}.n_ctx", code=_BOOT, limit=2**32 - 1),
            n_seq=cbor.as_uint(m[2], f"{where}.n_seq", code=_BOOT, limit=2**16),
            kv_unified=cbor.as_bool(m[3], f"{where}.kv_unified", code=_BOOT),
            flash_attention=cbor.as_uint(m[4], f"{where}.flash_attention", code=_BOOT, limit=255),
            type_k=cbor.as_text(m[5], f"{where}.type_k", code=_BOOT, limit=16),
            type_v=cbor.as_text(m[6], f"{where}.type_v", code=_BOOT, limit=16),
            n_ubatch=cbor.as_uint(m[7], f"{where}.n_ubatch", code=_BOOT, limit=2**32 - 1),
            threads=cbor.as_uint(m[8], f"{where}.threads", code=_BOOT, limit=2**16),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """What answers: weights, tokenizer, template, build, settings and how far it can be re-executed."""

    name: str
    weights: bytes  # 32, SHA-256 of the file
    tokenizer: bytes  # 32
    template: bytes  # 32
    build: str
    settings: ModelSettings
    determinism: str
    selftest: bytes  # 32
    _digest: bytes = field(default=b"", init=False, repr=False, compare=False)

    def to_map(self) -> dict[int, object]:
        """Give the map that is hashed."""
        head = (self.name, self.weights, self.tokenizer, self.template, self.build)
        return dict(enumerate((*head, self.settings.to_map(), self.determinism, self.selftest), start=1))

    def encode(self) -> bytes:
        """Give the deterministic CBOR."""
        return cbor.encode(self.to_map())

    @property
    def digest(self) -> bytes:
        """SHA-256(L(model-record) || CBOR(record)), 32 bytes, computed once: every receipt names it."""
        if not self._digest:
            object.__setattr__(self, "_digest", sha256(label("model-record") + self.encode()).digest())
        return self._digest

    @classmethod
    def decode(cls, data: bytes) -> ModelRecord:
        """Read one record. Raises Malformed(MalformedBoot)."""
        return cls.from_map(cbor.decode(data, limit=4096, what="model record", code=_BOOT))

    @classmethod
    def from_map(cls, value: cbor.Value) -> ModelRecord:
        """Read the map. Raises Malformed(MalformedBoot)."""
        m = cbor.int_map(value, what="boot.model", code=_BOOT, required=range(1, 9))
        return cls(
            name=cbor.as_text(m[1], "boot.model.name", code=_BOOT, limit=64),
            weights=cbor.as_bytes(m[2], "boot.model.weights", code=_BOOT, size=32),
            tokenizer=cbor.as_bytes(m[3], "boot.model.tokenizer", code=_BOOT, size=32),
            template=cbor.as_bytes(m[4], "boot.model.template", code=_BOOT, size=32),
            build=cbor.as_text(m[5], "boot.model.build", code=_BOOT, limit=256),
            settings=ModelSettings.from_map(m[6]),
            determinism=cbor.as_text(m[7], "boot.model.determinism", code=_BOOT, limit=64),
            selftest=cbor.as_bytes(m[8], "boot.model.selftest", code=_BOOT, size=32),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the enclave takes at most."""

    max_request_bytes: int
    max_completion_tokens: int
    queue_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BootMap:
    """Everything that is fixed from the start of the process to its end."""

    machine: str
    instance_id: bytes  # 16
    receipt_key: bytes  # 32, Ed25519
    identity_key: bytes
    net_key: bytes
    image_id: bytes  # 32
    config_digest: bytes  # 48
    operator_digest: bytes  # 48
    models: tuple[ModelRecord, ...]
    limits: Limits
    anchor_within: int  # seconds
    retention: int  # seconds
    _digest: bytes = field(default=b"", init=False, repr=False, compare=False)

    def encode(self) -> bytes:
        """Give the deterministic CBOR whose SHA-256 is the boot digest."""
        keys = zip(ROLES, (self.receipt_key, self.identity_key, self.net_key), strict=True)
        limits = self.limits
        return cbor.encode(
            {
                1: PROFILE,
                2: self.machine,
                3: self.instance_id,
                4: [{1: role, 2: KEY_ALGORITHM, 3: key} for role, key in keys],
                5: self.image_id,
                6: self.config_digest,
                7: self.operator_digest,
                8: [m.to_map() for m in self.models],
                9: {1: limits.max_request_bytes, 2: limits.max_completion_tokens, 3: limits.queue_length},
                10: self.anchor_within,
                11: self.retention,
            }
        )

    @property
    def digest(self) -> bytes:
        """The boot digest, 32 bytes, computed once: every receipt names it."""
        if not self._digest:
            object.__setattr__(self, "_digest", sha256(self.encode()).digest())
        return self._digest

    @classmethod
    def decode(cls, data: bytes) -> BootMap:
        """Read a boot map. Raises Malformed(MalformedBoot), also when two roles share a key."""
        m = cbor.decode_map(data, limit=MAX_BOOT_BYTES, what="boot", code=_BOOT, required=range(1, 12))
        if m[1] != PROFILE:
            raise Malformed(_BOOT, "boot.profile", want=PROFILE, got="another profile")
        machine = cbor.as_text(m[2], "boot.machine", code=_BOOT, limit=16)
        if machine not in MACHINES:
            raise Malformed(_BOOT, "boot.machine", want=" or ".join(MACHINES), got="another machine")
        receipt, identity, net = _read_keys(m[4])
        limits = cbor.int_map(m[9], what="boot.limits", code=_BOOT, required=(1, 2, 3))
        boot = cls(
            machine=machine,
            instance_id=cbor.as_bytes(m[3], "boot.instance_id", code=_BOOT, size=16),
            receipt_key=receipt,
            identity_key=identity,
            net_key=net,
            image_id=cbor.as_bytes(m[5], "boot.image_id", code=_BOOT, size=32),
            config_digest=cbor.as_bytes(m[6], "boot.config", code=_BOOT, size=48),
            operator_digest=cbor.as_bytes(m[7], "boot.operator", code=_BOOT, size=48),
            models=tuple(
                ModelRecord.from_map(v)
                for v in cbor.as_list(m[8], "boot.models", code=_BOOT, limit=MAX_MODELS, least=1)
            ),
            limits=Limits(
                max_request_bytes=cbor.as_uint(limits[1], "boot.limits", code=_BOOT),
                max_completion_tokens=cbor.as_uint(limits[2], "boot.limits", code=_BOOT),
                queue_length=cbor.as_uint(limits[3], "boot.limits", code=_BOOT),
            ),
            anchor_within=cbor.as_uint(m[10], "boot.anchor_within", code=_BOOT),
            retention=cbor.as_uint(m[11], "boot.retention", code=_BOOT),
        )
        if len({r.name for r in boot.models}) != len(boot.models):
            raise Malformed(_BOOT, "boot.models", want="each name once", got="a name twice")
        return boot


def _read_keys(value: cbor.Value) -> tuple[bytes, ...]:
    keys = []
    entries = cbor.as_list(value, "boot.keys", code=_BOOT, limit=len(ROLES), least=len(ROLES))
    for role, entry in zip(ROLES, entries, strict=True):
        m = cbor.int_map(entry, what="boot.key", code=_BOOT, required=(1, 2, 3))
        if m[1] != role or m[2] != KEY_ALGORITHM:
            raise Malformed(_BOOT, "boot.keys", want=f"{role} {KEY_ALGORITHM}", got="another role or algorithm")
        keys.append(cbor.as_bytes(m[3], f"boot.keys.{role}", code=_BOOT, size=32))
    if len(set(keys)) != len(keys):
        raise Malformed(_BOOT, "boot.keys", want="a key of its own for each role", got="a shared key")
    return tuple(keys)


def key_id(public_key: bytes) -> bytes:
    """Give the kid of a seal key: the first 8 bytes of SHA-256(public key)."""
    return sha256(public_key).digest()[:KID_SIZE]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beacon:
    """A recent masterchain block: a lower bound of time."""

    root_hash: bytes  # 32
    seqno: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMap:
    """The keys that requests are sealed to, for an hour and ten minutes."""

    boot_digest: bytes  # 32
    number: int
    seal_keys: tuple[bytes, ...]  # 1216 bytes each
    not_before: int  # unix seconds, the host's claim
    not_after: int
    beacon: Beacon | None = None

    def encode(self) -> bytes:
        """Give the deterministic CBOR whose SHA-256 is the keyset digest."""
        m: dict[int, object] = {
            1: self.boot_digest,
            2: self.number,
            3: [{1: key_id(key), 2: key} for key in self.seal_keys],
            4: self.not_before,
            5: self.not_after,
        }
        if self.beacon is not None:
            m[6] = {1: self.beacon.root_hash, 2: self.beacon.seqno}
        return cbor.encode(m)

    @property
    def digest(self) -> bytes:
        """The keyset digest, 32 bytes."""
        return sha256(self.encode()).digest()

    @classmethod
    def decode(cls, data: bytes) -> EpochMap:
        """Read an epoch map. Raises Malformed(MalformedEpoch), also for a kid that is not its key's."""
        m = cbor.decode_map(data, limit=MAX_EPOCH_BYTES, what="epoch", code=_EPOCH, required=range(1, 6), optional=(6,))
        keys = []
        for entry in cbor.as_list(m[3], "epoch.seal_keys", code=_EPOCH, limit=MAX_SEAL_KEYS, least=1):
            pair = cbor.int_map(entry, what="epoch.seal_key", code=_EPOCH, required=(1, 2))
            key = cbor.as_bytes(pair[2], "epoch.seal_key", code=_EPOCH, size=SEAL_PUBLIC_KEY_SIZE)
            if pair[1] != key_id(key):
                raise Malformed(_EPOCH, "epoch.seal_key.kid", want="the key's own id", got="another")
            keys.append(key)
        if len(set(keys)) != len(keys):
            raise Malformed(_EPOCH, "epoch.seal_keys", want="each key once", got="a key twice")
        number = cbor.as_uint(m[2], "epoch.number", code=_EPOCH, limit=2**32 - 1)
        begins = cbor.as_uint(m[4], "epoch.not_before", code=_EPOCH, limit=2**40)
        ends = cbor.as_uint(m[5], "epoch.not_after", code=_EPOCH, limit=2**40)
        if number == 0 or ends <= begins:
            raise Malformed(_EPOCH, "epoch", want="a number from 1 and an end after its beginning", got="another")
        beacon = None
        if 6 in m:
            b = cbor.int_map(m[6], what="epoch.beacon", code=_EPOCH, required=(1, 2))
            beacon = Beacon(
                root_hash=cbor.as_bytes(b[1], "epoch.beacon.root_hash", code=_EPOCH, size=32),
                seqno=cbor.as_uint(b[2], "epoch.beacon.seqno", code=_EPOCH, limit=2**32 - 1),
            )
        return cls(
            boot_digest=cbor.as_bytes(m[1], "epoch.boot", code=_EPOCH, size=32),
            number=number,
            seal_keys=tuple(keys),
            not_before=begins,
            not_after=ends,
            beacon=beacon,
        )
