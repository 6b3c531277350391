# SPDX-License-Identifier: Apache-2.0
"""The files that a user of TON writes or is given: network, init block, wallet, ledger. What is wrong is said."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.batch import BatchStatement
from attestation.errors import AttestationError, Malformed, Refused, Untrusted
from attestation.ledger import BATCH, MAX_RECORD, RECEIPT, REGISTRATION, ReceiptRecord, StatementRecord, frame
from client.errors import Unreachable, UsageFault
from client.ledger_file import find_receipt, read_chains
from client.ledger_source import opened_ledger
from client.ton.amounts import gram
from client.ton.anchor_plan import require_machines
from client.ton.network import PINNED, PUBLIC_IDS, SIMULATED_ID, Network, block_json, read_init_block
from client.ton.queries import _open, query
from client.ton.wallet import read_wallet
from enclave.simulator.ton_chain import GLOBAL_ID
from tests.ton_in_box import NOW, Boot, write_ledger

BLOCK = block_json(PINNED["mainnet"])
KEY = base64.b64encode(bytes(range(32))).decode()
NETWORK: dict[str, Any] = {
    "schema": "sericin-network/1",
    "name": "somewhere",
    "init_block": BLOCK,
    "lite_servers": [{"host": "lite.example.org", "port": 4924, "key": KEY}],
    "registry": "EQCxE6mUtQJKFnGfaROTKOt1lZbDiiX1kCixRv7Nw2Id_sDs",
}


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


# ---- network


def test_a_network_file_is_read(tmp_path: Path) -> None:
    network = Network.read(write(tmp_path / "n", NETWORK | {"ledger": "the/ledger"}))
    assert str(network.registry) == "0:b113a994b5024a16719f69139328eb759596c38a25f59028b146fecdc3621dfe"
    assert (network.pinned, network.ledger) == (True, str(tmp_path / "the" / "ledger"))
    assert str(network.lite_servers[0]) == "lite.example.org:4924"
    named = Network.read(write(tmp_path / "n", NETWORK | {"init_block": "testnet"}))
    assert named.init_block == PINNED["testnet"]
    other = Network.read(write(tmp_path / "n", NETWORK | {"init_block": BLOCK | {"seqno": 7}}))
    assert not other.pinned


SERVER = NETWORK["lite_servers"][0]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another schema": ({"schema": "sericin-network/2"}, "schema"),
    "an unknown field": ({"trust_level": 2}, "trust_level"),
    "no name": ({"name": ""}, "name"),
    "no servers": ({"lite_servers": []}, "lite_servers"),
    "too many servers": ({"lite_servers": [SERVER] * 65}, "lite_servers"),
    "a server without key": ({"lite_servers": [{"host": "h", "port": 1}]}, r"lite_servers\[0\]"),
    "a short key": ({"lite_servers": [SERVER | {"key": KEY[:-4]}]}, "32 bytes"),
    "port 0": ({"lite_servers": [SERVER | {"port": 0}]}, "port"),
    "a port in words": ({"lite_servers": [SERVER | {"port": "4924"}]}, "port"),
    "a host with a path": ({"lite_servers": [SERVER | {"host": "a/b"}]}, "host"),
    "a block of another name": ({"init_block": "newest"}, "mainnet"),
    "a block without hashes": ({"init_block": {"seqno": 1}}, "root_hash"),
    "a basechain block": ({"init_block": BLOCK | {"workchain": 0}}, "masterchain"),
    "a shard": ({"init_block": BLOCK | {"shard": "4000000000000000"}}, "masterchain"),
    "a seqno beyond 32 bits": ({"init_block": BLOCK | {"seqno": 1 << 32}}, "seqno"),
    "a fraction": ({"init_block": BLOCK | {"seqno": 1.5}}, "seqno"),
    "a list as shard": ({"init_block": BLOCK | {"shard": []}}, "masterchain"),
    "a short hash": ({"init_block": BLOCK | {"root_hash": "ab"}}, "root_hash"),
    "an address with a typo": ({"registry": "EQCxE6mUtQJKFnGfaROTKOt1lZbDiiX1kCixRv7Nw2Id_sDt"}, "checksum"),
    "an address of another chain": ({"registry": "5:" + "00" * 32}, "registry"),
    "a number as address": ({"registry": 0}, "registry"),
    "a ledger of no name": ({"ledger": ""}, "ledger"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_network_file_that_is_wrong_says_where(tmp_path: Path, name: str) -> None:
    change, words = BAD[name]
    with pytest.raises(UsageFault, match=words):
        Network.read(write(tmp_path / "n", NETWORK | change))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"schema": 1, "schema": 1}', b" " * 70_000, b"\xff"])
def test_a_network_file_that_is_no_json_object(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "n").write_bytes(data)
    with pytest.raises(UsageFault):
        Network.read(tmp_path / "n")
    with pytest.raises(UsageFault):
        Network.read(tmp_path / "absent")


def test_an_init_block_is_read_out_of_what_people_have(tmp_path: Path) -> None:
    block = PINNED["mainnet"]
    hashes = {name: base64.b64encode(getattr(block, name)).decode() for name in ("root_hash", "file_hash")}
    inner = {"workchain": -1, "shard": -(1 << 63), "seqno": block.seqno, **hashes}
    official = {"@type": "config.global", "validator": {"init_block": inner}}
    for document in (BLOCK, NETWORK, official):
        assert read_init_block(write(tmp_path / "b", document)) == block
    with pytest.raises(UsageFault):
        read_init_block(write(tmp_path / "b", {"validator": {}}))


def test_the_simulator_s_network_is_nobody_s() -> None:
    assert SIMULATED_ID == GLOBAL_ID
    assert GLOBAL_ID not in PUBLIC_IDS


# ---- wallet


def wallet_file(path: Path, document: object, mode: int = 0o600) -> Path:
    write(path, document).chmod(mode)
    return path


WALLET = {"schema": "sericin-wallet/1", "version": "v4r2", "seed": "07" * 32}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_wallet_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(UsageFault, match="chmod 600"):
        read_wallet(wallet_file(tmp_path / "w", WALLET, mode))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "x"}, {"version": "v3r2"}, {"seed": "07" * 31}, {"seed": "zz"}, {"seed": 7}, {"more": 1},
        {"seed": None}, {"version": ["v4r2"]},
    ],
)  # fmt: skip
def test_a_wallet_file_that_is_wrong_never_shows_its_key(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UsageFault) as e:
        read_wallet(wallet_file(tmp_path / "w", WALLET | change))
    assert "0707" not in str(e.value)


def test_a_wallet_of_words_is_the_wallet_of_its_seed(tmp_path: Path) -> None:
    """24 words of a test wallet, in no use anywhere."""
    from pytoniq_core.crypto.keys import mnemonic_new, mnemonic_to_private_key

    words = mnemonic_new(24)
    seed = mnemonic_to_private_key(words)[1][:32].hex()
    document = {"schema": WALLET["schema"], "version": "v5r1", "mnemonic": " ".join(words)}
    mine = read_wallet(wallet_file(tmp_path / "a", document))
    other = read_wallet(wallet_file(tmp_path / "b", {"schema": WALLET["schema"], "version": "v5r1", "seed": seed}))
    assert mine.address(-239) == other.address(-239)
    assert mine.address(-239) != mine.address(-3)  # v5's account depends on the network
    assert seed not in repr(mine)
    with pytest.raises(UsageFault, match="24 words"):
        read_wallet(wallet_file(tmp_path / "a", document | {"mnemonic": " ".join(words[:-1])}))


# ---- amounts


def test_amounts_are_exact(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {
        0: "0 GRAM", 1: "0.000000001 GRAM", 50_000_000: "0.05 GRAM", 10**9: "1 GRAM", 1_234_567_890: "1.23456789 GRAM",
        (1 << 120) + 1: "1329227995784915872903807060.280344577 GRAM", -1: "-0.000000001 GRAM",
    }  # fmt: skip
    assert {nano: gram(nano) for nano in shown} == shown
    assert capsys.readouterr().out == ""


def test_no_amount_is_ever_a_float() -> None:
    folder = Path(__file__).parent.parent / "client"
    for file in [*(folder / "ton").glob("*.py"), folder / "commands" / "anchor.py", folder / "registry_messages.py"]:
        text = file.read_text()
        assert "float(" not in text, file
        assert "1e9" not in text, file


# ---- ledger


def test_a_ledger_is_read_key_by_key(tmp_path: Path) -> None:
    first, second = Boot("first"), Boot("second", machine=1)
    first.batch(), second.batch(count=2), first.batch(count=1)
    chains = read_chains(write_ledger(tmp_path / "l", [first, second]))
    assert {key: (chain.last, chain.machine) for key, chain in chains.items()} == {
        first.public: (2, "simulated"),
        second.public: (1, "tdx"),
    }
    place = find_receipt(tmp_path / "l", chains[first.public], serial=3, receipt_hash=first.receipts[3].receipt.hash)
    assert place is not None
    assert (place.index, place.signed.statement.seqno) == (0, 2)
    assert find_receipt(tmp_path / "l", chains[first.public], serial=4, receipt_hash=bytes(32)) is None


def test_a_torn_end_is_left_out(tmp_path: Path) -> None:
    boot = Boot()
    boot.batch()
    path = write_ledger(tmp_path / "l", [boot])
    path.write_bytes(path.read_bytes()[:-3])
    assert read_chains(path)[boot.public].last == 0


def test_damage_is_malformed(tmp_path: Path) -> None:
    boot = Boot()
    boot.batch()
    path = write_ledger(tmp_path / "l", [boot])
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 97):
        data[at] ^= 1
        path.write_bytes(data)
        data[at] ^= 1
        try:
            found = read_chains(path)
        except AttestationError:
            continue
        assert found.get(boot.public) is None or found[boot.public].last == 0  # a length: a torn end
    path.write_bytes((MAX_RECORD + 1).to_bytes(4, "big") + bytes(100))
    with pytest.raises(Malformed):
        read_chains(path)
    with pytest.raises(UsageFault, match="--ledger"):
        read_chains(tmp_path / "absent")


def test_only_what_the_key_signed_counts(tmp_path: Path) -> None:
    boot, other = Boot(), Ed25519PrivateKey.generate()
    statement = boot.batch()
    record = StatementRecord(key=boot.public, boc=statement.to_boc(), signature=other.sign(statement.hash))
    boot.records[-1] = frame(BATCH, record.encode())
    with pytest.raises(Untrusted, match="BatchSignatureInvalid"):
        read_chains(write_ledger(tmp_path / "l", [boot]))


@pytest.mark.parametrize("change", [{"key": bytes(32)}, {"serial": 1, "seqno": 1, "head": b"\x01" * 32}])
def test_only_the_boot_s_own_registration_counts(tmp_path: Path, change: dict[str, Any]) -> None:
    boot = Boot()
    other = replace(boot.registration, **change)
    record = StatementRecord(key=boot.public, boc=other.to_boc(), signature=boot.key.sign(other.hash))
    boot.records[0] = frame(REGISTRATION, record.encode())
    with pytest.raises(Malformed, match="MalformedRegistration"):
        read_chains(write_ledger(tmp_path / "l", [boot]))


def test_a_registration_and_a_receipt_are_the_key_s_own_or_nothing(tmp_path: Path) -> None:
    boot, stranger = Boot(), Boot("stranger")
    boot.batch()
    record = StatementRecord(key=boot.public, boc=boot.registration.to_boc(), signature=bytes(64))
    good = boot.records[0]
    boot.records[0] = frame(REGISTRATION, record.encode())
    with pytest.raises(Untrusted, match="RegistrationSignatureInvalid"):
        read_chains(write_ledger(tmp_path / "l", [boot]))
    item = stranger.receipt().encode()
    boot.records[0] = good
    boot.records[1] = frame(RECEIPT, ReceiptRecord(key=boot.public, serial=0, item=item).encode())
    with pytest.raises(Untrusted, match="ReceiptSignatureInvalid"):
        read_chains(write_ledger(tmp_path / "l", [boot]))


def test_two_statements_with_one_number_are_equivocation(tmp_path: Path) -> None:
    boot = Boot()
    statement = boot.batch()
    twin = replace(statement, time=NOW + 1)
    record = StatementRecord(key=boot.public, boc=twin.to_boc(), signature=boot.key.sign(twin.hash))
    boot.records.append(frame(BATCH, record.encode()))
    with pytest.raises(Untrusted, match="ReceiptEquivocation"):
        read_chains(write_ledger(tmp_path / "l", [boot]))


@pytest.mark.parametrize("which", ["missing", "exchanged", "another hash"])
def test_receipts_that_are_not_the_batch_s_prove_nothing(tmp_path: Path, which: str) -> None:
    boot = Boot()
    boot.batch()
    wanted = boot.receipts[1].receipt.hash
    if which == "missing":
        del boot.records[1]
    elif which == "exchanged":
        again = Boot("again")
        again.key, again.public = boot.key, boot.public
        again.receipt()
        boot.records[1] = again.records[-1]
    else:
        wanted = bytes(32)
    path = write_ledger(tmp_path / "l", [boot])
    with pytest.raises(Untrusted, match="BatchProofInvalid"):
        find_receipt(path, read_chains(path)[boot.public], serial=1, receipt_hash=wanted)


class _Pages(BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        page = self.pages.get(self.path)
        self.send_response(200 if page is not None else 404)
        if self.path == "/moved":
            self.send_header("Location", "/ledger")
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def pages() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_ledger_is_fetched_from_where_its_host_shows_it(tmp_path: Path, pages: str) -> None:
    boot = Boot()
    boot.batch()
    _Pages.pages["/ledger"] = write_ledger(tmp_path / "l", [boot]).read_bytes()
    network = Network.read(write(tmp_path / "n", NETWORK | {"ledger": f"{pages}/ledger"}))
    with opened_ledger(None, network) as path:
        assert read_chains(path)[boot.public].last == 1
    assert not path.exists()
    with pytest.raises(Unreachable, match="404"), opened_ledger(f"{pages}/absent", network):
        pass


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/ledger",
        "ftp://127.0.0.1/l",
        "https://",
        "https://user:pass@example.org/",
        "file:///etc/x",
        "https://h/#f",
    ],
)
def test_a_ledger_is_fetched_from_nowhere_else(tmp_path: Path, url: str) -> None:
    network = Network.read(write(tmp_path / "n", NETWORK | {"ledger": url}))
    with pytest.raises(UsageFault, match="https"), opened_ledger(None, network):
        pass


def test_a_ledger_without_end_is_cut_off(tmp_path: Path, pages: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.ledger_source.MAX_LEDGER", 1000)
    _Pages.pages["/long"] = bytes(100_000)
    network = Network.read(write(tmp_path / "n", NETWORK))
    with pytest.raises(Unreachable, match="1000 bytes"), opened_ledger(f"{pages}/long", network):
        pass


# ---- a public network takes no simulated boot


@pytest.mark.parametrize("machine", [0, 1])
@pytest.mark.parametrize("global_id", [None, -239, -3, SIMULATED_ID])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_simulated_boot_never_goes_to_a_public_network(
    tmp_path: Path, machine: int, global_id: int | None, *, pinned: bool
) -> None:
    boot = Boot(machine=machine)
    boot.batch()
    chains = read_chains(write_ledger(tmp_path / "l", [boot]))
    network = Network.read(write(tmp_path / "n", NETWORK | ({} if pinned else {"init_block": BLOCK | {"seqno": 7}})))
    if machine == 0 and (pinned or global_id in {-239, -3}):
        with pytest.raises(Refused, match="MachineNotAllowed"):
            require_machines(network, chains.values(), global_id=global_id)
    else:
        require_machines(network, chains.values(), global_id=global_id)


def test_a_boot_of_which_no_receipt_tells_the_machine_counts_as_simulated(tmp_path: Path) -> None:
    boot = Boot(machine=1)
    statement: BatchStatement = boot.batch()
    boot.records = [boot.records[0], boot.records[-1]]
    chains = read_chains(write_ledger(tmp_path / "l", [boot]))
    assert statement.count == 3
    with pytest.raises(Refused, match="MachineNotAllowed"):
        require_machines(Network.read(write(tmp_path / "n", NETWORK)), chains.values(), global_id=None)


def test_queries_are_wrapped_as_lite_servers_want_them() -> None:
    assert query(b"abcd").hex() == "df068c79" + "0461626364000000"
    with pytest.raises(AttestationError):
        _open(b"\x00" * 8, 1, "answer")
