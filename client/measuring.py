# SPDX-License-Identifier: Apache-2.0
"""What an image measures to in a shape, as an auditor sees it: computed, recorded, or not computed and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256, sha384
from pathlib import Path
from typing import Final

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from attestation import document
from attestation.errors import Untrusted
from attestation.evidence import MAX_CONFIG, MAX_OPERATOR
from attestation.image import AcpiDigests, ImageManifest, Measurement, acpi_json, read_acpi
from attestation.runtime_prediction import runtime_events
from attestation.shape import MAX_SHAPE, Shape
from attestation.strict_json import loads
from attestation.tdx.measure import Predicted, Prediction, predict

from .errors import UsageFault
from .image_files import ImageFiles, read_image
from .image_files import Progress as Reading
from .output import console, parse_hex, read_file

NOT_GIVEN: Final = "not given"
MAX_ACPI: Final = 4096
ACPI_KEYS: Final = ("ok", "code", "exit", "shape", "shape_sha256", "qemu", "acpi")
_PORTION: Final = 1 << 20
REGISTERS: Final = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mr_config_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An image, a shape, and everything that follows from the two and the documents that were given."""

    image: ImageFiles
    shape: Shape
    prediction: Prediction
    runtime: tuple[Predicted, ...]
    mr_config_id: bytes | None
    recorded: Measurement | None  # the manifest's own entry for this shape, equal wherever both have a value

    def values(self) -> dict[str, bytes | None]:
        """Give each register's expected value, None where it is not computed."""
        rtmr = [self.prediction.rtmr(r) for r in range(3)]
        return dict(zip(REGISTERS, (self.prediction.mr_td, *rtmr, None, self.mr_config_id), strict=True))

    def reasons(self) -> dict[str, str]:
        """Say of each register that is not computed why."""
        why = {"rtmr3": "replayed from its log, never predicted: the last event names keys of one boot"}
        if self.mr_config_id is None:
            why["mr_config_id"] = NOT_GIVEN
        for register in range(3):
            missing = [event for event in self.prediction.of(register) if event.digest is None]
            if self.prediction.unknown is not None:
                why[f"rtmr{register}"] = self.prediction.unknown
            elif missing:
                why[f"rtmr{register}"] = f"{missing[0].name}: {missing[0].cause}"
        return why

    def to_json(self) -> dict[str, object]:
        """Give the documented JSON object."""
        manifest = self.image.manifest
        return {
            "ok": True,
            "code": None,
            "exit": 0,
            "image": {
                "id": self.image.image_id.hex(),
                "name": manifest.name,
                "version": manifest.version,
                "profile": manifest.profile,
                "signer": self.image.signer.hex() if self.image.signer is not None else None,
            },
            "shape": {"name": self.shape.name, "sha256": self.shape.digest.hex(), "machine": self.shape.machine},
            "layout": self.prediction.layout,
            "registers": {name: value.hex() if value is not None else None for name, value in self.values().items()},
            "not_computed": self.reasons(),
            "recorded": self.recorded is not None,
            "events": [event_json(event) for event in (*self.prediction.events, *self.runtime)],
        }


def event_json(event: Predicted) -> dict[str, object]:
    """Give one predicted event as a JSON object."""
    return {
        "register": f"rtmr{event.register}",
        "type": event.type,
        "name": event.name,
        "digest": event.digest.hex() if event.digest is not None else None,
        "cause": event.cause,
    }


def read_shape(path: Path) -> Shape:
    """Read a shape file."""
    return Shape.parse(read_file(path, limit=MAX_SHAPE))


def read_acpi_file(path: Path, shape: Shape) -> AcpiDigests:
    """Read what `sericin measure acpi --json` wrote for this very shape. Raises Malformed, UsageFault for another."""
    found = loads(read_file(path, limit=MAX_ACPI), limit=MAX_ACPI, what="acpi")
    with document.coded("MalformedManifest"):
        m = document.fields(found, ACPI_KEYS, "acpi")
        acpi = read_acpi(m["acpi"], "acpi.acpi")
        digest = document.digest(m["shape_sha256"], "acpi.shape_sha256", size=32)
    if digest != shape.digest:
        raise UsageFault(f"{path}: ACPI digests of another shape than {shape.name}")
    return acpi


def acpi_document(acpi: AcpiDigests, shape: Shape) -> dict[str, object]:
    """Give what `read_acpi_file` reads."""
    release = "{}.{}".format(*shape.qemu)
    named: dict[str, object] = {"shape": shape.name, "shape_sha256": shape.digest.hex(), "qemu": release}
    return {"ok": True, "code": None, "exit": 0, **named, "acpi": acpi_json(acpi)}


