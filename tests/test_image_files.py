# SPDX-License-Identifier: Apache-2.0
"""What an image is written from and into: packages, wheels, file systems, archives."""

from __future__ import annotations

import io
import lzma
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from enclave.image import deb, wheel
from enclave.image.cpio import write_cpio
from enclave.image.deb import PackageUnusable, read_deb
from enclave.image.erofs import BLOCK, write_erofs
from enclave.image.modules import module_order
from enclave.image.tree import Tree, TreeConflict
from enclave.image.wheel import content_digest, read_wheel, shared_names
from enclave.models.verity import SALT, VerityRoot


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def package(*entries: tuple[tarfile.TarInfo, bytes], packed: bool = True) -> bytes:
    """Make a .deb whose data archive has these members."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for info, content in entries:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    name, text = ("data.tar.xz", lzma.compress(data.getvalue())) if packed else ("data.tar", data.getvalue())
    return b"!<arch>\n" + ar("debian-binary", b"2.0\n") + ar("control.tar.xz", b"odd") + ar(name, text)


def ar(name: str, data: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
    return head + data + b"\n" * (len(data) % 2)


def sample() -> Tree:
    tree = Tree()
    tree.file("init", b"program", executable=True)
    tree.file("usr/lib/a.so", b"x" * (BLOCK + 1))
    tree.file("empty", b"")
    tree.link("lib", "usr/lib")
    tree.file("lib/through-the-link", b"1")
    for number in range(600):
        tree.file(f"many/{number:04d}-{'n' * (number % 200)}", str(number).encode())
    return tree


@pytest.mark.parametrize("packed", [True, False])
def test_a_package_gives_its_files_without_owners_and_without_set_uid(packed: bool) -> None:
    made = package(
        (member("./usr/bin/tool", mode=0o4755, uid=7), b"tool"),
        (member("./usr/share/x", mode=0o600), b"x"),
        (member("./usr/bin/other", type=tarfile.SYMTYPE, linkname="tool"), b""),
        (member("./usr/bin/same", type=tarfile.LNKTYPE, linkname="./usr/bin/tool"), b""),
        (member("./usr/empty", type=tarfile.DIRTYPE), b""),
        packed=packed,
    )
    found = {entry.path: entry for entry in read_deb(made, name="x.deb")}
    assert found["usr/bin/tool"].mode == stat.S_IFREG | 0o755
    assert found["usr/share/x"].mode == stat.S_IFREG | 0o644
    assert found["usr/bin/other"].target == "tool"
    assert found["usr/bin/same"].data == b"tool"
    assert stat.S_ISDIR(found["usr/empty"].mode)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (member("../etc/passwd"), "leaves the root"),
        (member("/etc/passwd"), "leaves the root"),
        (member("./a/../../b"), "leaves the root"),
        (member("dev/x", type=tarfile.CHRTYPE), "neither a file"),
        (member("dev/y", type=tarfile.FIFOTYPE), "neither a file"),
    ],
)
def test_a_package_cannot_leave_the_tree(entry: tarfile.TarInfo, words: str) -> None:
    with pytest.raises(PackageUnusable, match=words):
        list(read_deb(package((entry, b"")), name="x.deb"))


@pytest.mark.parametrize("cut", [0, 7, 8, 40, 68, 100, -1, -30])
def test_a_package_cut_short_is_refused(cut: int) -> None:
    whole = package((member("./usr/a"), b"a" * 2000))
    with pytest.raises(PackageUnusable):
        list(read_deb(whole[:cut], name="x.deb"))


def test_a_package_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deb, "MAX_UNPACKED", 4096)
    with pytest.raises(PackageUnusable, match="more than 4096"):
        list(read_deb(package((member("./zeros"), bytes(100_000))), name="x.deb"))


def test_a_package_with_too_many_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deb, "MAX_ENTRIES", 3)
    with pytest.raises(PackageUnusable, match="more than 3 files"):
        list(read_deb(package(*((member(f"./{i}"), b"") for i in range(5))), name="x.deb"))


def zipped(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def test_a_wheel_gives_what_runs_and_its_licence() -> None:
    made = zipped({
        "p/__init__.py": b"1", "p/tests/test_p.py": b"2", "p/p.pyi": b"3", "p/x.so": b"4", "lib/x.so": b"5",
        "p-1.dist-info/RECORD": b"6", "p-1.dist-info/licenses/LICENSE": b"7", "p-1.data/purelib/q.py": b"8",
        "p-1.data/scripts/p": b"9",
    })  # fmt: skip
    found = dict(read_wheel(made, name="p.whl"))
    assert found == {"p/__init__.py": b"1", "p/x.so": b"4", "p-1.dist-info/licenses/LICENSE": b"7", "q.py": b"8"}


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../../x.py"])
def test_a_wheel_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(PackageUnusable, match="leaves the root"):
        list(read_wheel(zipped({name: b""}), name="x.whl"))


def test_a_wheel_that_is_none_or_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PackageUnusable):
        list(read_wheel(b"PK\3\4 no", name="x.whl"))
    monkeypatch.setattr(wheel, "MAX_UNPACKED", 10)
    with pytest.raises(PackageUnusable, match="more than"):
        list(read_wheel(zipped({"a": bytes(11)}), name="x.whl"))


def test_a_library_under_three_names_is_kept_once() -> None:
    files = {"l/x.so": b"1", "l/x.so.0": b"1", "l/x.so.0.2.5": b"1", "l/y.so": b"2", "l/z.py": b"3"}
    kept, links = shared_names(files)
    assert set(kept) == {"l/x.so.0", "l/y.so", "l/z.py"}
    assert links == {"l/x.so": "x.so.0", "l/x.so.0.2.5": "x.so.0"}


def test_a_content_digest_knows_every_path_and_byte() -> None:
    base = content_digest({"a": b"1", "b": b"2"})
    others = [{"a": b"1"}, {"a": b"2", "b": b"1"}, {"a": b"1", "c": b"2"}, {"a": b"12", "b": b""}]
    assert all(content_digest(other) != base for other in others)
    assert content_digest({"b": b"2", "a": b"1"}) == base


def test_a_tree_refuses_two_contents_at_one_path_and_takes_the_same_twice() -> None:
    tree = sample()
    tree.file("init", b"program", executable=True)
    with pytest.raises(TreeConflict, match="/init"):
        tree.file("init", b"other", executable=True)
    with pytest.raises(TreeConflict, match="not a folder"):
        tree.file("init/x", b"")
    tree.link("round", "round")
    with pytest.raises(TreeConflict):
        tree.file("round/x", b"")


def test_the_root_file_system_is_the_same_in_any_order_of_making() -> None:
    one, other = Tree(), Tree()
    for tree, order in ((one, (1, 2, 3)), (other, (3, 1, 2))):
        for number in order:
            tree.file(f"folder/{number}", bytes([number]))
    assert b"".join(write_erofs(one)) == b"".join(write_erofs(other))
    assert write_cpio(one) == write_cpio(other)


def test_a_file_of_the_host_is_written_like_bytes_and_must_not_change(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"m" * 10_000)
    one, other = Tree(), Tree()
    one.file("model.gguf", path)
    other.file("model.gguf", b"m" * 10_000)
    assert b"".join(write_erofs(one)) == b"".join(write_erofs(other))
    portions = write_erofs(one)
    first = next(portions)
    path.write_bytes(b"m" * 9_999)
    with pytest.raises(ValueError, match="changed"):
        b"".join([first, *portions])


def test_the_superblock_says_what_is_there() -> None:
    data = b"".join(write_erofs(sample()))
    magic, _, features, bits, _, root, count = struct.unpack_from("<IIIBBHQ", data, 1024)
    blocks = struct.unpack_from("<I", data, 1024 + 36)[0]
    assert (magic, features, bits, root, count) == (0xE0F5E1E2, 0, 12, 128, 609)
    assert blocks * BLOCK == len(data)


def test_fsck_reads_back_every_file(tmp_path: Path) -> None:
    fsck = shutil.which("fsck.erofs")
    if fsck is None:
        pytest.skip("fsck.erofs is not installed (erofs-utils)")
    image, out = tmp_path / "image", tmp_path / "out"
    image.write_bytes(b"".join(write_erofs(sample())))
    done = subprocess.run([fsck, f"--extract={out}", image], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path, node in sample().walk():
        place = out / path
        if stat.S_ISLNK(node.mode):
            assert str(place.readlink()).encode() == node.content
        elif not node.is_folder:
            assert place.read_bytes() == node.content
            assert bool(place.stat().st_mode & 0o111) == bool(node.mode & 0o111)


@pytest.mark.parametrize("size", [1, 4096, 4097, 128 * 4096, 128 * 4096 + 1, 128 * 128 * 4096 + 5])
def test_the_hash_tree_is_that_of_veritysetup(tmp_path: Path, size: int) -> None:
    tool = shutil.which("veritysetup", path="/usr/sbin:/sbin:/usr/bin")
    if tool is None:
        pytest.skip("veritysetup is not installed (cryptsetup-bin)")
    data = (b"sericin!" * (size // 8 + 1))[:size]
    data += bytes(-size % 4096)
    (tmp_path / "data").write_bytes(data)
    words = [tool, "format", "--no-superblock", "--hash=sha256", f"--salt={SALT.hex()}"]
    done = subprocess.run(
        [*words, tmp_path / "data", tmp_path / "tree"], check=True, capture_output=True, text=True
    ).stdout
    verity = VerityRoot()
    verity.update(data)
    root, tree = verity.tree()
    assert root.hex() in done
    assert (tmp_path / "tree").read_bytes() == tree
    assert verity.blocks == len(data) // 4096


def test_an_initramfs_is_the_kernels_newc_archive() -> None:
    tree = Tree()
    tree.file("init", b"abc", executable=True)
    tree.folder("dev")
    made = write_cpio(tree)
    zero = b"00000000"
    head = b"070701" + b"00000001" + b"000041ED" + zero * 2 + b"00000002" + zero * 6 + b"00000004" + zero
    assert made.startswith(head + b"dev\0")
    assert b"init\0" in made
    assert made.endswith(b"TRAILER!!!\0\0\0\0")
    assert len(made) % 4 == 0


def entry(name: str, depends: str, *, folder: str = "usr/lib/modules/6.16/kernel/") -> deb.Entry:
    content = b"\x7fELF\0name=x\0depends=" + depends.encode() + b"\0"
    return deb.Entry(path=f"{folder}{name}.ko.xz", mode=stat.S_IFREG | 0o644, data=lzma.compress(content))


def test_modules_come_after_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.image.modules.WANTED", ("dm_verity", "virtio_blk"))
    needs = {"dm-verity": "dm-bufio,dm-mod", "dm-bufio": "dm-mod", "dm-mod": "", "virtio_blk": ""}
    order = module_order([entry(name, depends) for name, depends in needs.items()], release="6.16")
    assert [name for name, _ in order] == ["dm_mod", "dm_bufio", "dm_verity", "virtio_blk"]


def test_a_module_that_is_not_there_or_needs_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.image.modules.WANTED", ("dm_verity",))
    with pytest.raises(PackageUnusable, match="module dm_mod"):
        module_order([entry("dm-verity", "dm-mod")], release="6.16")
    with pytest.raises(PackageUnusable):
        module_order([entry("dm-verity", "x"), entry("x", "y"), entry("y", "x")], release="6.16")
    with pytest.raises(PackageUnusable, match="module dm_verity"):
        module_order([entry("dm-verity", "")], release="6.17")
