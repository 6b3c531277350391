# SPDX-License-Identifier: Apache-2.0
"""Something is wrong with the enclave or with what stands between: no byte of a prompt leaves the client."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from attestation import cbor
from attestation.errors import AttestationError, Refused, Untrusted
from attestation.evidence import Evidence
from attestation.ratls import OID, PeerCertificate, read_certificate
from client.commands.ask import command as ask_command
from client.commands.audit import command as audit_command
from client.commands.verify import command as verify_command
from client.dossier import dossier_of
from client.errors import RunOutcomeUnknown, Unreachable
from client.exchange import SEALED_PATH
from tests.relay import Bend, faithful, relayed
from tests.served import Served, served

SECRET = "canary-a71c"


@pytest.fixture(scope="module")
def enclave(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("enclave")) as running:
        yield running


def evidence(change: Callable[[Evidence], Evidence]) -> Bend:
    """Change the evidence in passing."""

    def bend(path: str, data: bytes) -> tuple[int, bytes]:
        return 200, change(Evidence.decode(data)).encode() if path.endswith("/attest") else data

    return bend


def flipped(name: str) -> Bend:
    def change(good: Evidence) -> Evidence:
        data = bytearray(getattr(good, name))
        data[len(data) // 2] ^= 1
        changes: dict[str, Any] = {name: bytes(data)}
        return replace(good, **changes)

    return evidence(change)


LIES: list[tuple[str, Bend]] = [
    ("no answer to the challenge", lambda _, d: (404, d)),
    ("an empty answer", lambda *_: (200, b"")),
    ("something that is no evidence", lambda *_: (200, b"<html>")),
    ("a flipped quote", flipped("quote")),
    ("flipped claims", flipped("claims")),
    ("a flipped boot map", flipped("boot")),
    ("another seal key", flipped("epoch")),
    ("a flipped runtime log", flipped("runtime_log")),
    ("another config", flipped("config")),
    ("another operator", flipped("operator")),
    ("flipped collateral", flipped("collateral")),
    ("no collateral", evidence(lambda e: replace(e, collateral=b""))),
]


@pytest.mark.parametrize("bend", [row[1] for row in LIES], ids=[row[0] for row in LIES])
def test_a_relay_that_bends_evidence_sees_no_prompt(enclave: Served, bend: Bend) -> None:
    with relayed(enclave, bend) as relay:
        with pytest.raises((AttestationError, Unreachable)):
            enclave.run(SECRET, target=relay.target)
        assert SEALED_PATH not in relay.paths
        assert relay.paths == ["/v1/sericin/attest"]
        assert all(SECRET.encode() not in body for body in relay.bodies)


def test_evidence_of_an_earlier_challenge_is_refused(enclave: Served) -> None:
    kept: list[bytes] = []

    def replay(_: str, data: bytes) -> tuple[int, bytes]:
        kept.append(data)
        return 200, kept[0]

    with relayed(enclave, replay) as relay:
        enclave.attest(target=relay.target)
        with pytest.raises(Untrusted) as e:
            enclave.run(SECRET, target=relay.target)
        assert e.value.code == "NonceMismatch"
        assert SEALED_PATH not in relay.paths


def test_a_relay_reads_nothing_of_a_prompt(enclave: Served) -> None:
    with relayed(enclave, faithful) as relay:
        list(enclave.run(SECRET, target=relay.target).items())
        assert relay.paths[-1] == SEALED_PATH
        assert all(SECRET.encode() not in body for body in relay.bodies)


def section(name: str, **changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(document: dict[str, Any]) -> dict[str, Any]:
        part = document[name]
        return {name: [part[0] | changes] if isinstance(part, list) else part | changes}

    return change


POLICIES: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = [
    ("another image", section("image", mr_td="00" * 48), "ImageUnknown"),
    ("another image id", section("image", image_id="00" * 32), "ImageIdMismatch"),
    ("another config", section("runtime", config=["00" * 48]), "ConfigNotAllowed"),
    ("another model", section("models", weights="00" * 32), "ModelNotAllowed"),
    ("an old TCB alone", section("tdx", tcb_status=["OutOfDate"]), "TcbStatusRejected"),
    ("another platform", section("tdx", fmspc=["00" * 6]), "PlatformNotAllowed"),
    ("other attributes", section("tdx", td_attributes={"value": "00" * 8, "mask": "ff" * 8}), "TdAttributesNotAllowed"),
    ("another owner", section("tdx", mr_owner=["11" * 48]), "MeasurementMismatch"),
    ("a newer evaluation", section("tdx", min_evaluation_data_number=99), "TcbEvaluationDataNumberTooLow"),
    ("fresher collateral", section("tdx", max_collateral_age_seconds=0), "CollateralTooOld"),
    ("a newer module", section("tdx", min_module_isvsvn={"TDX_01": 9}), "ModuleNotAllowed"),
    ("quotes v5 alone", section("tdx", quote_versions=[5]), "QuoteFormNotAllowed"),
    ("no SMT", section("tdx", smt="forbidden"), "PlatformNotAllowed"),
    ("RA-TLS over a plain target", section("channel", mode="ra-tls"), "ChannelNotAllowed"),
]


@pytest.mark.parametrize(("change", "code"), [row[1:] for row in POLICIES], ids=[row[0] for row in POLICIES])
def test_a_policy_that_says_no_is_obeyed_before_a_prompt(
    enclave: Served, change: Callable[[dict[str, Any]], dict[str, Any]], code: str
) -> None:
    with relayed(enclave, faithful) as relay:
        with pytest.raises(AttestationError) as e:
            enclave.attest(target=relay.target, **change(enclave.policy_document()))
        assert e.value.code == code
        assert SEALED_PATH not in relay.paths


def test_a_peer_key_that_is_not_the_attested_one_is_refused(enclave: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another TLS server in front: its certificate is not the one that the claims name."""

    def another(der: bytes) -> PeerCertificate:
        return replace(read_certificate(der), spki=b"another key")

    monkeypatch.setattr("client.attested.read_certificate", another)
    for mode in ("ra-tls", "sealed"):
        with pytest.raises(Untrusted) as e:
            enclave.attest("ra_tls", channel={"mode": mode, "strict": False})
        assert e.value.code == "PeerKeyMismatch"


