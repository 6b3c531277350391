# SPDX-License-Identifier: Apache-2.0
"""From a bare root file system to a running enclave, in order. Every step refuses by name, and nothing is guessed.

1. file systems that hold no disk; 2. the three documents; 3. the config's SHA-384 against the platform's MRCONFIGID,
where it has one; 4. a simulated machine's authorities, on an emulated machine alone; 5. each model's disk by the root
that the config names; 6. the network; 7. `sericin serve`, whose attester measures documents, models and GPUs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha384
from pathlib import Path
from typing import Final

from attestation.config import EnclaveConfig
from attestation.errors import AttestationError
from attestation.evidence import MAX_CONFIG, MAX_MANIFEST, MAX_OPERATOR
from attestation.image import ImageManifest
from attestation.operator import OperatorDocument

from ..guest import MANIFEST
from ..image.devices import CONFIG_DISK, LEDGER_DISK, MANIFEST_DISK, OPERATOR_DISK, STATE_DISK, model_disk
from ..image.model_disk import MODEL_FILE
from ..image.state_disk import MAX_STATE, read_state
from .disks import DEVICES, find_disk, open_model, read_document
from .kernel import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount
from .refusal import BootRefused

RUN: Final = Path("/run/sericin")
MODELS: Final = RUN / "models"
STATE: Final = RUN / "state"
LEDGER: Final = RUN / "ledger"
TDX_CONFIG_ID: Final = Path("/sys/devices/virtual/misc/tdx_guest/measurements/mrconfigid")
EMULATED_CONFIG_ID: Final = Path("/sys/firmware/qemu_fw_cfg/by_name/opt/sericin/mrconfigid/raw")
TDX_DEVICE: Final = Path("/dev/tdx_guest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything that `sericin serve` is started with."""

    config: Path
    operator: Path


def mount_all() -> None:
    """Mount what is not a disk. Raises OSError."""
    for place in ("/run", "/tmp"):  # noqa: S108 - the guest's own, empty at boot
        mount("tmpfs", Path(place), source="tmpfs", flags=MS_NOSUID | MS_NODEV | MS_NOEXEC, data="mode=0700")
    mount("configfs", Path("/sys/kernel/config"), flags=MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("securityfs", Path("/sys/kernel/security"), flags=MS_NOSUID | MS_NODEV | MS_NOEXEC)
    RUN.mkdir(mode=0o700)


def prepare() -> Prepared:
    """Check what the launcher brought and lay it out below /run/sericin. Raises BootRefused, OSError."""
    manifest = _document(MANIFEST_DISK, MAX_MANIFEST)
    config = _document(CONFIG_DISK, MAX_CONFIG)
    operator = _document(OPERATOR_DISK, MAX_OPERATOR)
    require_config_id(config, platform_config_id())
    try:
        ImageManifest.parse(manifest)
        parsed = EnclaveConfig.parse(config)
        require_places(OperatorDocument.parse(operator))
    except AttestationError as e:
        raise BootRefused("document_malformed", str(e)) from None
    if parsed.machine == "simulated":
        _lay_state()
    if parsed.engine.kind == "llama":
        _open_models(parsed)
    if (ledger := find_disk(LEDGER_DISK)) is not None:
        LEDGER.symlink_to(DEVICES / ledger)
    _put(MANIFEST, manifest)
    _put(RUN / "config.json", config)
    _put(RUN / "operator.json", operator)
    return Prepared(config=RUN / "config.json", operator=RUN / "operator.json")


def _document(serial: str, limit: int) -> bytes:
    data = read_document(serial, limit=limit)
    if not data:
        raise BootRefused("document_missing", f"no disk {serial} with a document on it")
    return data


def platform_config_id(*, tdx: Path = TDX_CONFIG_ID, emulated: Path = EMULATED_CONFIG_ID) -> bytes | None:
    """Give the MRCONFIGID that the platform was launched with (48 bytes); None where it has none.

    A trust domain's is in its TD report. An emulated machine's comes the same way from the same launcher, as a value of
    QEMU's firmware configuration; nobody asks for it where there is TDX. Raises OSError, BootRefused.
    """
    if TDX_DEVICE.exists():
        return tdx.read_bytes()
    if not emulated.exists():
        return None
    try:
        return bytes.fromhex(emulated.read_text())
    except ValueError:
        raise BootRefused("config_mismatch", "the platform's MRCONFIGID is not hex") from None


def require_config_id(config: bytes, held: bytes | None) -> None:
    """Require that the platform was launched for this config. Raises BootRefused."""
    got = sha384(config).digest()
    if held is not None and held != got:
        raise BootRefused("config_mismatch", f"config: SHA-384 {got.hex()}, but MRCONFIGID is {held.hex()}")


def require_places(operator: OperatorDocument) -> None:
    """Require the paths that this agent lays out. Raises BootRefused."""
    for name, want, got in (
        ("model_dir", MODELS, operator.model_dir),
        ("state", STATE, operator.state),
        ("ledger", LEDGER, operator.ledger),
    ):
        if Path(got) != want:
            raise BootRefused("operator_paths", f"operator.{name} is {got}: inside an image it is {want}")


def _lay_state() -> None:
    """Put a simulated machine's authorities where `serve` finds them."""
    data = read_document(STATE_DISK, limit=MAX_STATE)
    if data is None:
        raise BootRefused("state_missing", "a simulated machine needs its authorities on a disk with the serial state")
    try:
        files = read_state(data)
    except AttestationError as e:
        raise BootRefused("document_malformed", str(e)) from None
    STATE.mkdir(mode=0o700)
    for name, text in files.items():
        _put(STATE / name, text)


def _open_models(config: EnclaveConfig) -> None:
    MODELS.mkdir(mode=0o700)
    for index, model in enumerate(config.models):
        if model.disk is None:
            raise BootRefused("model_unpinned", f"model {model.name}: the config names no disk for it")
        if "/" in model.name or model.name.startswith("."):
            raise BootRefused("document_malformed", f"model {model.name!r}: not a file name")
        place = RUN / f"disk{index}"
        open_model(model_disk(index), model.disk, place, name=model.name)
        (MODELS / f"{model.name}.gguf").symlink_to(place / MODEL_FILE)


def _put(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
