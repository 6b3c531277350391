# SPDX-License-Identifier: Apache-2.0
"""Image locks, what is fetched by them, the commit an image is built from, and what `image verify` notices."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from hashlib import sha256, sha384
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attestation.errors import Malformed
from attestation.image import ImageManifest
from attestation.shape import Shape
from client.__main__ import cli
from enclave.image import fetch
from enclave.image.build import BuildFailed, build_parts
from enclave.image.fetch import Fetch, PartMissing, mirrors
from enclave.image.lock import ImageLock, LockedPackage, LockedWheel
from enclave.image.manifest import FILES, record
from enclave.image.source import Source, SourceUnusable, read_source
from enclave.image.verify import first_difference
from tests.image_forms import MANIFEST, canonical

ROOT = Path(__file__).parent.parent
LOCKS = {path.name: path for path in sorted((ROOT / "enclave" / "data").glob("image-*.lock.json"))}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_everything_by_digest_and_no_host(name: str) -> None:
    data = LOCKS[name].read_bytes()
    lock = ImageLock.parse(data)
    assert name == f"image-{lock.profile}.lock.json"
    assert b"://" not in data
    assert b".org" not in data
    assert all(part.pool.startswith("pool/") and part.snapshot.endswith(part.pool) for part in lock.packages)
    assert any(part.name == f"linux-modules-{lock.kernel}" for part in lock.packages)
    major, minor = (int(word) for word in lock.kernel.split(".")[:2])
    assert (major, minor) >= (6, 16), "RTMR3 is extended through files that Linux has from 6.16 on"
    assert all(part.licence for part in lock.packages)
    assert all(part.licence for part in lock.wheels)


def test_an_image_for_gpus_needs_their_compiler_before_anything_is_fetched(tmp_path: Path) -> None:
    lock = ImageLock.parse(LOCKS["image-gpu-hopper.lock.json"].read_bytes())
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "cuda-toolkit"
    script.write_text("import sys\nsys.exit('cuda.deb is not in the cache')\n")
    taken = dataclasses.replace(source(), checkout=tmp_path)
    with pytest.raises(BuildFailed, match=r"CUDA's compiler.*\ncuda\.deb is not in the cache"):
        build_parts(taken, lock, tmp_path, fetch=Fetch(cache=tmp_path), say=lambda _: None)
    assert list(tmp_path.iterdir()) == [script.parent]


def test_wheels_are_those_of_the_projects_own_locks() -> None:
    text = "".join((ROOT / "requirements" / f"{name}.txt").read_text() for name in ("base", "enclave"))
    for wheel in ImageLock.parse(LOCKS["image-cpu.lock.json"].read_bytes()).wheels:
        assert f"sha256:{wheel.sha256.hex()}" in text, wheel.file
        assert f"\n{wheel.name}=={wheel.version}" in f"\n{text}", wheel.file


def bent(path: str, value: object) -> bytes:
    document: Any = json.loads(LOCKS["image-cpu.lock.json"].read_text())
    *parents, last = (int(word) if word.isdigit() else word for word in path.split("."))
    at = document
    for key in parents:
        at = at[key]
    at[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "sericin-image-lock/2"), ("profile", "other"), ("isa", "native"), ("kernel", "../x"),
        ("packages", []), ("packages.0.sha256", "00" * 31), ("packages.0.size", 0), ("packages.0.pool", "/etc/passwd"),
        ("packages.0.pool", "pool/../x"), ("packages.0.pool", "http://host/x"), ("packages.0.name", "libc6"),
        ("wheels.0.file", "a/../b.whl"), ("wheels.0.more", 1), ("wheels", [1]), ("toolchain", [1]), ("more", 1),
    ],
)  # fmt: skip
def test_a_lock_that_says_anything_else_is_refused(path: str, value: object) -> None:
    with pytest.raises(Malformed):
        ImageLock.parse(bent(path, value))


def locked(data: bytes = b"package") -> LockedPackage:
    pool = "pool/main/x/x/x_1_amd64.deb"
    return LockedPackage(
        name="x", version="1", sha256=sha256(data).digest(), size=len(data), pool=pool,
        snapshot=f"archive/debian/20260101T000000Z/{pool}", licence="MIT",
    )  # fmt: skip


def test_a_part_is_taken_from_the_cache_by_its_digest_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "APT_ARCHIVE", tmp_path / "none")
    monkeypatch.setattr(fetch, "mirrors", list)
    kept = tmp_path / "image" / f"{locked().sha256.hex()[:16]}-x_1_amd64.deb"
    kept.parent.mkdir()
    kept.write_bytes(b"package")
    assert Fetch(cache=tmp_path).package(locked()) == b"package"
    kept.write_bytes(b"pACKage")
    with pytest.raises(PartMissing) as caught:
        Fetch(cache=tmp_path).package(locked())
    assert locked().sha256.hex() in str(caught.value)
    assert "x_1_amd64.deb" in str(caught.value)


def test_apts_own_cache_is_looked_into_before_any_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "APT_ARCHIVE", tmp_path)
    monkeypatch.setattr(fetch, "_download", lambda *_: pytest.fail("a mirror was asked"))
    (tmp_path / "x_0_amd64.deb").write_bytes(b"another")
    (tmp_path / "x_1_amd64.deb").write_bytes(b"package")
    assert Fetch(cache=tmp_path / "cache").package(locked()) == b"package"
    assert len(list((tmp_path / "cache" / "image").iterdir())) == 1


def test_every_mirror_is_asked_and_a_wrong_answer_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def helper(command: list[str]) -> str:
        asked.append(command[-3])
        Path(command[-2]).write_bytes(b"package" if "second" in command[-3] else b"PACKAGE")
        return ""

    monkeypatch.setattr(fetch, "APT_ARCHIVE", tmp_path / "none")
    monkeypatch.setattr(fetch, "APT_HELPER", tmp_path)
    monkeypatch.setattr(fetch, "_run", helper)
    monkeypatch.setattr(fetch, "mirrors", lambda: ["http://first/debian/", "http://second/debian"])
    assert Fetch(cache=tmp_path).package(locked()) == b"package"
    assert asked == [f"http://{name}/debian/{locked().pool}" for name in ("first", "second")]
    asked.clear()
    monkeypatch.setattr(fetch, "mirrors", lambda: ["http://first/debian"])
    with pytest.raises(PartMissing, match="none of 1 mirrors"):
        Fetch(cache=tmp_path / "other").package(locked())
    monkeypatch.setenv("SERICIN_SNAPSHOTS", "http://none/ http://the-second/")
    assert Fetch(cache=tmp_path / "other").package(locked()) == b"package"
    first = f"http://first/debian/{locked().pool}"
    assert asked == [first, first, *(f"http://{name}/{locked().snapshot}" for name in ("none", "the-second"))]


def test_a_wheel_that_pip_does_not_give_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_run", lambda _: "ERROR: hashes do not match")
    wheel = LockedWheel(name="x", version="1", sha256=bytes(32), size=3, file="x-1-py3-none-any.whl", licence="MIT")
    with pytest.raises(PartMissing, match=r"x-1-py3-none-any\.whl.*hashes do not match"):
        Fetch(cache=tmp_path).wheel(wheel)


def test_mirrors_are_those_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERICIN_MIRRORS", raising=False)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://off/debian x\ndeb [arch=amd64] http://one/debian stable main\n"
    )
    (tmp_path / "sources.list.d" / "a.sources").write_text("Types: deb\nURIs: http://two/debian http://one/debian\n")
    (tmp_path / "sources.list.d" / "b.bak").write_text("deb http://off/debian x\n")
    assert mirrors(tmp_path) == ["http://one/debian", "http://two/debian"]
    monkeypatch.setenv("SERICIN_MIRRORS", "http://zero/debian")
    assert mirrors(tmp_path)[0] == "http://zero/debian"


def source() -> Source:
    try:
        return read_source(checkout=ROOT)
    except SourceUnusable:
        pytest.skip("not a git checkout")


def test_a_commit_is_read_and_not_the_working_tree(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("not a git checkout")

    def run(*words: str) -> None:
        subprocess.run(
            [git, "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@e", *words],
            check=True,
            capture_output=True,
        )

    for name in ("attestation", "client", "enclave"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("1\n")
    (tmp_path / "LICENSE").write_text("l")
    (tmp_path / "pyproject.toml").write_text('version = "9.9"\n')
    run("init", "-q")
    run("add", ".")
    run("commit", "-q", "-m", "One")
    (tmp_path / "enclave" / "a.py").write_text("2\n")
    (tmp_path / "enclave" / "new.py").write_text("3\n")
    found = read_source(checkout=tmp_path)
    assert found.read("enclave/a.py") == b"1\n"
    assert "enclave/new.py" not in found.files
    assert found.changed == ("enclave/a.py",)
    assert found.version == "9.9"
    for commit in ("0" * 40, "--help", "HEAD~5"):
        with pytest.raises(SourceUnusable):
            read_source(commit, checkout=tmp_path)
    with pytest.raises(SourceUnusable):
        found.read("enclave/new.py")


def image(folder: Path) -> Path:
    """Write a small folder whose manifest lists its files."""
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(name.encode() * 3)
    (folder / "rootfs.img").write_bytes(b"r" * 8192)
    cmdline = f"roothash={'ab' * 32}".encode()
    (folder / "cmdline").write_bytes(cmdline)
    old = ImageManifest.parse(canonical(MANIFEST))
    manifest = dataclasses.replace(
        old,
        files=tuple(record(folder / name) for name in sorted(FILES)),
        firmware=dataclasses.replace(old.firmware, file="OVMF.fd"),
        kernel_file="vmlinuz",
        initrd_file="initrd",
        initrd_sha384=sha384((folder / "initrd").read_bytes()).digest(),
        cmdline_file="cmdline",
        cmdline=cmdline.decode(),
        rootfs=dataclasses.replace(
            old.rootfs,
            file="rootfs.img",
            verity_file="rootfs.verity",
            root_hash=bytes.fromhex("ab" * 32),
            data_blocks=2,
        ),
    )
    (folder / "manifest.json").write_bytes(manifest.encode())
    return folder


def test_the_same_image_has_no_difference(tmp_path: Path) -> None:
    assert first_difference(image(tmp_path / "a"), image(tmp_path / "b")) is None


@pytest.mark.parametrize("name", FILES)
def test_the_file_that_differs_is_named(tmp_path: Path, name: str) -> None:
    theirs, mine = image(tmp_path / "a"), image(tmp_path / "b")
    data = (theirs / name).read_bytes()
    (theirs / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    found = first_difference(theirs, mine)
    assert found is not None
    assert found.where == name
    (theirs / name).unlink()
    found = first_difference(theirs, mine)
    assert found is not None
    assert (found.where, found.got) == (name, "none")


@pytest.mark.parametrize("name", ["initrd", "rootfs.img"])
def test_what_is_no_file_or_of_another_size_is_not_read(tmp_path: Path, name: str) -> None:
    theirs, mine = image(tmp_path / "a"), image(tmp_path / "b")
    size = (theirs / name).stat().st_size
    with (theirs / name).open("ab") as file:
        file.truncate(1 << 43)  # to read it would take hours
    found = first_difference(theirs, mine)
    assert found is not None
    assert (found.where, found.got) == (name, f"{1 << 43} bytes")
    assert found.want.startswith(f"{size} bytes, SHA-256")
    (theirs / name).unlink()
    os.mkfifo(theirs / name)  # to open it would wait for good
    found = first_difference(theirs, mine)
    assert found is not None
    assert (found.where, found.got) == (name, "none")


def test_a_manifest_that_differs_and_a_file_too_many_are_named(tmp_path: Path) -> None:
    theirs, mine = image(tmp_path / "a"), image(tmp_path / "b")
    (theirs / "extra").write_bytes(b"")
    found = first_difference(theirs, mine)
    assert found is not None
    assert found.where == "extra"
    (theirs / "extra").unlink()
    manifest = ImageManifest.parse((theirs / "manifest.json").read_bytes())
    part = dataclasses.replace(manifest.components[0], version="0")
    other = dataclasses.replace(manifest, components=(part, *manifest.components[1:]))
    (theirs / "manifest.json").write_bytes(other.encode())
    found = first_difference(theirs, mine)
    assert found is not None
    assert found.where == "manifest.json"
    assert part.name in found.hint


def test_an_image_is_not_built_over_another(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["image", "build", "-o", str(tmp_path)])
    assert result.exit_code == 2
    result = CliRunner().invoke(cli, ["image", "verify", str(tmp_path / "none"), "--json"])
    assert result.exit_code == 6
    assert json.loads(result.stdout)["ok"] is False


@pytest.mark.parametrize("name", ["emulated", "tdx", "tdx-hopper"])
def test_the_shapes_that_come_with_images_are_whole(name: str) -> None:
    shape = Shape.parse((ROOT / "enclave" / "data" / f"shape-{name}.json").read_bytes())
    assert shape.name == name
    assert {"rootfs", "verity", "manifest", "config", "operator", "model", "ledger"} <= {d.disk for d in shape.disks}
