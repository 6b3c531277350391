# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with evidence, and the one table of stable error codes.

Three families, told apart by what a caller may do next (docs/errors.md):

* ``Malformed``  these bytes are not what they claim to be         exit 3
* ``Untrusted``  well formed, but not true                         exit 4
* ``Refused``    true, but the policy says no                      exit 5

``PolicyInvalid`` is the caller's own document being wrong (exit 2). A misuse of this library's API is a
``TypeError`` or ``ValueError`` and never one of these.
"""

from __future__ import annotations

from typing import ClassVar, Final

_MALFORMED: Final = """
    MalformedCbor MalformedHeader MalformedRequest MalformedFrame MalformedEvidence MalformedClaims MalformedBoot
    MalformedEpoch MalformedRuntimeLog MalformedReceipt MalformedBatch MalformedDossier MalformedManifest
    MalformedConfig MalformedLiveness MalformedCertificate MalformedCell
    MalformedQuote TrailingData ReservedNotZero UnsupportedVersion UnsupportedTeeType UnsupportedBodyType
    UnsupportedAttestationKeyType UnsupportedCertificationData UnknownQeVendor
    JsonInvalid JsonDuplicateKey JsonUnexpectedKey TcbInfoInvalid TcbInfoUnsupported QeIdentityInvalid
    QeIdentityUnsupported MalformedEventLog MalformedFirmware MalformedImage MalformedShape
    MalformedGpuReport UnsupportedGpuReport MalformedOpaqueData MalformedRim MalformedOcsp MalformedCrl MalformedEat
    MalformedProof MalformedBlock MalformedAccount MalformedTrustPath MalformedRegistration
    MalformedGguf
"""

_UNTRUSTED: Final = """
    CertificateChainInvalid UntrustedRoot CertificateRoleMismatch CertificateExpired CertificateNotYetValid
    CertificateAlgorithm CertificateRevoked PckExtensionInvalid
    CrlSignatureInvalid CrlIssuerMismatch CrlExpired CrlNotYetValid CrlUnsupported
    CollateralMissing CollateralSignatureInvalid CollateralExpired CollateralNotYetValid
    FmspcMismatch PceIdMismatch TcbEvaluationDataNumberMismatch
    QuoteSignatureInvalid QeReportSignatureInvalid QeReportDataMismatch AttestationKeyInvalid QeIdentityMismatch
    TcbNotSupported TcbRevoked MalformedTcb TdxModuleUnknown TdxModuleMismatch TdxModuleTcbNotSupported
    QeTcbNotSupported
    ReportDataMismatch NonceMismatch BootDigestMismatch EpochDigestMismatch EpochExpired EpochNotYetValid EpochTooLong
    RuntimeLogMismatch EventLogReplayMismatch EventPayloadMismatch ConfigDigestMismatch OperatorDigestMismatch
    ImageIdMismatch ManifestMismatch ManifestSignatureInvalid PeerKeyMismatch ChannelNotBound LivenessInvalid
    GpuReportSignatureInvalid GpuChainInvalid GpuFwidMismatch GpuNonceMismatch GpuSetMismatch GpuEvidenceMissing
    GpuDuplicateDevice GpuTopologyInvalid RimSignatureInvalid RimChainInvalid RimMismatch RimMissing
    OcspSignatureInvalid OcspMismatch OcspExpired OcspNotYetValid OcspRevoked OcspUnknown EatSignatureInvalid
    EatMismatch
    HpkeOpenFailed FrameAuthenticationFailed StreamTruncated StreamOverrun ReceiptSignatureInvalid ReceiptMismatch
    ReceiptEquivocation CommitmentMismatch TokenCountMismatch ReplayMismatch BatchProofInvalid BatchSignatureInvalid
    RegistrationSignatureInvalid
    BlockProofInvalid ShardProofInvalid AccountProofInvalid RegistryProofInvalid TrustPathInvalid NotAnchored
"""

_REFUSED: Final = """
    DebugTd MigratableTd SeptVeDisableRequired TdAttributesReserved TdAttributesNotAllowed XfamInvalid
    TcbStatusRejected AdvisoryRejected TcbEvaluationDataNumberTooLow TcbTooOld CollateralTooOld PlatformNotAllowed
    ModuleNotAllowed QuoteFormNotAllowed
    MeasurementMismatch ImageUnknown ImageExpired RuntimeLogRejected ModelNotAllowed ConfigNotAllowed
    OperatorNotAllowed MachineNotAllowed ChannelNotAllowed RegistryRejected RegistryStale ReceiptOverdue
    GpuMeasurementMismatch GpuMeasurementUncovered GpuModeRejected GpuNotAllowed GpuDriverRejected GpuVbiosRejected
    GpuCountRejected GpuRevocationRejected
    Unconfidential PolicyRejected
"""


class AttestationError(Exception):
    """Evidence was not accepted.

    ``code`` is stable and documented; ``where`` names the field; ``want`` and ``got`` are short and never hold prompt
    text or key bytes.
    """

    exit_code: ClassVar[int] = 1
    codes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, code: str, where: str, *, want: object = "", got: object = "") -> None:
        if code not in self.codes:
            raise TypeError(f"{code} is not a code of {type(self).__name__}")
        self.code: str = code
        self.where: str = where
        self.want: str = str(want)
        self.got: str = str(got)
        super().__init__(code, where, self.want, self.got)

    def __str__(self) -> str:
        """Give ``code: where: want W, got G``."""
        detail = ", ".join(f"{name} {value}" for name, value in (("want", self.want), ("got", self.got)) if value)
        return f"{self.code}: {self.where}" + (f": {detail}" if detail else "")

    def to_json(self) -> dict[str, str]:
        """Give the error as the documented JSON object."""
        return {"code": self.code, "where": self.where, "want": self.want, "got": self.got}


class Malformed(AttestationError):
    """The bytes are not what they claim to be."""

    exit_code = 3
    codes = frozenset(_MALFORMED.split())


class Untrusted(AttestationError):
    """Well formed, but not true: a signature, chain, window or binding does not hold."""

    exit_code = 4
    codes = frozenset(_UNTRUSTED.split())


class Refused(AttestationError):
    """True, but not acceptable: a hard rule or the policy says no. ``verdict`` is set when one was computed."""

    exit_code = 5
    codes = frozenset(_REFUSED.split())
    verdict: object | None = None


class PolicyInvalid(AttestationError):
    """The policy document itself is wrong: the caller's input, not the peer's."""

    exit_code = 2
    codes = frozenset({"PolicyInvalid"})

    def __init__(self, where: str, *, want: object = "", got: object = "") -> None:
        super().__init__("PolicyInvalid", where, want=want, got=got)


CODES: Final[dict[str, type[AttestationError]]] = {
    code: family for family in (Malformed, Untrusted, Refused, PolicyInvalid) for code in sorted(family.codes)
}
"""Every stable code and its family: the one table."""


def error_for(code: str, where: str, *, want: object = "", got: object = "") -> AttestationError:
    """Build the error of whichever family `code` belongs to."""
    if code == "PolicyInvalid":
        return PolicyInvalid(where, want=want, got=got)
    return CODES[code](code, where, want=want, got=got)