def parse_key(text: str | None) -> bytes | None:
    """Read --key: an Ed25519 public key, 64 hex digits. Raises UsageFault."""
    return parse_hex(text, "--key takes an Ed25519 public key: 64 hex digits")


def measure(
    folder: Path,
    shape: Shape,
    *,
    acpi: AcpiDigests | None = None,
    config: Path | None = None,
    operator: Path | None = None,
    models: Sequence[Path] = (),
    key: bytes | None = None,
) -> Measured:
    """Read an image and compute what it measures to in `shape`, with progress on a terminal.

    Raises Untrusted for files, signature, models or records that contradict the manifest, Malformed, UsageFault.
    """
    with reading("reading the image") as progress:
        image = read_image(folder, key=key, progress=progress)
    prediction = predict(image.files, shape, acpi=acpi)
    recorded = next((m for m in image.manifest.measurements if m.shape_sha256 == shape.digest), None)
    if recorded is not None:
        _require_recorded(recorded, prediction)
    config_bytes = read_file(config, limit=MAX_CONFIG) if config is not None else None
    operator_bytes = read_file(operator, limit=MAX_OPERATOR) if operator is not None else None
    with reading("reading the models") as progress:
        digests = tuple(_file_sha256(path, progress) for path in models) or None
    if digests is not None and config_bytes is None:
        raise UsageFault("--model needs --config, which pins the models and their order")
    return Measured(
        image=image,
        shape=shape,
        prediction=prediction,
        runtime=runtime_events(image_id=image.image_id, config=config_bytes, operator=operator_bytes, models=digests),
        mr_config_id=sha384(config_bytes).digest() if config_bytes is not None else None,
        recorded=recorded,
    )


def measured_in(
    folder: Path, shapes: Mapping[Shape, AcpiDigests | None], *, key: bytes | None
) -> tuple[ImageManifest, tuple[Measurement, ...]]:
    """Read an image and give its registers in `shapes`, computed; or those its manifest records, for no shapes.

    Raises what `measure` raises, and UsageFault for a shape in which RTMR1 and RTMR2 cannot be computed.
    """
    with reading("reading the image") as progress:
        image = read_image(folder, key=key, progress=progress)
    if not shapes:
        return image.manifest, image.manifest.measurements
    return image.manifest, tuple(_measurement(image, shape, acpi) for shape, acpi in shapes.items())


def _measurement(image: ImageFiles, shape: Shape, acpi: AcpiDigests | None) -> Measurement:
    """Compute the record of one shape, and require the manifest's own to agree where it has one."""
    prediction = predict(image.files, shape, acpi=acpi)
    recorded = next((m for m in image.manifest.measurements if m.shape_sha256 == shape.digest), None)
    if recorded is not None:
        _require_recorded(recorded, prediction)
    measurement = prediction.record(shape, acpi)
    if measurement is None:
        raise UsageFault(f"shape {shape.name}: {prediction.unknown}")
    return measurement


def _require_recorded(recorded: Measurement, prediction: Prediction) -> None:
    """Require that what the manifest records for this shape is what was computed, wherever both have a value."""
    pairs = {
        "mr_td": (prediction.mr_td, recorded.mr_td),
        "rtmr0": (prediction.rtmr(0), recorded.rtmr0),
        "rtmr1": (prediction.rtmr(1), recorded.rtmr1),
        "rtmr2": (prediction.rtmr(2), recorded.rtmr2),
    }
    for name, (want, got) in pairs.items():
        if want is not None and got is not None and want != got:
            where = f"manifest.measurements.{recorded.shape_name}.{name}"
            raise Untrusted("ManifestMismatch", where, want=want.hex(), got=got.hex())


def _file_sha256(path: Path, progress: Reading) -> bytes:
    digest = sha256()
    try:
        with path.open("rb") as file:
            while portion := file.read(_PORTION):
                digest.update(portion)
                progress(path.name, len(portion))
    except OSError as e:
        raise UsageFault(f"{path}: {e.strerror}") from None
    return digest.digest()


@contextmanager
def reading(title: str) -> Iterator[Reading]:
    """Show which file is read and how much of it, on a terminal; nothing in a pipe."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda _name, _size: None
        return
    columns = (TextColumn(f"{title}: {{task.fields[file]}}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=out, transient=True) as bar:
        task = bar.add_task(title, total=None, file="")
        yield lambda name, size: bar.update(task, advance=size, file=name)
