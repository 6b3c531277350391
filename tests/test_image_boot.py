# SPDX-License-Identifier: Apache-2.0
"""A built image under emulation: what serves and is accepted, and what refuses to boot, to serve, or to be believed.

Needs a built image (`SERICIN_IMAGE`, which scripts/test-image sets), QEMU and swtpm. One machine at a time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attestation.config import DiskPin
from attestation.errors import AttestationError
from attestation.evidence import Evidence
from attestation.policy import Policy
from attestation.tdx.eventlog import parse_event_log
from attestation.tdx.measure import BootFiles, predict
from client.__main__ import cli
from client.attested import Attested, attest
from client.policy_making import from_simulator, printed
from client.target import parse_target
from enclave.image.model_disk import write_model_disk
from enclave.launch.launching import make_disk
from tests.forged import MODEL
from tests.image_guests import (
    NEEDED,
    Copy,
    EmulatorCrashed,
    Guest,
    authorities,
    copy_image,
    documents,
    guest,
    missing_tools,
    shape,
)

IMAGE = Path(os.environ.get("SERICIN_IMAGE", ""))
SERVES = r"sericin agent: serving \{.*\}"
SECRET = "quitte mispel zwetschge"  # what nobody but the enclave and its client may ever see
REFUSES = r"sericin agent: REFUSED (\w+): .*"


def require_image() -> Path:
    if not os.environ.get("SERICIN_IMAGE"):
        pytest.skip("no built image: scripts/test-image builds one")
    if missing := missing_tools():
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: qemu-system-x86, swtpm, swtpm-tools)")
    return IMAGE


@pytest.fixture(scope="module")
def image() -> Path:
    return require_image()


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """An image, what is given to it, and the policy that accepts exactly this."""

    image: Path
    held: dict[str, bytes]
    policy_file: Path

    @property
    def policy(self) -> Policy:
        return Policy.parse(self.policy_file.read_bytes())


@pytest.fixture(scope="module")
def emulated(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    state = tmp_path_factory.mktemp("state")
    held = documents(image)
    held["state"] = authorities(state, Copy(folder=image).manifest, held["config"])
    policy = state / "policy.json"
    policy.write_text(printed(from_simulator(state, now=datetime.now(UTC))))
    return Emulated(image=image, held=held, policy_file=policy)


@contextmanager
def attested(found: Guest, policy: Policy) -> Iterator[Attested]:
    target = parse_target(f"https://127.0.0.1:{found.port}")
    client = attest(target, policy, now=lambda: datetime.now(UTC), allow_unconfidential=True, timeout=120)
    try:
        yield client
    finally:
        client.connection.close()


def test_the_image_boots_and_a_client_accepts_it_and_gets_an_answer(emulated: Emulated, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    make_disk(ledger, 1 << 20)
    with guest(tmp_path / "guest", Copy(folder=emulated.image), emulated.held, ledger=ledger) as found:
        found.wait_for(SERVES)
        found.type(b"\x0fh" + b"\x0fe" + b"\x0fc" + b"\x03\n")  # SysRq: help, end all, crash; and Ctrl-C
        with attested(found, emulated.policy) as client:
            assert client.verdict.accepted
            assert not client.verdict.confidential
            measured = Evidence.decode(client.evidence).firmware_log
        said = ask(found, emulated.policy_file)
        assert "sysrq" not in found.text(), "the kernel does not even say that it is deaf"
        wait_for_records(ledger)
    assert said["ok"]
    assert said["receipt"]
    assert SECRET in said["text"], "this engine repeats what it was asked"
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):  # console, documents, TPM, ledger
        assert SECRET.encode() not in path.read_bytes(), f"{path} has the question"
    predicted = prediction(emulated)
    logged = parse_event_log(measured)
    for register in range(3):
        wanted = [event.digest for event in predicted.of(register)]
        got = [event.digest for event in logged if event.register == register]
        assert len(got) == len(wanted)
        assert all(want in {None, digest} for want, digest in zip(wanted, got, strict=True))
    assert predicted.rtmr(1) is not None
    assert predicted.rtmr(2) is not None


def wait_for_records(ledger: Path) -> None:
    """Wait until the guest has brought its registration and its receipt to the disk, which it does every second."""
    end = time.monotonic() + 60
    while not all(word in ledger.read_bytes() for word in (b"registration", b"receipt")):
        assert time.monotonic() < end, "the host has no receipt in its ledger"
        time.sleep(0.2)


def ask(found: Guest, policy: Path) -> dict[str, Any]:
    """Ask as a person does, and verify the receipt on the way."""
    words = ["ask", f"https://127.0.0.1:{found.port}", SECRET, "--policy", str(policy), "--max-tokens", "8"]
    result = CliRunner().invoke(cli, [*words, "--json"])
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def prediction(emulated: Emulated) -> Any:
    read = {name: (emulated.image / name).read_bytes() for name in ("OVMF.fd", "vmlinuz", "initrd")}
    files = BootFiles(
        firmware=read["OVMF.fd"],
        kernel=read["vmlinuz"],
        initrd=read["initrd"],
        cmdline=(emulated.image / "cmdline").read_text(),
    )
    return predict(files, shape(1, NEEDED), acpi=None)


def other_kernel(data: bytes) -> bytes:
    """Change what the kernel says of itself: it boots as before."""
    at = data.index(b"Debian 7.") if b"Debian 7." in data[:65536] else data.index(b" #1 ")
    return data[:at] + data[at : at + 1].swapcase() + data[at + 1 :]


CHANGES = {
    "cmdline": lambda data: data + b" quiet",
    "initrd": lambda data: data + bytes(512),
    "vmlinuz": other_kernel,
}


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_another_kernel_initrd_or_command_line_is_refused_by_the_client(
    emulated: Emulated, tmp_path: Path, name: str
) -> None:
    bent = copy_image(emulated.image, tmp_path / "image")
    bent.change(name, CHANGES[name]((emulated.image / name).read_bytes()))
    # The host shows the true manifest: what it says is not believed.
    with guest(tmp_path / "guest", bent, emulated.held) as found:
        found.wait_for(SERVES)
        with pytest.raises(AttestationError) as caught, attested(found, emulated.policy):
            pass
    assert caught.value.code == "ImageUnknown"


def booted(tmp_path: Path, image: Copy, held: dict[str, bytes], pattern: str, **options: Any) -> str:
    """Boot without firmware and give the line that refuses; then the machine must end by itself."""
    try:
        return _booted(tmp_path / "guest", image, held, pattern, **options)
    except EmulatorCrashed:
        return _booted(tmp_path / "guest again", image, held, pattern, **options)


def _booted(folder: Path, image: Copy, held: dict[str, bytes], pattern: str, **options: Any) -> str:
    with guest(folder, image, held, firmware=False, **options) as found:
        line = found.wait_for(pattern)
        found.wait_for_end()
        assert "serving" not in found.text()
    return line


def test_a_tampered_root_file_system_ends_the_boot(emulated: Emulated, tmp_path: Path) -> None:
    bent = copy_image(emulated.image, tmp_path / "image")
    data = bytearray((emulated.image / "rootfs.img").read_bytes())
    at = data.index(b"\x7fELF", 1 << 20)
    for start in range(at, len(data), 64 * 4096):  # wherever the interpreter reads
        data[start] ^= 1
    bent.change("rootfs.img", bytes(data))
    line = booted(tmp_path, bent, emulated.held, r"device-mapper: verity: .*data block \d+ is corrupted")
    assert "verity" in line


def test_a_wrong_root_hash_ends_the_boot(emulated: Emulated, tmp_path: Path) -> None:
    bent = copy_image(emulated.image, tmp_path / "image")
    root = bent.manifest.rootfs.root_hash.hex()
    bent.change("cmdline", bent.manifest.cmdline.replace(root, root[:-1] + ("0" if root[-1] != "0" else "1")).encode())
    line = booted(tmp_path, bent, emulated.held, r"device-mapper: verity: .*metadata block \d+ is corrupted")
    assert "metadata" in line


def test_a_command_line_without_a_root_hash_ends_the_boot(emulated: Emulated, tmp_path: Path) -> None:
    bent = copy_image(emulated.image, tmp_path / "image")
    text = bent.manifest.cmdline
    (bent.folder / "cmdline").unlink()
    for words in (text.replace(" roothash=", " other="), f"{text} rootblocks=1"):
        (tmp_path / "case").mkdir(exist_ok=True)
        line = booted_with(tmp_path / "case", bent, emulated.held, words)
        assert "the command line has no single" in line


def booted_with(folder: Path, image: Copy, held: dict[str, bytes], cmdline: str) -> str:
    import dataclasses

    class Bent(Copy):
        @property
        def manifest(self) -> Any:
            return dataclasses.replace(super().manifest, cmdline=cmdline)

    place = folder / str(len(list(folder.iterdir())))
    place.mkdir()
    return booted(place, Bent(folder=image.folder), held, r"sericin init: .*no single.*")


def test_a_config_that_the_platform_was_not_launched_for_is_refused(emulated: Emulated, tmp_path: Path) -> None:
    line = booted(tmp_path, Copy(folder=emulated.image), emulated.held, REFUSES, config_id=bytes(47) + b"\1")
    assert "REFUSED config_mismatch: config: SHA-384" in line


def test_a_malformed_config_and_absent_documents_are_refused(emulated: Emulated, tmp_path: Path) -> None:
    whole = Copy(folder=emulated.image)
    (tmp_path / "one").mkdir()
    line = booted(tmp_path / "one", whole, {**emulated.held, "config": b'{"schema": "other"}'}, REFUSES)
    assert "REFUSED document_malformed" in line
    (tmp_path / "two").mkdir()
    held = {name: data for name, data in emulated.held.items() if name != "state"}
    assert "REFUSED state_missing" in booted(tmp_path / "two", whole, held, REFUSES)


def test_a_wrong_model_is_refused_before_anything_is_served(emulated: Emulated, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + b"m" * 50_000)
    disk, pin = write_model_disk(model, tmp_path, progress=lambda _: None)
    wanted = DiskPin(root=bytes([pin.root[0] ^ 1]) + pin.root[1:], blocks=pin.blocks)
    held = {**emulated.held, **llama_config(emulated.image, wanted)}
    line = booted(tmp_path, Copy(folder=emulated.image), held, REFUSES, models=(disk,))
    assert (
        f"REFUSED model_wrong: model {MODEL}: its disk does not hash to the config's root {wanted.root.hex()}" in line
    )


def llama_config(image: Path, pin: DiskPin) -> dict[str, bytes]:
    model = {"name": MODEL, "sha256": "00" * 32, "disk": {"root": pin.root.hex(), "blocks": pin.blocks}}
    engine = {"kind": "llama", "n_ctx": 512, "n_seq": 1, "n_ubatch": 64, "threads": 1}
    return {"config": documents(image, engine=engine, models=[model])["config"]}
