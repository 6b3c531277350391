# SPDX-License-Identifier: Apache-2.0
"""Answers: is this a GGUF file that llama.cpp may see, and what does its header say?

Strict where the format is loose: every count, length, type, alignment and offset is checked against the size of the
file before anything is believed, keys and tensor names are unique, tensors stand in order without gaps or overlaps,
and the file ends where they end. Runs in a process of its own (`gguf_child`), before llama.cpp is asked.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from attestation.errors import Malformed

MAX_KEYS: Final = 4096
MAX_TENSORS: Final = 65_536
MAX_KEY: Final = 256
MAX_NAME: Final = 64
MAX_STRING: Final = 1 << 22
MAX_ITEMS: Final = 1 << 21  # of one array: twice the largest vocabulary known
MAX_DIMS: Final = 4
_DEFAULT_ALIGNMENT: Final = 32

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_INTEGERS: Final = frozenset({0, 1, 2, 3, 4, 5, 10, 11})

# ggml type: (elements of a block, bytes of a block). Types that llama.cpp removed, or never stores, are absent.
TENSOR_TYPES: Final = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 16: (256, 66), 17: (256, 74), 18: (256, 98),
    19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


class Buffer(Protocol):
    """Bytes with random access: bytes, or a mapping of memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: slice, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufFacts:
    """What the header says, reduced to what is hashed and shown."""

    version: int
    architecture: str
    name: str
    context_length: int
    metadata: int  # number of keys
    tensors: int
    parameters: int
    tokenizer: bytes  # 32, see `tokenizer_digest`
    template: bytes  # 32, SHA-256 of the chat template's text; of nothing when there is none
    has_template: bool
    types: dict[int, int] = field(default_factory=dict)  # ggml type -> number of tensors


class _Cursor:
    """Takes fields off the file in order, and never past the end."""

    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int, where: str) -> bytes:
        if size > len(self.data) - self.at:
            raise Malformed("MalformedGguf", where, want=f"{size} bytes", got=len(self.data) - self.at)
        start, self.at = self.at, self.at + size
        return self.data[start : self.at]

    def scalar(self, form: str, where: str) -> int:
        value: int = struct.unpack("<" + form, self.take(struct.calcsize("<" + form), where))[0]
        return value

    def string(self, where: str, most: int) -> bytes:
        size = self.scalar("Q", where)
        if size > most:
            raise Malformed("MalformedGguf", where, want=f"at most {most} bytes", got=size)
        return self.take(size, where)


def parse(data: Buffer) -> GgufFacts:
    """Parse the header of a whole file. Raises Malformed(MalformedGguf)."""
    cursor = _Cursor(data)
    if cursor.take(4, "magic") != b"GGUF":
        raise Malformed("MalformedGguf", "magic", want="GGUF", got="other bytes")
    version = cursor.scalar("I", "version")
    if version not in (2, 3):
        raise Malformed("MalformedGguf", "version", want="2 or 3", got=version)
    tensors = _bounded(cursor.scalar("Q", "tensor count"), 1, MAX_TENSORS, "tensor count")
    keys = _bounded(cursor.scalar("Q", "key count"), 1, MAX_KEYS, "key count")
    values = _metadata(cursor, keys)
    alignment = _alignment(values)
    types, parameters = _tensors(cursor, tensors, alignment)
    template = _text(values, "tokenizer.chat_template")
    architecture = _text(values, "general.architecture") or ""
    return GgufFacts(
        version=version,
        architecture=architecture,
        name=_text(values, "general.name") or "",
        context_length=_integer(values, f"{architecture}.context_length"),
        metadata=keys,
        tensors=tensors,
        parameters=parameters,
        tokenizer=tokenizer_digest(values),
        template=hashlib.sha256((template or "").encode("utf-8")).digest(),
        has_template=template is not None,
        types=types,
    )


def tokenizer_digest(values: dict[str, bytes]) -> bytes:
    """Digest every `tokenizer.` key except the chat template.

    SHA-256 over, in the byte order of the keys: u32 length of the key, key, u64 length of the value, and the value as
    it stands in the file with its type in front. Little-endian, as the file is.
    """
    total = hashlib.sha256(b"sericin/1 tokenizer")
    for key in sorted(values):
        if key.startswith("tokenizer.") and not key.startswith("tokenizer.chat_template"):
            raw = key.encode("ascii")
            total.update(struct.pack("<I", len(raw)) + raw + struct.pack("<Q", len(values[key])) + values[key])
    return total.digest()


def _bounded(value: int, low: int, high: int, where: str) -> int:
    if not low <= value <= high:
        raise Malformed("MalformedGguf", where, want=f"{low} to {high}", got=value)
    return value


def _metadata(cursor: _Cursor, count: int) -> dict[str, bytes]:
    """Walk the key-value pairs; give each value's raw bytes, its type in front."""
    values: dict[str, bytes] = {}
    for _ in range(count):
        raw = cursor.string("key", MAX_KEY)
        if not raw or not raw.isascii() or not all(33 <= byte < 127 for byte in raw):
            raise Malformed("MalformedGguf", "key", want="printable ASCII", got=f"{len(raw)} other bytes")
        key = raw.decode("ascii")
        if key in values:
            raise Malformed("MalformedGguf", "key", want="each key once", got=key)
        start = cursor.at
        _value(cursor, cursor.scalar("I", key), key)
        values[key] = cursor.data[start : cursor.at]
    return values


