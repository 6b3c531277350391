"""Time NVIDIA's own verifier on the real Hopper sample: for scripts/bench-gpu, under a Python that has it.

Its network calls (OCSP) are stubbed to "good", and certificates are judged at a time at which the sample's hold;
everything else is its own code: chain, report signature, measurements, both reference values with schema and signature.
"""

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

NOW = datetime(2025, 8, 1, tzinfo=timezone.utc)  # noqa: UP017 - runs under whatever Python has the verifier
RIMS = ("NV_GPU_DRIVER_GH100_550.90.07.xml", "NV_GPU_VBIOS_1010_0200_882_96009F0001.xml")


def at_its_time() -> None:
    """Let every certificate store judge at NOW."""
    from OpenSSL import SSL, crypto  # noqa: PLC0415 - only where the verifier is

    class Store(crypto.X509Store):
        def __init__(self) -> None:
            super().__init__()
            self.set_time(NOW)

    of_context = SSL.Context.get_cert_store

    def get_cert_store(context: SSL.Context) -> crypto.X509Store:
        store = of_context(context)
        store.set_time(NOW)
        return store

    crypto.X509Store = Store
    SSL.Context.get_cert_store = get_cert_store


def without_network() -> None:
    """Answer every question about revocation as a good service would."""
    from verifier.cc_admin_utils import CcAdminUtils  # noqa: PLC0415

    def good(cert_chain: list, _settings: object, _mode: object) -> tuple:
        cert_chain[:] = [certificate.to_cryptography() for certificate in cert_chain]
        return True, "", "good", None

    CcAdminUtils.ocsp_certificate_chain_validation = staticmethod(good)


def main() -> None:
    """Verify the sample in the folder given, ROUNDS times, and print the median."""
    folder, rounds = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    os.chdir(tempfile.mkdtemp())  # it writes a log where it stands
    at_its_time()
    from verifier import cc_admin  # noqa: PLC0415
    from verifier.config import BaseSettings, HopperSettings  # noqa: PLC0415

    without_network()
    report = bytes.fromhex("".join((folder / "report.hex").read_text().split()))
    BaseSettings.NONCE = report[4:36].hex()
    HopperSettings.DRIVER_RIM_PATH = str(folder / RIMS[0])
    names = "verbose user_mode allow_hold_cert ocsp_nonce_disabled rim_service_url ocsp_url service_key rim_root_cert"
    arguments = dict.fromkeys(names.split())
    arguments |= {"test_no_gpu": True, "claims_version": "2.0", "nonce": BaseSettings.NONCE}
    arguments |= {"driver_rim": str(folder / RIMS[0]), "vbios_rim": str(folder / RIMS[1])}
    cc_admin.arguments_as_dictionary = arguments
    times = []
    for _ in range(rounds):
        with contextlib.redirect_stdout(io.StringIO()):
            evidence = cc_admin.collect_gpu_evidence(BaseSettings.NONCE, no_gpu_mode=True)
            start = time.process_time()
            result = cc_admin.attest(arguments, BaseSettings.NONCE, evidence)
            times.append(time.process_time() - start)
        if not (isinstance(result, tuple) and result[0]):
            sys.exit("the verifier did not accept its own sample")
    print(json.dumps({"ms": statistics.median(times) * 1e3}))


if __name__ == "__main__":
    main()