def test_a_strict_client_wants_the_exporter_of_this_connection(
    enclave: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.connection import Connection

    monkeypatch.setattr(Connection, "exporter", lambda *_: bytes(32))
    with pytest.raises(Untrusted) as e:
        enclave.attest("ra_tls", channel={"mode": "ra-tls", "strict": True})
    assert e.value.code == "LivenessInvalid"


def test_a_strict_client_wants_the_hybrid_key_exchange(enclave: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    from client.connection import Connection

    monkeypatch.setattr(Connection, "key_exchange_group", lambda _: "x25519")
    with pytest.raises(Refused) as e:
        enclave.attest("ra_tls", channel={"mode": "ra-tls", "strict": True})
    assert e.value.code == "ChannelNotAllowed"


def test_an_epoch_that_is_over_is_refused_before_a_prompt(enclave: Served) -> None:
    later: datetime = enclave.now() + timedelta(hours=2)
    before = enclave.now
    enclave.now = lambda: later  # type: ignore[method-assign]  # the client's own clock
    try:
        with relayed(enclave, faithful) as relay, pytest.raises(Untrusted) as e:
            enclave.run(SECRET, target=relay.target)
        assert (e.value.code, e.value.exit_code) == ("EpochExpired", 4)
        assert relay.paths == ["/v1/sericin/attest"]
    finally:
        enclave.now = before  # type: ignore[method-assign]


def test_a_simulated_machine_under_a_policy_with_the_real_roots_is_untrusted(enclave: Served) -> None:
    runtime = enclave.policy_document()["runtime"] | {"machine": "tdx"}
    with relayed(enclave, faithful) as relay, pytest.raises(Untrusted) as e:
        enclave.attest(target=relay.target, roots={"kind": "intel+nvidia"}, runtime=runtime)
    assert (e.value.code, e.value.exit_code) == ("UntrustedRoot", 4)
    assert relay.paths == ["/v1/sericin/attest"]


def tls_of_its_own(folder: Path, extension: x509.ExtensionType | None) -> ssl.SSLContext:
    """Make a TLS server's context: its own key, and perhaps an extension that it copied from somebody."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sericin enclave")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(hours=1))
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    made = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "pem").write_bytes(made.public_bytes(Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pem")
    return context


@pytest.mark.parametrize(
    ("copied", "mode", "code"),
    [(True, "ra-tls", "PeerKeyMismatch"), (True, "sealed", "PeerKeyMismatch"), (False, "ra-tls", "PeerKeyMismatch")],
)
def test_a_tls_server_in_between_is_refused(
    enclave: Served, tmp_path: Path, copied: bool, mode: str, code: str
) -> None:
    """It hands the true evidence on, and may show the true quote in its own certificate: its key is not the claims'."""
    certificate = x509.load_der_x509_certificate(enclave.floor.epochs.current.certificate)
    extension = certificate.extensions.get_extension_for_oid(OID).value if copied else None
    with relayed(enclave, faithful, tls=tls_of_its_own(tmp_path, extension)) as relay:
        with pytest.raises(Untrusted) as e:
            enclave.attest(target=relay.target, channel={"mode": mode, "strict": False})
        assert e.value.code == code
        assert SEALED_PATH not in relay.paths


def test_behind_a_tls_proxy_the_seal_still_holds(enclave: Served, tmp_path: Path) -> None:
    """Policy `sealed` leaves the TLS key unchecked where no quote vouches for it: the proxy sees ciphertext alone."""
    with relayed(enclave, faithful, tls=tls_of_its_own(tmp_path, None)) as relay:
        run = enclave.run(SECRET, target=relay.target)
        list(run.items())
        assert run.complete
        assert relay.paths[-1] == SEALED_PATH
        assert all(SECRET.encode() not in body for body in relay.bodies)


def test_a_forged_refusal_cannot_make_a_run_happen_twice(enclave: Served) -> None:
    """The relay lets the run happen and says 422: the second attempt carries the same run id and is not run again."""

    def forge(path: str, data: bytes) -> tuple[int, bytes]:
        if path == SEALED_PATH and not seen:
            seen.append(1)
            return 422, b"{}"
        return 200, data

    seen: list[int] = []
    with relayed(enclave, forge) as relay:
        run = enclave.run("only once", target=relay.target)
        with pytest.raises(Exception, match="already_run"):
            list(run.items())
        assert relay.paths.count(SEALED_PATH) == 2
        assert run.receipt is not None


def test_another_enclave_behind_the_same_address_is_not_asked_again(enclave: Served, tmp_path: Path) -> None:
    with served(tmp_path) as other:
        to: list[Served] = [enclave]

        def forge(path: str, data: bytes) -> tuple[int, bytes]:
            if path != SEALED_PATH:
                return 200, data
            to[0] = other
            return 503, b"{}"

        with relayed(enclave, forge) as relay:
            run = enclave.run("once", target=relay.target)
            first = run.attested.verified.boot.digest

            def elsewhere() -> Any:
                return other.attest()

            run._reattest = elsewhere
            with pytest.raises(RunOutcomeUnknown, match="another enclave"):
                list(run.items())
            assert other.booted.boot.digest != first
            assert relay.paths.count(SEALED_PATH) == 1


def test_a_silent_refusal_twice_is_an_unknown_outcome(enclave: Served) -> None:
    with relayed(enclave, lambda path, data: (503 if path == SEALED_PATH else 200, data)) as relay:
        with pytest.raises(RunOutcomeUnknown):
            list(enclave.run("never", target=relay.target).items())
        assert relay.paths.count(SEALED_PATH) == 2


# ---- the command line


def cli(command: Any, *arguments: object) -> Any:
    return CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)


def test_without_a_policy_nothing_is_sent(enclave: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("SERICIN_CONFIG", str(tmp_path))
    with relayed(enclave, faithful) as relay:
        for command in (verify_command, ask_command):
            result = cli(command, relay.target, *(["question"] if command is ask_command else []))
            assert result.exit_code == 2
        assert relay.paths == []
    (tmp_path / "dossier").write_bytes(b"x")
    assert cli(audit_command, tmp_path / "dossier").exit_code == 2


def test_a_simulated_policy_counts_only_when_it_is_named(
    enclave: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulated machine under the user's own configuration is refused: only --policy FILE lets it through."""
    import client.commands.verify as verify_module

    monkeypatch.setattr(verify_module, "wall_clock", enclave.now)
    monkeypatch.setenv("SERICIN_CONFIG", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    text = json.dumps(enclave.policy_document())
    (tmp_path / "sericin").mkdir()
    for place in (tmp_path / "policy.json", tmp_path / "sericin" / "policy.json"):
        place.write_text(text)
    target = enclave.service.targets["http"]
    result = cli(verify_command, target, "--json")
    refused = json.loads(result.stdout)
    assert (result.exit_code, refused["code"]) == (5, "Unconfidential")
    assert refused["verdict"]["confidential"] is False
    result = cli(verify_command, target, "--policy", tmp_path / "policy.json", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"], found["confidential"]) == (0, True, False)
    assert "NOT CONFIDENTIAL" in cli(verify_command, target, "--policy", tmp_path / "policy.json").stdout


def test_a_simulated_dossier_under_real_roots_is_untrusted(enclave: Served, tmp_path: Path) -> None:
    run = enclave.run("for the auditor")
    list(run.items())
    (tmp_path / "d").write_bytes(dossier_of(run, policy=b"{}").encode())
    document = enclave.policy_document()
    real = {"roots": {"kind": "intel+nvidia"}, "runtime": document["runtime"] | {"machine": "tdx"}}
    (tmp_path / "policy.json").write_text(json.dumps(document | real))
    result = cli(audit_command, tmp_path / "d", "--policy", tmp_path / "policy.json", "--json")
    assert (result.exit_code, json.loads(result.stdout)["code"]) == (4, "UntrustedRoot")


def test_the_challenge_says_which_versions_are_spoken(enclave: Served) -> None:
    body = cbor.encode({1: ["sericin/9"], 2: bytes(32), 3: "client"})
    assert enclave.post(body, "/v1/sericin/attest")[0] == 406
    assert enclave.post(cbor.encode({1: ["sericin/1"], 2: bytes(31), 3: "client"}), "/v1/sericin/attest")[0] == 400
    assert enclave.post(bytes(5000), "/v1/sericin/attest")[0] == 413
