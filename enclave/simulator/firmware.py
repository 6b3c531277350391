# SPDX-License-Identifier: Apache-2.0
"""What an emulated guest's own firmware measured: its TPM event log, held against the TPM's registers.

A trust domain's firmware extends RTMRs and an emulated one's extends PCRs, over the same events with the same digests
(TCG PC Client Platform Firmware Profile, section 10; UEFI 2.10, 38.4.1 for the map between the two). So a simulated
machine in such a guest takes RTMR0 to RTMR2 from the PCRs: another kernel, initrd or command line is another quote.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha384
from pathlib import Path
from typing import Final

from attestation.errors import AttestationError
from attestation.image import ImageManifest
from attestation.tdx.eventlog import EV_NO_ACTION, MAX_EVENTS, MAX_LOG, SHA384_ID, parse_event_log, replay
from attestation.tdx.measure_firmware import Firmware
from attestation.wire import Reader

from ..seams import QuoteUnavailable

EVENT_LOG: Final = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
REGISTERS: Final = Path("/sys/class/tpm/tpm0/pcr-sha384")
MEMORY: Final = Path("/dev/mem")
FIRMWARE_PCRS: Final = 10  # 0 to 9: what firmware and loader extend; the kernel's own measurements are in PCR 10
_RTMR_OF_PCR: Final = (0, 1, 2, 2, 2, 2, 2, 1, 3, 3)  # measurement register index: 0 MRTD, 1 RTMR0, 2 RTMR1, 3 RTMR2
_CODE: Final = "MalformedEventLog"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredBoot:
    """What a guest measured to before its first program ran."""

    manifest: bytes  # the image's, as the launcher brought it: shown to clients, never believed
    log: bytes  # the firmware's event log in the form of a CCEL
    mr_td: bytes  # 48
    rtmr: tuple[bytes, bytes, bytes]  # RTMR0 to RTMR2, 48 bytes each


def read_measured_boot(manifest: bytes) -> MeasuredBoot:
    """Read this guest's log, registers and firmware. Raises QuoteUnavailable."""
    try:
        pcrs = [bytes.fromhex((REGISTERS / str(i)).read_text().strip()) for i in range(FIRMWARE_PCRS)]
        log = convert_log(EVENT_LOG.read_bytes(), pcrs)
        image = ImageManifest.parse(manifest)
        rom = _firmware(image.file(image.firmware.file).size)
        mr_td = Firmware.parse(rom).mr_td(single_pass=True)
        rtmr = replay(parse_event_log(log))[:3]
    except (OSError, ValueError) as e:
        raise QuoteUnavailable(f"no measured boot to simulate a machine from: {e}; a software TPM is needed") from None
    except AttestationError as e:
        raise QuoteUnavailable(f"no measured boot to simulate a machine from: {e}") from None
    return MeasuredBoot(manifest=manifest, log=log, mr_td=mr_td, rtmr=rtmr)


def convert_log(log: bytes, pcrs: Sequence[bytes]) -> bytes:
    """Give a TPM event log with SHA-384 alone as a CCEL, after it replays to `pcrs` (PCR 0 to 9, 48 bytes each).

    Raises AttestationError for a log that is none, and QuoteUnavailable for one that the registers contradict.
    """
    if len(log) > MAX_LOG:
        raise QuoteUnavailable(f"the event log has more than {MAX_LOG} bytes")
    r = Reader(log, what="tpm_log", code=_CODE)
    r.take(28, "spec_id head")
    r.take(r.u32le("spec_id size"), "spec_id")
    out = bytearray(r.taken())
    replayed = [bytes(48)] * FIRMWARE_PCRS
    for _ in range(MAX_EVENTS):
        if not r.left:
            break
        pcr, kind, count, algorithm = r.u32le("pcr"), r.u32le("type"), r.u32le("digests"), r.u16le("algorithm")
        if (count, algorithm) != (1, SHA384_ID):
            raise QuoteUnavailable("the TPM has other banks than SHA-384 alone: nothing can be told from its log")
        digest, event = r.take(48, "digest"), r.take(r.u32le("size"), "event")
        if kind == EV_NO_ACTION:
            continue
        if pcr >= FIRMWARE_PCRS:
            raise QuoteUnavailable(f"the firmware extended PCR {pcr}, which has no place in a trust domain")
        replayed[pcr] = sha384(replayed[pcr] + digest).digest()
        out += struct.pack("<IIIH", _RTMR_OF_PCR[pcr], kind, 1, SHA384_ID) + digest
        out += struct.pack("<I", len(event)) + event
    r.end()
    for index, (mine, held) in enumerate(zip(replayed, pcrs, strict=True)):
        if mine != held:
            raise QuoteUnavailable(f"the event log does not come to what the TPM's PCR {index} holds")
    return bytes(out)


def _firmware(size: int) -> bytes:
    """Give the firmware that this guest was started from: it lies below 4 GiB."""
    with MEMORY.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ, offset=(1 << 32) - size) as rom:
        return rom[:]
