# SPDX-License-Identifier: Apache-2.0
"""`sericin doctor`: what a shape and an image ask for, and what a person and a program read."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from enclave.commands.doctor import command, report, wanted
from enclave.doctor.check import Wanted
from enclave.doctor.checks import CHECKS
from tests.image_forms import SHAPE, bent, shape
from tests.launch_cases import GPU_SHAPE, launchable
from tests.recorded_host import GPU, SOCKET, RecordedHost, look, wrong


class TestShape:
    """With a shape, its host part decides what is looked at."""

    def test_what_a_shape_wants(self) -> None:
        asked = wanted(shape(), firmware=None, qemu="q")
        assert asked == Wanted(qemu="q", release=(10, 1), memory=2 << 30, phys_bits=46, gpus=(), quote_socket=SOCKET)
        over_vsock = wanted(shape(bent(GPU_SHAPE, "host/quote_socket", "vsock:2:4051")), firmware=None, qemu="q")
        assert (over_vsock.quote_socket, over_vsock.quote_port, over_vsock.gpus) == (None, 4051, (GPU,))
        assert over_vsock.memory == 96 << 30

    def test_another_release_than_the_shape_says(self, host: RecordedHost) -> None:
        assert wrong(host, Wanted(release=(10, 1))) == {}
        assert wrong(host, Wanted(release=(11, 1))) == {"qemu.version": "fails"}
        assert "install QEMU 11.1" in look(host, Wanted(release=(11, 1)))["qemu.version"].mend

    def test_files_on_the_command_line(self, tmp_path: Path) -> None:
        case = launchable(tmp_path / "case")
        words = ["--json", "--shape", str(case.shape(SHAPE)), "--image", str(case.image)]
        checks = {c["name"]: c for c in json.loads(CliRunner().invoke(command, words).output)["checks"]}
        assert checks["qemu.firmware"]["status"] == "ok"
        assert checks["gpu.present"]["found"] == "the shape has no GPU"
        (case.image / "OVMF.fd").write_bytes(b"another")
        checks = {c["name"]: c for c in json.loads(CliRunner().invoke(command, words).output)["checks"]}
        assert checks["qemu.firmware"]["status"] == "fails"

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        assert CliRunner().invoke(command, ["--shape", str(tmp_path / "none")]).exit_code == 2
        (tmp_path / "shape").write_text("{}")
        assert CliRunner().invoke(command, ["--shape", str(tmp_path / "shape")]).exit_code == 3
        assert CliRunner().invoke(command, ["--image", str(tmp_path)]).exit_code == 2


class TestCommand:
    def test_this_machine(self) -> None:
        result = CliRunner().invoke(command, ["--json"])
        document = json.loads(result.output)
        assert document["exit"] == result.exit_code == (0 if document["ok"] else 1)
        assert [check["name"] for check in document["checks"]] == [check.name for check in CHECKS]
        assert all(set(check) == {"name", "status", "want", "found", "mend"} for check in document["checks"])

    def test_a_person_reads_what_to_do(self) -> None:
        result = CliRunner().invoke(command, ["--qemu", "/nowhere/qemu"])
        assert result.exit_code == 1
        assert "to mend: install QEMU 10.1 or newer" in result.output
        assert "This host cannot launch enclaves." in result.output

    def test_good_and_bad_reports(self, host: RecordedHost) -> None:
        good = report(list(look(host).values()))
        assert (good["ok"], good["exit"]) == (True, 0)
        host.remove("dev/kvm")
        bad = report(list(look(host).values()))
        assert (bad["ok"], bad["exit"]) == (False, 1)
