# SPDX-License-Identifier: Apache-2.0
"""One contract account in TON's own virtual machine: tonpy in a subprocess, or @ton/sandbox in Node. Same interface."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from attestation.ton.accounts import Account, read_account
from attestation.ton.boc import read_boc, write_boc
from attestation.ton.cells import Cell
from attestation.ton.slices import Builder, Slice
from tests import ton_oracle
from tests.ton_cells import account, configuration, internal_message, shard_account

CONTRACTS = Path(__file__).parent.parent / "contracts"
LIMIT = 16 * 1024 * 1024


def have_tonpy() -> bool:
    """Tell whether the tonpy wheel is installed, without loading it."""
    return importlib.util.find_spec("tonpy") is not None


def have_sandbox() -> bool:
    """Tell whether Node and the contract's packages are installed."""
    return shutil.which("node") is not None and (CONTRACTS / "node_modules" / "@ton" / "sandbox").is_dir()


def encode(cell: Cell) -> str:
    """Give a cell as base64."""
    return base64.b64encode(write_boc(cell)).decode()


def decode(text: str) -> Cell:
    """Take a cell from base64, in whatever form a virtual machine writes it."""
    data: bytes = ton_oracle.read(base64.b64decode(text)).to_boc()  # tonpy writes an index, which our reader refuses
    (cell,) = read_boc(data, what="machine", limit=LIMIT, max_cells=1_000_000)
    return cell


class Machine:
    """A virtual machine process. `kind` is `tonpy` or `sandbox`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        command = {
            "tonpy": [sys.executable, "-m", "tests.ton_tvm_worker"],
            "sandbox": ["node", str(CONTRACTS / "machine.mjs")],
        }[kind]
        self._process = subprocess.Popen(  # the command is ours, no input of anybody's reaches it
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CONTRACTS.parent
        )
        self.config = encode(configuration(version=12))
        self.ask(do="configure", config=self.config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def ask(self, **job: Any) -> dict[str, Any]:
        """Send one job and give its answer. An error of the machine itself fails the test."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one message did to the contract."""

    exit: int
    gas: int
    fees: int
    action: int  # result code of the action phase; 0 when there was none
    aborted: bool
    bodies: tuple[Cell, ...]  # of outgoing messages
    values: tuple[int, ...]


class Contract:
    """One account: send it messages, call its get-methods."""

    def __init__(self, machine: Machine, code: Cell, data: Cell, address: bytes, *, balance: int, now: int) -> None:
        self.machine = machine
        self.address = address
        self.now = now
        self._lt = 1_000_000
        self._cell = shard_account(account(address, code, data, balance=balance, now=now))

    @property
    def shard_account(self) -> Cell:
        """The current ShardAccount."""
        return self._cell

    @property
    def state(self) -> Account:
        """The current account."""
        state = read_account(self._cell.refs[0])
        assert state is not None
        return state

    @property
    def data(self) -> Cell:
        """The current contract data."""
        data = self.state.data
        assert data is not None
        return data

    def send(self, source: bytes, body: Cell, *, value: int = 100_000_000, bounce: bool = True) -> Outcome:
        """Send an internal message and run it."""
        return self.run(internal_message(source, self.address, value, body, bounce=bounce, lt=self._lt))

    def run(self, message: Cell) -> Outcome:
        """Run one message."""
        self._lt += 1_000_000
        answer = self.machine.ask(
            do="transact", account=encode(self._cell), message=encode(message), now=self.now, lt=self._lt
        )
        self._cell = decode(answer["account"])
        return read_transaction(decode(answer["transaction"]))

    def get(self, method: str, *arguments: int | Cell | Slice) -> tuple[int, list[int | str]]:
        """Call a get-method: exit code and the integers it gave."""
        state = self.state
        assert state.code is not None
        assert state.data is not None
        stack: list[dict[str, str]] = []
        for argument in arguments:
            if isinstance(argument, int):
                stack.append({"int": str(argument)})
            elif isinstance(argument, Cell):
                stack.append({"cell": encode(argument)})
            else:
                stack.append({"slice": encode(argument.cell)})
        answer = self.machine.ask(
            do="get", code=encode(state.code), data=encode(state.data), method=method, methodId=method_id(method),
            stack=stack, now=self.now, balance=str(state.balance), config=self.machine.config,
        )  # fmt: skip
        if "stackBoc" in answer:
            return answer["exit"], read_stack(decode(answer["stackBoc"]))
        return answer["exit"], [item if item == "cell" else int(item) for item in answer["stack"]]


