# SPDX-License-Identifier: Apache-2.0
"""A quote beside an image: equal, or the first event that differs, what was expected, what came and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha384
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from attestation.image import AcpiDigests
from attestation.policy import Policy
from attestation.tdx import measure_efi
from attestation.tdx.eventlog import LogEvent, parse_event_log
from attestation.tdx.measure import BootFiles, Predicted, Prediction, predict
from attestation.tdx.measure_compare import Comparison, compare_report
from attestation.tdx.measure_firmware import Firmware
from attestation.tdx.measure_kernel import authenticode, patched
from attestation.tdx.measure_layout import _LAYOUTS
from attestation.tdx.quote import Quote, TdReport
from client import quote_check
from client.commands.quote import command
from client.measuring import acpi_document
from client.policy_making import with_image
from enclave.simulator.tdx_quote import QuotePlan, ReportPlan
from tests.forged import policy_document
from tests.image_folder import DEBIAN_13, boot_files, know_firmware, write_image
from tests.image_forms import SHAPE, bent, shape
from tests.kernel_forms import Kernel
from tests.tdx_cases import NOW, Case, authority
from tests.test_tdx_eventlog import SPEC, record

AT = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
FILES = boot_files()
LAYOUT = _LAYOUTS[DEBIAN_13]
ACPI = AcpiDigests(loader=b"\1" * 48, rsdp=b"\2" * 48, tables=b"\3" * 48)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    know_firmware(monkeypatch, FILES.firmware)


def payload(event: Predicted) -> bytes:
    """Give what the log of a real machine holds beside the digest, where the digest is of that."""
    data = {"BootOrder": measure_efi.boot_order(1), "Boot0000": LAYOUT.boot_options[0]}
    if event.type == measure_efi.EV_SEPARATOR:
        return bytes(4)
    if event.type == measure_efi.EV_EFI_ACTION:
        return event.name.encode()
    if event.type in {measure_efi.EV_EFI_VARIABLE_BOOT, measure_efi.EV_EFI_VARIABLE_DRIVER_CONFIG}:
        vendor = {name: guid for guid, name in measure_efi.SECURE_BOOT_VARIABLES}.get(event.name)
        value = data.get(event.name, b"")
        lengths = len(event.name).to_bytes(8, "little") + len(value).to_bytes(8, "little")
        return (vendor.bytes_le if vendor else bytes(16)) + lengths + event.name.encode("utf-16-le") + value
    return b"something else"


def logged(prediction: Prediction) -> tuple[LogEvent, ...]:
    """Give the log that a machine which measures as predicted would keep."""
    return tuple(
        LogEvent(register=event.register, type=event.type, digest=event.digest or b"\7" * 48, payload=payload(event))
        for event in prediction.events
    )


def binary(log: tuple[LogEvent, ...]) -> bytes:
    """Give a log as a CCEL."""
    return SPEC + b"".join(record(event.register + 1, event.type, event.digest, event.payload) for event in log)


def report(mr_td: bytes, log: tuple[LogEvent, ...]) -> TdReport:
    """Give a TD report that holds these measurements."""
    plain = Quote.parse(QuotePlan.of(authority(), ReportPlan()).sign()).report
    rtmr = [bytes(48)] * 4
    for event in log:
        rtmr[event.register] = sha384(rtmr[event.register] + event.digest).digest()
    return replace(plain, mr_td=mr_td, rtmr=(rtmr[0], rtmr[1], rtmr[2], rtmr[3]))


def held_against(
    files: BootFiles = FILES,
    document: dict[str, Any] = SHAPE,
    *,
    acpi: AcpiDigests = ACPI,
    change: Callable[[list[LogEvent]], list[LogEvent]] = lambda log: log,
    with_log: bool = True,
) -> dict[str, Comparison]:
    """Boot other files in another shape, and hold that against what FILES in SHAPE must measure."""
    machine = predict(files, shape(document), acpi=acpi)
    log = tuple(change(list(logged(machine))))
    expected = predict(FILES, shape(), acpi=ACPI)
    found = compare_report(expected, report(machine.mr_td, log), FILES, shape(), log=log if with_log else None)
    return {comparison.register: comparison for comparison in found}


def differing(found: dict[str, Comparison]) -> list[str]:
    return [name for name, comparison in found.items() if not comparison.equal]


@pytest.mark.parametrize("with_log", [True, False])
def test_the_image_itself_is_equal(*, with_log: bool) -> None:
    found = held_against(with_log=with_log)
    assert list(found) == ["mr_td", "rtmr0", "rtmr1", "rtmr2"]
    assert differing(found) == []
    assert all(comparison.difference is None for comparison in found.values())


OTHER = [
    ("initrd", replace(FILES, initrd=b"evil"), SHAPE, "rtmr2", "initrd", "another initrd"),
    ("command line", replace(FILES, cmdline="init=/bin/sh"), SHAPE, "rtmr2", "command line", "another command line"),
    (
        "kernel",
        replace(FILES, kernel=FILES.kernel[:-1] + bytes([FILES.kernel[-1] ^ 1])),
        SHAPE,
        "rtmr1",
        "kernel",
        "another kernel",
    ),
    ("memory", FILES, bent(SHAPE, "memory_mib", 8192), "rtmr0", "TD HOB", "8 GiB of memory in place of 2048 MiB"),
    ("odd memory", FILES, bent(SHAPE, "memory_mib", 8193), "rtmr0", "TD HOB", "another amount of memory"),
]


@pytest.mark.parametrize(
    ("files", "document", "register", "event", "cause"), [row[1:] for row in OTHER], ids=[row[0] for row in OTHER]
)
def test_the_first_event_that_differs_is_named(
    files: BootFiles, document: dict[str, Any], register: str, event: str, cause: str
) -> None:
    found = held_against(files, document)
    assert differing(found) == [register]
    difference = found[register].difference
    assert difference is not None
    assert difference.event == event
    assert difference.expected != difference.got
    assert cause in difference.cause
    assert difference.expected is not None
    assert difference.expected.hex() in str(difference)


def digest_of(name: str, digest: bytes) -> Callable[[list[LogEvent]], list[LogEvent]]:
    """Give a change of a log: the predicted event of this name has another digest."""
    at = next(i for i, event in enumerate(predict(FILES, shape(), acpi=ACPI).events) if event.name == name)
    return lambda log: [*log[:at], replace(log[at], digest=digest), *log[at + 1 :]]


BY_QEMU = authenticode(patched(FILES.kernel, initrd_size=len(FILES.initrd), memory=shape().memory))
OTHER_SIDE = sha384(f"initrd=initrd {FILES.cmdline}\0".encode("utf-16-le")).digest()


@pytest.mark.parametrize("with_log", [True, False], ids=["log", "no log"])
@pytest.mark.parametrize(
    ("changed", "digest", "document", "register", "event", "cause"),
    [
        ("kernel", BY_QEMU, SHAPE, "rtmr1", "kernel", "QEMU release that patches"),
        ("command line", OTHER_SIDE, SHAPE, "rtmr2", "command line", "other side of the command line"),
        (None, b"", bent(SHAPE, "memory_mib", 65536), "rtmr0", "TD HOB", "64 GiB of memory"),
    ],
    ids=["patched kernel", "command line form", "memory"],
)
def test_what_hosts_are_known_to_do_is_named_even_without_a_log(
    changed: str | None,
    digest: bytes,
    document: dict[str, Any],
    register: str,
    event: str,
    cause: str,
    *,
    with_log: bool,
) -> None:
    change = digest_of(changed, digest) if changed is not None else list
    found = held_against(document=document, change=change, with_log=with_log)
    assert differing(found) == [register]
    difference = found[register].difference
    assert difference is not None
    assert (difference.event, cause in difference.cause) == (event, True)


def test_without_a_log_an_unknown_difference_has_no_event() -> None:
    found = held_against(replace(FILES, initrd=b"evil"), with_log=False)
    assert differing(found) == ["rtmr2"]
    assert found["rtmr2"].difference is None


def test_a_kernel_that_older_hosts_could_not_load_is_compared_all_the_same() -> None:
    """As shipped it needs no boot header that QEMU could patch."""
    files = replace(FILES, kernel=Kernel(protocol=0x200).data())
    expected = predict(files, shape(), acpi=ACPI)
    machine = report(expected.mr_td, logged(expected))
    assert all(comparison.equal for comparison in compare_report(expected, machine, files, shape(), log=None))


def test_acpi_tables_name_what_moves_them() -> None:
    found = held_against(acpi=replace(ACPI, tables=b"\4" * 48))
    difference = found["rtmr0"].difference
    assert difference is not None
    assert (difference.event, difference.got) == ("ACPI tables", b"\4" * 48)
    assert "vCPUs" in difference.cause


@pytest.mark.parametrize(
    ("change", "number", "words"),
    [
        (lambda log: [*log, log[-1]], 5, "beyond the last"),
        (lambda log: log[:-1], 4, "Returned with Success"),
        (lambda log: [LogEvent(register=1, type=0x80000004, digest=b"\6" * 48, payload=b""), *log], 0, "kernel"),
    ],
    ids=["one more", "one less", "an option ROM in front"],
)
def test_events_too_many_and_too_few_are_named(change: Any, number: int, words: str) -> None:
    found = held_against(change=change)
    assert differing(found) == ["rtmr1"]
    difference = found["rtmr1"].difference
    assert difference is not None
    assert (difference.number, words in difference.event) == (number, True)
    assert "event" in str(difference)


def test_two_passes_over_the_firmware_are_told_from_another_firmware() -> None:
    expected = predict(FILES, shape(), acpi=ACPI)
    two = Firmware.parse(FILES.firmware).mr_td(single_pass=False)
    causes = []
    for mr_td in (two, b"\7" * 48):
        (first, *_) = compare_report(expected, report(mr_td, logged(expected)), FILES, shape(), log=None)
        assert first.difference is not None
        causes.append(first.difference.cause)
    assert "adds all pages" in causes[0]
    assert "another firmware" in causes[1]


def test_without_acpi_digests_rtmr0_is_open_and_every_other_event_still_held() -> None:
    """Digests of a log are never taken for our own."""
    machine = predict(FILES, shape(), acpi=ACPI)
    expected = predict(FILES, shape(), acpi=None)
    log = logged(machine)
    found = {c.register: c for c in compare_report(expected, report(machine.mr_td, log), FILES, shape(), log=log)}
    assert (found["rtmr0"].expected, found["rtmr0"].difference) == (None, None)
    assert "ACPI" in found["rtmr0"].why
    for at, other in ((2, replace(log[2], digest=b"\5" * 48)), (8, replace(log[8], type=4))):
        changed = (*log[:at], other, *log[at + 1 :])
        quoted = report(machine.mr_td, changed)
        found = {c.register: c for c in compare_report(expected, quoted, FILES, shape(), log=changed)}
        difference = found["rtmr0"].difference
        assert difference is not None
        assert difference.event == expected.events[at].name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image, its shape, ACPI digests, and a policy that knows nothing but the image."""
    manifest = write_image(tmp_path / "image", [shape()])
    (tmp_path / "shape.json").write_text(json.dumps(SHAPE))
    (tmp_path / "acpi.json").write_text(json.dumps(acpi_document(ACPI, shape())))
    root = authority().root_pem
    roots = {"kind": "simulated", "tdx_root": root, "gpu_device_root": root, "gpu_rim_root": root}
    policy = with_image(policy_document(roots=roots), manifest, manifest.measurements, now=NOW)
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    return tmp_path


