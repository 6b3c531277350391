# SPDX-License-Identifier: Apache-2.0
"""The image manifest, its signature and the shape: what is read, and everything else that is refused."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation import evidence
from attestation.errors import AttestationError, Malformed, Untrusted
from attestation.image import MAX_CMDLINE, MAX_MANIFEST, ImageManifest
from attestation.image_signature import ImageSignature
from attestation.shape import Shape
from tests.image_forms import CMDLINE, MANIFEST, ROOT_HASH, SHAPE, bent, canonical, manifest, shape

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
GPU = {"slot": 16, "type": "gpu", "model": "H100-PCIe-80GB", "bar_mib": 131072}
EMULATED = bent(bent(SHAPE, "machine", "emulated"), "host/quote_socket", None)
WITH_GPU = bent(bent(SHAPE, "devices", [*SHAPE["devices"], GPU]), "host/gpus", ["0000:41:00.0"])


def test_a_manifest_is_its_canonical_bytes() -> None:
    data = canonical(MANIFEST)
    parsed = ImageManifest.parse(data)
    assert parsed.encode() == data
    assert parsed.image_id == sha256(data).digest()
    assert parsed.cmdline == CMDLINE
    assert parsed.file("vmlinuz").sha256 == sha256(b"kernel").digest()
    assert parsed.measurements[0].shape_sha256 == shape().digest
    unknown = manifest(bent(bent(MANIFEST, "measurements/0/acpi", None), "measurements/0/rtmr0", None))
    assert unknown.measurements[0].rtmr0 is None
    assert MAX_MANIFEST == evidence.MAX_MANIFEST


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        json.dumps(MANIFEST).encode(),
        canonical(MANIFEST) + b"\n",
        canonical(MANIFEST).replace(b'"squashfs"', b'"\\u0073quashfs"'),
        canonical(MANIFEST).replace(b'"data_blocks":8', b'"data_blocks":8,"data_blocks":8'),
        b"\xff" * 70_000,
    ],
    ids=["empty", "no fields", "white space", "a newline", "an escape", "a key twice", "too long"],
)
def test_another_encoding_is_no_manifest(data: bytes) -> None:
    with pytest.raises(Malformed):
        ImageManifest.parse(data)


MANIFEST_BENDS: list[tuple[str, Any]] = [
    ("schema", "sericin-image/2"),
    ("name", ""),
    ("name", "a\u00e9"),
    ("version", 1),
    ("profile", "gpu"),
    ("platform", "azure"),
    ("source/commit", "0F" * 20),
    ("source/commit", "0f" * 19),
    ("source/lock_sha256", ...),
    ("more", 1),
    ("files", {}),
    ("files", {f"f{i}": {"sha256": "00" * 32, "size": 1} for i in range(33)}),
    ("files/initrd", ...),
    ("files/..", {"sha256": "00" * 32, "size": 1}),
    ("files/manifest.json", {"sha256": "00" * 32, "size": 1}),
    ("files/initrd/size", 0),
    ("files/initrd/size", 2**37),
    ("files/initrd/size", True),
    ("files/initrd/sha256", "AB" * 32),
    ("files/rootfs.img/size", 8 * 4096 + 1),
    ("files/cmdline/size", 1),
    ("files/cmdline/sha256", "00" * 32),
    ("components", []),
    ("components/0/licence", ""),
    ("components", [MANIFEST["components"][0]] * 2),
    ("components", MANIFEST["components"][::-1]),
    ("firmware/file", "other.fd"),
    ("firmware/file", "vmlinuz"),
    ("firmware/mr_td/two_pass", ...),
    ("kernel/file", "../vmlinuz"),
    ("kernel/authenticode_sha384", "00" * 32),
    ("initrd/file", "rootfs.img"),
    ("initrd/sha384", None),
    ("cmdline/text", CMDLINE + " "),
    ("cmdline/text", "a" * (MAX_CMDLINE + 1)),
    ("cmdline/text", CMDLINE + "\n"),
    ("rootfs/format", "ext4"),
    ("rootfs/verity/root_hash", "5b" * 32),
    ("rootfs/verity/data_blocks", 9),
    ("rootfs/verity/salt", ""),
    ("measurements", []),
    ("measurements", MANIFEST["measurements"] * 2),
    ("measurements/0/mr_td", None),
    ("measurements/0/rtmr1", "00"),
    ("measurements/0/acpi/rsdp", ...),
    ("measurements/0/shape/sha256", "0"),
]


@pytest.mark.parametrize(("path", "value"), MANIFEST_BENDS, ids=[f"{p}={str(v)[:24]}" for p, v in MANIFEST_BENDS])
def test_a_bent_manifest_is_malformed(path: str, value: Any) -> None:
    with pytest.raises(Malformed) as caught:
        manifest(bent(MANIFEST, path, value))
    assert caught.value.code == "MalformedManifest"
    assert caught.value.where.startswith("manifest")


MORE_FILES = MANIFEST["files"] | {f"f{i}": {"sha256": "00" * 32, "size": 1} for i in range(27)}


@pytest.mark.parametrize("files", [[], {}, None, MORE_FILES], ids=["a list", "none", "null", "33"])
def test_a_manifest_lists_a_bounded_number_of_files(files: Any) -> None:
    with pytest.raises(Malformed) as caught:
        manifest(bent(MANIFEST, "files", files))
    assert caught.value.where == "manifest.files"


@pytest.mark.parametrize(
    "text",
    [
        "console=hvc0",
        f"roothash={ROOT_HASH} roothash={ROOT_HASH}",
        f"roothash={'5b' * 32}",
        f"roothash={ROOT_HASH} roothash={'5b' * 32}",
        f"quiet xroothash={ROOT_HASH}",
    ],
)
def test_the_command_line_must_hold_the_root_hash_once(text: str) -> None:
    changed = bent(MANIFEST, "cmdline/text", text)
    record = {"sha256": sha256(text.encode()).hexdigest(), "size": len(text)}
    with pytest.raises(Malformed) as caught:
        manifest(bent(changed, "files/cmdline", record))
    assert caught.value.where == "manifest.cmdline.text"


def test_a_signature_covers_the_manifest() -> None:
    data, key = canonical(MANIFEST), KEY.public_key().public_bytes_raw()
    signature = ImageSignature.parse(ImageSignature.sign(data, KEY).encode())
    signature.verify(data, key=key)
    assert ImageSignature.sign(data, KEY) == signature
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
    for bytes_, wanted in ((data + b" ", key), (data, other)):
        with pytest.raises(Untrusted) as caught:
            signature.verify(bytes_, key=wanted)
        assert caught.value.code == "ManifestSignatureInvalid"
    with pytest.raises(Untrusted):  # signed by the wanted key, and says another
        ImageSignature(key=other, signature=signature.signature).verify(data, key=key)
    for bad in (
        ImageSignature(key=key, signature=bytes(64)),
        ImageSignature(key=key, signature=KEY.sign(sha256(data).digest())),
        ImageSignature(key=other, signature=signature.signature),
    ):
        with pytest.raises(Untrusted):
            bad.verify(data, key=bad.key)


@pytest.mark.parametrize(
    ("field", "value"),
    [("schema", "x"), ("key", "00" * 31), ("signature", "00" * 63), ("signature", None), ("more", 1)],
)
def test_a_bent_signature_is_malformed(field: str, value: object) -> None:
    document = json.loads(ImageSignature.sign(b"", KEY).encode())
    with pytest.raises(Malformed) as caught:
        ImageSignature.parse(canonical({**document, field: value}))
    assert caught.value.code == "MalformedManifest"


def test_a_shape_is_read_and_its_host_part_moves_no_digest() -> None:
    parsed = shape()
    assert (parsed.qemu, parsed.machine_type, parsed.memory) == ((10, 1), (10, 1), 2 << 30)
    assert Shape.parse(parsed.encode()) == parsed
    assert [device.disk for device in parsed.disks][:2] == ["rootfs", "verity"]
    moved = shape(bent(bent(SHAPE, "host/vsock_cid", 99), "host/forward", []))
    assert moved != parsed
    assert moved.digest == parsed.digest
    assert shape(bent(SHAPE, "memory_mib", 4096)).digest != parsed.digest
    assert shape(EMULATED).host.quote_socket is None
    assert shape(WITH_GPU).gpus[0].bar_mib == 131072


SHAPE_BENDS: list[tuple[str, Any]] = [
    ("schema", "sericin-shape/2"),
    ("name", "CPU"),
    ("name", "../cpu"),
    ("machine", "simulated"),
    ("qemu", "9.2"),
    ("qemu", "10"),
    ("qemu", "10.1.2"),
    ("machine_type", "q35"),
    ("machine_type", "pc-q35-10.2"),
    ("machine_type", "pc-i440fx-10.1"),
    ("vcpus", 0),
    ("vcpus", 1025),
    ("vcpus", 4.0),
    ("memory_mib", 511),
    ("memory_mib", 2**25),
    ("phys_bits", 35),
    ("phys_bits", 53),
    ("mmio64_mib", 0),
    ("mmio64_mib", ...),
    ("devices", []),
    ("devices/0/slot", 0),
    ("devices/0/slot", 31),
    ("devices/0/slot", 2),
    ("devices/0/slot", 11),
    ("devices/0/type", "vga"),
    ("devices/0/type", ["disk"]),
    ("devices/0/type", ...),
    ("devices/0/holds", "rootfs"),
    ("devices/1/holds", "shell"),
    ("devices/1/holds", "verity"),
    ("devices/1/holds", ...),
    ("devices/1", 7),
    ("devices/9/type", "network"),
    ("host/quote_socket", None),
    ("host/quote_socket", "tcp:127.0.0.1:4050"),
    ("host/quote_socket", "unix:/run/a,b"),
    ("host/vsock_cid", None),
    ("host/vsock_cid", 2),
    ("host/gpus", ["0000:41:00.0"]),
    ("host/forward/0/listen", "localhost:80"),
    ("host/forward/0/listen", "256.0.0.1:80"),
    ("host/forward/0/listen", "127.0.0.1:70000"),
    ("host/forward/0/guest_port", 0),
    ("host/more", 1),
    ("more", 1),
]


@pytest.mark.parametrize(("path", "value"), SHAPE_BENDS, ids=[f"{p}={str(v)[:24]}" for p, v in SHAPE_BENDS])
def test_a_bent_shape_is_malformed(path: str, value: Any) -> None:
    with pytest.raises(Malformed) as caught:
        shape(bent(SHAPE, path, value))
    assert caught.value.code == "MalformedShape"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("host/gpus", []),
        ("host/gpus", ["41:00.0"]),
        ("host/gpus", ["0000:41:00.8"]),
        ("devices/10/bar_mib", 3),
        ("devices/10/bar_mib", 2**21),
        ("devices/10/model", ""),
        ("devices/10/slot", 10),
    ],
)
def test_a_bent_gpu_is_malformed(path: str, value: Any) -> None:
    with pytest.raises(Malformed):
        shape(bent(WITH_GPU, path, value))


def _with(*devices: dict[str, Any], gpus: tuple[str, ...] = ()) -> dict[str, Any]:
    return bent(bent(SHAPE, "devices", [*SHAPE["devices"], *devices]), "host/gpus", list(gpus))


SECOND: dict[str, tuple[dict[str, Any], str]] = {
    "a second ledger": (_with({"slot": 20, "type": "disk", "holds": "ledger"}), "ledger"),
    "a second rootfs": (_with({"slot": 20, "type": "disk", "holds": "rootfs"}), "rootfs"),
    "a second network": (_with({"slot": 20, "type": "network"}), "network"),
    "a second vsock": (_with({"slot": 20, "type": "vsock"}), "vsock"),
    "a second console": (_with({"slot": 20, "type": "console"}), "console"),
    "a model in place of the tree": (bent(SHAPE, "devices/2/holds", "model"), "verity"),
    "a model in place of the config": (bent(SHAPE, "devices/4/holds", "model"), "config"),
    "one GPU for two slots": (_with(GPU, GPU | {"slot": 17}, gpus=("0000:41:00.0",) * 2), "each GPU once"),
}


@pytest.mark.parametrize(("document", "words"), SECOND.values(), ids=SECOND.keys())
def test_a_shape_has_each_thing_once_and_all_that_an_image_needs(document: dict[str, Any], words: str) -> None:
    with pytest.raises(Malformed, match=words):
        shape(document)


def test_models_and_gpus_may_be_several() -> None:
    several = _with(
        {"slot": 15, "type": "disk", "holds": "model"}, GPU, GPU | {"slot": 17}, gpus=("0000:41:00.0", "0000:42:00.0")
    )
    assert len(shape(several).gpus) == 2
    assert [disk.disk for disk in shape(several).disks].count("model") == 2


def test_an_emulated_machine_has_no_quote_socket() -> None:
    with pytest.raises(Malformed):
        shape(bent(EMULATED, "host/quote_socket", "vsock:2:4050"))
    with pytest.raises(Malformed):
        shape(bent(bent(EMULATED, "qemu", "7.1"), "machine_type", "pc-q35-7.1"))
    assert shape(bent(bent(EMULATED, "qemu", "7.2"), "machine_type", "pc-q35-7.2")).qemu == (7, 2)


def test_a_forward_needs_a_network() -> None:
    with pytest.raises(Malformed, match="network"):
        shape(bent(SHAPE, "devices/8", ...))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 3000), st.integers(0, 40))
def test_only_typed_errors_leave_the_readers(noise: bytes, at: int, gap: int) -> None:
    for reader, data in ((ImageManifest.parse, canonical(MANIFEST)), (Shape.parse, canonical(SHAPE))):
        try:
            reader(data[:at] + noise + data[at + gap :])
        except AttestationError:
            continue