def method_id(name: str) -> int:
    """Compute a get-method's id: CRC-16/XMODEM of its name, with bit 16 set."""
    crc = 0
    for byte in name.encode():
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ (0x1021 if crc & 0x8000 else 0)
    return crc & 0xFFFF | 0x10000


def read_stack(cell: Cell) -> list[int | str]:
    """Read a VmStack: integers as they are, everything else as `cell`."""
    at = Slice(cell, what="stack", code="MalformedCell")
    depth = at.uint(24, "depth")
    items: list[int | str] = []
    for _ in range(depth):
        rest = at.ref("rest")
        kind = at.uint(8, "kind")
        if kind == 1:
            items.append(at.signed(64, "int"))
        elif kind == 2 and at.uint(7, "wide") == 0:
            items.append(at.signed(257, "int"))
        else:
            items.append("cell")
        at = Slice(rest, what="stack", code="MalformedCell")
    return items[::-1]


def read_transaction(cell: Cell) -> Outcome:
    """Read what a test wants to know of an ordinary transaction."""
    at = Slice(cell, what="transaction", code="MalformedCell")
    at.tag(4, 0b0111)
    at.uint(256 + 64 + 256 + 64 + 32 + 15 + 4, "head")
    messages = at.child("messages")
    fees = at.coins("total fees")
    at.maybe_ref("extra")
    at.ref("state update")
    return _read_description(at.child("description"), fees, *_read_messages(messages))


def _read_messages(at: Slice) -> tuple[tuple[Cell, ...], tuple[int, ...]]:
    at.maybe_ref("in")
    out = at.maybe_ref("out")
    bodies: list[Cell] = []
    values: list[int] = []
    stack = [] if out is None else [out]
    while stack:
        cell = stack.pop()
        if cell.refs and cell.refs[0].refs and len(cell.refs) == 2:
            stack.extend(reversed(cell.refs))
            continue
        message = Slice(cell.refs[0], what="message", code="MalformedCell")
        message.uint(4 + 2 * 267, "head")
        values.append(message.coins("value"))
        message.maybe_ref("extra")
        message.coins("ihr"), message.coins("forward")
        message.uint(64 + 32, "created")
        message.flag("init")
        if message.flag("body"):
            bodies.append(message.ref("body"))
        else:
            rest = message.bits_left
            bodies.append(Builder().uint(message.uint(rest, "body"), rest).cell())
    return tuple(bodies), tuple(values)


def _read_description(at: Slice, fees: int, bodies: tuple[Cell, ...], values: tuple[int, ...]) -> Outcome:
    at.tag(4, 0)
    at.flag("credit first")
    if at.flag("storage"):
        at.coins("collected")
        if at.flag("due"):
            at.coins("due")
        if at.flag("status"):
            at.flag("status")
    if at.flag("credit"):
        if at.flag("due"):
            at.coins("due")
        at.coins("credit")
        at.maybe_ref("extra")
    exit_code, gas = -1, 0
    if at.flag("computed"):
        at.uint(3, "flags")
        at.coins("gas fees")
        more = at.child("compute")
        gas = more.uint(8 * more.uint(3, "gas"), "gas")
        more.uint(8 * more.uint(3, "limit"), "limit")
        if more.flag("credit"):
            more.uint(8 * more.uint(2, "credit"), "credit")
        more.signed(8, "mode")
        exit_code = more.signed(32, "exit")
    else:
        exit_code = -100 - at.uint(2, "skipped")
    action = 0
    if at.flag("acted"):
        phase = at.child("action")
        phase.uint(3, "flags")
        if phase.flag("status"):
            phase.flag("status")
        for field in ("forward", "action fees"):
            if phase.flag(field):
                phase.coins(field)
        action = phase.signed(32, "result")
    return Outcome(
        exit=exit_code, gas=gas, fees=fees, action=action, aborted=at.flag("aborted"), bodies=bodies, values=values
    )