def verify(folder: Path, log: tuple[LogEvent, ...], *more: object, event_log: bytes | None = None) -> dict[str, Any]:
    """Run `sericin quote verify` over a quote that holds what `log` replays to."""
    machine = predict(FILES, shape(), acpi=ACPI)
    held = report(machine.mr_td, log)
    case = Case.new(1)
    case.quote = QuotePlan.of(authority(), ReportPlan(mr_td=held.mr_td, rtmr=(*held.rtmr[:3], b"\t" * 48)))
    case.build()
    (folder / "quote").write_bytes(case.signed)
    (folder / "collateral.json").write_bytes(case.text)
    (folder / "log").write_bytes(binary(log) if event_log is None else event_log)
    arguments = ["verify", folder / "quote", "--collateral", folder / "collateral.json", "--at", AT]
    arguments += ["--policy", folder / "policy.json", *more]
    words = [str(a) for a in arguments]
    shown = CliRunner().invoke(command, words, catch_exceptions=False)
    result = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["exit"] == result.exit_code == shown.exit_code
    return {**found, "shown": shown.stdout}


def image(folder: Path, *more: object) -> list[object]:
    return ["--image", folder / "image", "--shape", folder / "shape.json", *more]


def test_a_quote_of_the_image_is_accepted(folder: Path) -> None:
    log = logged(predict(FILES, shape(), acpi=ACPI))
    found = verify(folder, log, *image(folder, "--acpi", folder / "acpi.json", "--event-log", folder / "log"))
    assert found["ok"] is True
    assert [(m["register"], m["equal"]) for m in found["measurements"]] == [
        ("mr_td", True), ("rtmr0", True), ("rtmr1", True), ("rtmr2", True),
    ]  # fmt: skip
    assert found["image"] is not None
    assert "RTMR3      not compared" in found["shown"]  # the runtime log keeps its events, not the firmware's
    without = verify(folder, log, *image(folder))
    assert (without["ok"], without["measurements"][1]["equal"]) == (True, None)
    assert "RTMR0  not computed" in without["shown"]


