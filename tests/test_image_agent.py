# SPDX-License-Identifier: Apache-2.0
"""The boot agent: documents off disks, the platform's MRCONFIGID, authorities, and what a TPM's log may say."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from hashlib import sha384
from pathlib import Path

import pytest

from attestation.config import DiskPin, EnclaveConfig
from attestation.errors import AttestationError, Malformed
from attestation.operator import OperatorDocument
from attestation.tdx.eventlog import parse_event_log, replay
from attestation.verity import BLOCK
from enclave.agent import disks, health, steps
from enclave.agent.health import SCHEMA, Health, find_port
from enclave.agent.kernel import ignore_console
from enclave.agent.refusal import BootRefused
from enclave.image.devices import model_disk
from enclave.image.model_disk import digest_model_disk, write_model_disk
from enclave.image.state_disk import MAX_STATE, pack_state, read_state
from enclave.models.verity import VerityRoot
from enclave.seams import QuoteUnavailable
from enclave.simulator.firmware import FIRMWARE_PCRS, convert_log

SPEC_ID = b"Spec ID Event03\0" + bytes(8) + struct.pack("<IHH", 1, 0x0C, 48) + b"\0"


def machine(folder: Path, held: dict[str, bytes]) -> dict[str, Path]:
    """Make the /sys/block and /dev of a machine with these disks, by serial."""
    root, devices = folder / "block", folder / "dev"
    root.mkdir()
    devices.mkdir()
    for letter, (serial, data) in zip("abcdefgh", held.items(), strict=False):
        (root / f"vd{letter}").mkdir()
        (root / f"vd{letter}" / "serial").write_text(serial.partition("#")[0])
        (devices / f"vd{letter}").write_bytes(data)
    (root / "sr0").mkdir()
    return {"root": root, "devices": devices}


def test_a_document_is_read_without_its_padding(tmp_path: Path) -> None:
    places = machine(tmp_path, {"config": b'{"a": 1}'.ljust(512, b"\0"), "operator": bytes(512)})
    assert disks.read_document("config", limit=100, **places) == b'{"a": 1}'
    assert disks.read_document("operator", limit=100, **places) == b""
    assert disks.read_document("ledger", limit=100, **places) is None


@pytest.mark.parametrize("data", [b"x" * 101, b"x" * 100_000, bytes(5000) + b"x"])
def test_a_document_has_a_bound(tmp_path: Path, data: bytes) -> None:
    places = machine(tmp_path, {"config": data})
    with pytest.raises(BootRefused) as caught:
        disks.read_document("config", limit=100, **places)
    assert caught.value.code == "document_too_long"


def test_two_disks_with_one_serial_are_refused(tmp_path: Path) -> None:
    places = machine(tmp_path, {"config": b"1", "config#2": b"2"})
    with pytest.raises(BootRefused) as caught:
        disks.read_document("config", limit=100, **places)
    assert caught.value.code == "disk_twice"


def test_a_config_must_be_the_one_that_the_platform_was_launched_for() -> None:
    steps.require_config_id(b"config", None)
    steps.require_config_id(b"config", sha384(b"config").digest())
    for held in (sha384(b"other").digest(), bytes(48), b"", sha384(b"config").digest()[:47]):
        with pytest.raises(BootRefused) as caught:
            steps.require_config_id(b"config", held)
        assert caught.value.code == "config_mismatch"
        assert sha384(b"config").hexdigest() in str(caught.value)


def test_the_platform_says_its_config_id_where_it_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tdx, emulated, device = tmp_path / "tdx", tmp_path / "emulated", tmp_path / "device"
    monkeypatch.setattr(steps, "TDX_DEVICE", device)
    assert steps.platform_config_id(tdx=tdx, emulated=emulated) is None
    emulated.write_text("0a" * 48)
    assert steps.platform_config_id(tdx=tdx, emulated=emulated) == b"\x0a" * 48
    emulated.write_text("zz")
    with pytest.raises(BootRefused):
        steps.platform_config_id(tdx=tdx, emulated=emulated)
    device.touch()
    with pytest.raises(OSError, match="No such file"):  # a trust domain without the register does not fall back
        steps.platform_config_id(tdx=tdx, emulated=emulated)
    tdx.write_bytes(b"\x0b" * 48)
    assert steps.platform_config_id(tdx=tdx, emulated=emulated) == b"\x0b" * 48


def operator(**changed: str) -> OperatorDocument:
    document = {
        "schema": "sericin-operator/1", "listen": {"ra_tls": "10.0.2.15:8443"}, "state": "/run/sericin/state",
        "ledger": "/run/sericin/ledger", "model_dir": "/run/sericin/models", "ton_address": None,
        "prices": {"prompt": 0, "cached": 0, "completion": 0}, "contact": "",
    }  # fmt: skip
    return OperatorDocument.parse(json.dumps(document | changed).encode())


def test_an_operator_cannot_point_outside_of_what_the_agent_laid_out() -> None:
    steps.require_places(operator())
    for name in ("state", "ledger", "model_dir"):
        with pytest.raises(BootRefused) as caught:
            steps.require_places(operator(**{name: "/sys/kernel/config"}))
        assert caught.value.code == "operator_paths"
        assert name in str(caught.value)


def test_a_model_disk_is_what_its_pin_says(tmp_path: Path) -> None:
    model = tmp_path / "any-name.gguf"
    model.write_bytes(b"GGUF" + b"m" * 9000)
    path, pin = write_model_disk(model, tmp_path, progress=lambda _: None)
    assert digest_model_disk(model, progress=lambda _: None) == pin
    data = path.read_bytes()
    verity = VerityRoot()
    verity.update(data[: pin.blocks * BLOCK])
    assert verity.tree() == (pin.root, data[pin.blocks * BLOCK :])
    assert not list(tmp_path.glob(".model-*"))
    model.write_bytes(b"GGUF" + b"m" * 8999 + b"n")
    assert digest_model_disk(model, progress=lambda _: None) != pin
    assert [model_disk(i) for i in range(3)] == ["model", "model1", "model2"]


@pytest.mark.parametrize("held", [{}, {"model": bytes(4096)}, {"model": bytes(8192)}])
def test_a_model_without_its_whole_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: dict[str, bytes]
) -> None:
    places = machine(tmp_path, held)
    for device in places["root"].glob("vd*"):
        (device / "size").write_text(f"{(places['devices'] / device.name).stat().st_size // 512}\n")
    monkeypatch.setattr(disks, "BLOCK_DEVICES", places["root"])
    monkeypatch.setattr(disks.find_disk, "__kwdefaults__", {"root": places["root"]})
    with pytest.raises(BootRefused) as caught:
        disks.open_model("model", DiskPin(root=bytes(32), blocks=2), tmp_path / "mounted", name="small")
    assert caught.value.code == ("model_wrong" if held else "model_missing")
    assert "small" in str(caught.value)


def test_a_config_without_disks_opens_no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(steps, "MODELS", tmp_path / "models")
    config = {
        "schema": "sericin-config/1", "machine": "tdx", "gpu": {"mode": "none", "count": 0},
        "engine": {"kind": "llama", "n_ctx": 512, "n_seq": 1, "n_ubatch": 64, "threads": 1},
        "models": [{"name": "m", "sha256": "00" * 32}],
        "limits": {"max_request_bytes": 4096, "max_completion_tokens": 16, "queue_length": 1},
        "anchor_within": 60, "retention": 0, "logging": "codes",
    }  # fmt: skip
    with pytest.raises(BootRefused) as caught:
        steps._open_models(EnclaveConfig.parse(json.dumps(config).encode()))
    assert caught.value.code == "model_unpinned"


def test_authorities_travel_whole_and_nothing_else_does(tmp_path: Path) -> None:
    for name, text in (("tdx-ca.json", "{}"), ("root.pem", "PEM\n"), ("public.json", "{}"), ("notes.txt", "n")):
        (tmp_path / name).write_text(text)
    data = pack_state(tmp_path, leave=frozenset({"public.json"}))
    assert read_state(data) == {"tdx-ca.json": b"{}", "root.pem": b"PEM\n"}


@pytest.mark.parametrize(
    "files",
    [{}, {"../x.pem": ""}, {"a/b.pem": ""}, {"x": 1}, {".x": ""}, {"X": ""}, {str(i): "" for i in range(17)}, []],
)
def test_authorities_with_other_names_are_refused(files: object) -> None:
    with pytest.raises(Malformed):
        read_state(json.dumps({"schema": "sericin-state/1", "files": files}).encode())
    with pytest.raises(Malformed):
        read_state(b" " * (MAX_STATE + 1))


def tpm_log(*events: tuple[int, int, bytes], spec: bytes = SPEC_ID, algorithm: int = 0x0C) -> bytes:
    log = struct.pack("<II20xI", 0, 3, len(spec)) + spec
    for pcr, kind, data in events:
        log += (
            struct.pack("<IIIH", pcr, kind, 1, algorithm) + sha384(data).digest() + struct.pack("<I", len(data)) + data
        )
    return log


EVENTS = ((0, 8, b"version"), (7, 0x80000001, b"SecureBoot"), (1, 0xA, b"acpi"), (4, 0x80000003, b"kernel"),
          (9, 6, b"cmdline"), (9, 6, b"initrd"), (5, 0x80000007, b"exit"), (0, 3, b"locality"))  # fmt: skip


def pcrs(events: tuple[tuple[int, int, bytes], ...] = EVENTS) -> list[bytes]:
    values = [bytes(48)] * FIRMWARE_PCRS
    for pcr, kind, data in events:
        if kind != 3:
            values[pcr] = sha384(values[pcr] + sha384(data).digest()).digest()
    return values


def test_what_a_tpm_holds_becomes_the_registers_of_a_trust_domain() -> None:
    rtmr = [bytes(48)] * 3
    for register, data in (
        (0, b"SecureBoot"),
        (0, b"acpi"),
        (1, b"kernel"),
        (2, b"cmdline"),
        (2, b"initrd"),
        (1, b"exit"),
    ):
        rtmr[register] = sha384(rtmr[register] + sha384(data).digest()).digest()
    log = convert_log(tpm_log(*EVENTS), pcrs())
    assert list(replay(parse_event_log(log))[:3]) == rtmr


@pytest.mark.parametrize("at", range(len(EVENTS) - 1))
def test_a_log_with_another_event_is_not_what_the_tpm_holds(at: int) -> None:
    pcr, kind, data = EVENTS[at]
    other = (*EVENTS[:at], (pcr, kind, data + b"!"), *EVENTS[at + 1 :])
    for events in (other, (*EVENTS[:at], *EVENTS[at + 1 :]), (*EVENTS, (pcr, kind, b"more"))):
        with pytest.raises(QuoteUnavailable, match=f"PCR {pcr}"):
            convert_log(tpm_log(*events), pcrs())


def test_a_log_that_cannot_be_read_is_refused() -> None:
    whole = tpm_log(*EVENTS)
    for cut in (0, 10, 40, 70, 100, len(whole) - 1):
        with pytest.raises((AttestationError, QuoteUnavailable)):
            convert_log(whole[:cut], pcrs())
    with pytest.raises(QuoteUnavailable, match="SHA-384 alone"):
        convert_log(tpm_log(*EVENTS, algorithm=0x0B), pcrs())
    with pytest.raises(QuoteUnavailable, match="PCR 10"):
        convert_log(tpm_log(*EVENTS, (10, 6, b"x")), pcrs())
    with pytest.raises(QuoteUnavailable, match="more than"):
        convert_log(bytes(1 << 20), pcrs())


def test_the_kernel_is_made_deaf_to_the_hosts_console(tmp_path: Path) -> None:
    switch = tmp_path / "sysrq"
    ignore_console(switch)
    assert not switch.exists(), "a kernel without it needs no telling"
    switch.write_text("438\n")
    ignore_console(switch)
    assert switch.read_text() == "0"


class TestHealthOverVsock:
    """Whoever connects is told one line and hung up on, whatever they say. Other sockets stand in for vsock's."""

    def test_it_listens_on_its_port_for_anybody(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        asked: list[object] = []

        class Played:
            def __init__(self, family: int, kind: int) -> None:
                asked.append((family, kind))

            def bind(self, address: object) -> None:
                asked.append(address)

            def listen(self, backlog: int) -> None:
                asked.append(backlog > 0)

        monkeypatch.setattr(health, "VSOCK", tmp_path / "vsock")
        monkeypatch.setattr(socket, "socket", Played)
        assert health._listen() is None, "no such device: the port alone says it"
        (tmp_path / "vsock").touch()
        assert health._listen() is not None
        assert asked == [(socket.AF_VSOCK, socket.SOCK_STREAM), (socket.VMADDR_CID_ANY, 9400), True]

    def test_it_says_one_line_and_hears_nothing(self) -> None:
        said, pairs = Health(), [socket.socketpair() for _ in range(3)]
        said.set("serving", ready={"event": "ready"})
        for (visitor, _), words in zip(pairs, (b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 4096), strict=True):
            visitor.sendall(words)
        waiting = iter(pairs)

        class Listener:
            def accept(self) -> tuple[socket.socket, None]:
                return next(waiting)[1], None

        with pytest.raises(StopIteration):
            said._answer(Listener())  # type: ignore[arg-type]  # as much of a listener as it asks for
        for visitor, _ in pairs:
            with visitor:
                row = json.loads(visitor.recv(65536))
                assert (row["schema"], row["stage"], row["ready"]) == (SCHEMA, "serving", {"event": "ready"})
                with contextlib.suppress(ConnectionResetError):  # what it never read is thrown away
                    assert visitor.recv(65536) == b""


def test_health_says_the_stage_and_no_more(tmp_path: Path) -> None:
    said = Health()
    said.set("refused", code="model_wrong", why="model m: ...")
    row = json.loads(said.line())
    assert row.pop("uptime") > 0
    assert row == {"schema": SCHEMA, "stage": "refused", "code": "model_wrong", "why": "model m: ..."}
    said.set("loading")
    assert set(json.loads(said.line())) == {"schema", "uptime", "stage"}
    for name, text in (("vport0p0", None), ("vport0p1", "sericin.health\n")):
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "name").write_text(text)
    assert find_port(tmp_path) == Path("/dev/vport0p1")
    assert find_port(tmp_path / "nothing") is None