def _value(cursor: _Cursor, kind: int, where: str) -> None:
    """Walk one value, checking everything it holds."""
    if kind == _STRING:
        _utf8(cursor.string(where, MAX_STRING), where)
    elif kind == _ARRAY:
        _array(cursor, where)
    elif kind == _BOOL:
        _bools(cursor.take(1, where), where)
    elif kind in _SCALARS:
        cursor.take(struct.calcsize("<" + _SCALARS[kind]), where)
    else:
        raise Malformed("MalformedGguf", where, want="a GGUF type", got=kind)


def _array(cursor: _Cursor, where: str) -> None:
    kind = cursor.scalar("I", where)
    count = _bounded(cursor.scalar("Q", where), 0, MAX_ITEMS, where)
    if kind == _STRING:
        for _ in range(count):
            # Tokens of byte-level vocabularies need not be UTF-8.
            cursor.string(where, 1 << 16)
    elif kind == _BOOL:
        _bools(cursor.take(count, where), where)
    elif kind in _SCALARS:
        cursor.take(count * struct.calcsize("<" + _SCALARS[kind]), where)
    else:
        raise Malformed("MalformedGguf", where, want="an array of scalars or strings", got=kind)


def _bools(raw: bytes, where: str) -> None:
    if raw.strip(b"\x00\x01"):
        raise Malformed("MalformedGguf", where, want="0 or 1", got="another byte")


def _utf8(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise Malformed("MalformedGguf", where, want="UTF-8", got="other bytes") from None


def _tensors(cursor: _Cursor, count: int, alignment: int) -> tuple[dict[int, int], int]:
    """Walk the tensor table and hold it against the size of the file."""
    names: set[bytes] = set()
    types: dict[int, int] = {}
    sizes: list[tuple[int, int]] = []
    parameters = 0
    for _ in range(count):
        name = cursor.string("tensor name", MAX_NAME)
        if not name or name in names or not name.isascii():
            raise Malformed("MalformedGguf", "tensor name", want="a new ASCII name", got=f"{len(name)} bytes")
        names.add(name)
        where = name.decode("ascii", "replace")
        elements, row = 1, 1
        for number in range(_bounded(cursor.scalar("I", where), 1, MAX_DIMS, where)):
            extent = _bounded(cursor.scalar("Q", where), 1, 1 << 40, where)
            row = extent if number == 0 else row
            elements = _bounded(elements * extent, 1, 1 << 48, where)
        kind = cursor.scalar("I", where)
        if kind not in TENSOR_TYPES:
            raise Malformed("MalformedGguf", where, want="a tensor type", got=kind)
        block, size = TENSOR_TYPES[kind]
        if row % block:
            raise Malformed("MalformedGguf", where, want=f"rows of whole blocks of {block}", got=row)
        sizes.append((cursor.scalar("Q", where), elements // block * size))
        types[kind] = types.get(kind, 0) + 1
        parameters += elements
    _layout(cursor, sizes, alignment)
    return types, parameters


def _layout(cursor: _Cursor, sizes: list[tuple[int, int]], alignment: int) -> None:
    """Require tensors in order, aligned, without gaps, and the file to end with them."""
    pad: Callable[[int], int] = lambda value: -(-value // alignment) * alignment  # noqa: E731  # two uses, one line
    base = pad(cursor.at)
    expected = end = 0
    for offset, size in sizes:
        if offset != expected:
            raise Malformed("MalformedGguf", "tensor offset", want=expected, got=offset)
        end = offset + size
        expected = pad(end)
    if len(cursor.data) not in (base + end, base + expected):
        raise Malformed("MalformedGguf", "file size", want=base + expected, got=len(cursor.data))


def _alignment(values: dict[str, bytes]) -> int:
    if "general.alignment" not in values:
        return _DEFAULT_ALIGNMENT
    value = _integer(values, "general.alignment")
    if value not in (8, 16, 32, 64, 128, 256, 512, 1024, 4096):
        raise Malformed("MalformedGguf", "general.alignment", want="a power of two from 8 to 4096", got=value)
    return value


def _text(values: dict[str, bytes], key: str) -> str | None:
    raw = values.get(key)
    if raw is None:
        return None
    if raw[:4] != struct.pack("<I", _STRING):
        raise Malformed("MalformedGguf", key, want="a string", got="another type")
    return _utf8(raw[12:], key)


def _integer(values: dict[str, bytes], key: str) -> int:
    raw = values.get(key)
    if raw is None:
        return 0
    kind = int.from_bytes(raw[:4], "little")
    if kind not in _INTEGERS:
        raise Malformed("MalformedGguf", key, want="an integer", got="another type")
    value: int = struct.unpack("<" + _SCALARS[kind], raw[4:])[0]
    return _bounded(value, 0, 1 << 40, key)