def test_another_boot_is_refused_and_its_event_named(folder: Path) -> None:
    log = logged(predict(replace(FILES, initrd=b"evil"), shape(), acpi=ACPI))
    found = verify(folder, log, *image(folder, "--event-log", folder / "log"))
    assert (found["exit"], found["code"]) == (5, "MeasurementMismatch")
    assert found["error"]["where"] == "rtmr2, event 1: initrd"
    assert found["error"]["want"] == sha384(FILES.initrd).hexdigest()
    assert found["error"]["got"] == sha384(b"evil").hexdigest()
    assert found["measurements"][3]["difference"]["cause"] == "another initrd"
    assert "RTMR2  DIFFERS at event 1: initrd" in found["shown"]
    without = verify(folder, log, *image(folder))
    assert (without["exit"], without["error"]["where"]) == (5, "rtmr2")
    assert "--event-log names the event" in without["shown"]


def test_a_result_as_ear_says_no(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a policy and without: the root is taken for Intel's here, so that the image alone decides."""
    monkeypatch.setattr(quote_check, "INTEL_ANCHOR", Policy.parse((folder / "policy.json").read_bytes()).roots.tdx)
    verify(folder, logged(predict(replace(FILES, initrd=b"evil"), shape(), acpi=ACPI)))
    words = ["verify", folder / "quote", "--collateral", folder / "collateral.json", "--at", AT, "--ear"]
    for more in ([], ["--policy", folder / "policy.json"]):
        result = CliRunner().invoke(command, [str(w) for w in [*words, *image(folder), *more]], catch_exceptions=False)
        assert result.exit_code == 5
        assert json.loads(result.stdout)["submods"]["tdx"]["ear.status"] == "contraindicated"
    result = CliRunner().invoke(command, [str(w) for w in words], catch_exceptions=False)
    assert json.loads(result.stdout)["submods"]["tdx"]["ear.status"] == "none"


def test_a_log_that_is_not_the_quotes_explains_nothing(folder: Path) -> None:
    log = logged(predict(replace(FILES, initrd=b"evil"), shape(), acpi=ACPI))
    good = binary(logged(predict(FILES, shape(), acpi=ACPI)))
    found = verify(folder, log, *image(folder, "--event-log", folder / "log"), event_log=good)
    assert (found["exit"], found["code"]) == (4, "EventLogReplayMismatch")
    assert parse_event_log(good)


def test_one_changed_byte_of_a_log_names_its_event(folder: Path) -> None:
    log = logged(predict(FILES, shape(), acpi=ACPI))
    data = binary(log)
    at = data.index(log[16].digest)  # the command line
    changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    found = verify(folder, log, "--event-log", folder / "log", event_log=changed)
    assert (found["exit"], found["code"]) == (4, "EventLogReplayMismatch")
    assert found["error"]["where"] == "rtmr2, event 0: EV_EVENT_TAG"
    at = data.index(b"Calling EFI")
    changed = data[:at] + b"c" + data[at + 1 :]
    found = verify(folder, log, "--event-log", folder / "log", event_log=changed)
    assert (found["exit"], found["code"]) == (4, "EventPayloadMismatch")
    assert found["error"]["where"] == "event_log[14]: EV_EFI_ACTION"


def test_registers_that_cannot_be_computed_are_no_match(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = logged(predict(FILES, shape(), acpi=ACPI))
    monkeypatch.undo()
    found = verify(folder, log, *image(folder))
    assert (found["exit"], found["code"], found["error"]["where"]) == (5, "MeasurementMismatch", "rtmr1")
    assert "not computed" in found["error"]["want"]


@pytest.mark.parametrize("option", ["--image", "--shape", "--acpi"])
def test_image_and_shape_go_together(option: str, folder: Path) -> None:
    target = {"--image": "image", "--shape": "shape.json", "--acpi": "acpi.json"}[option]
    log = logged(predict(FILES, shape(), acpi=ACPI))
    assert verify(folder, log, option, folder / target)["code"] == "Usage"


def test_a_tampered_image_is_no_reference(folder: Path) -> None:
    (folder / "image" / "initrd").write_bytes(b"evil")
    log = logged(predict(replace(FILES, initrd=b"evil"), shape(), acpi=ACPI))
    assert verify(folder, log, *image(folder))["code"] == "ManifestMismatch"
