# SPDX-License-Identifier: Apache-2.0
"""Run messages through accounts in TON's own virtual machine, which lives in a process of its own (tonpy)."""

from __future__ import annotations

import base64
import importlib.util
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from pytoniq_core.boc.builder import Builder
from pytoniq_core.boc.cell import Cell
from pytoniq_core.tlb.transaction import MessageAny, Transaction

from .ton_cells import bag, dictionary, maybe_dictionary

ANSWER_SECONDS: Final = 30.0
GAS_PRICE: Final = 400  # nanograms per unit of gas in the basechain
VERSION: Final = 12


class MachineMissing(Exception):
    """tonpy is not installed. The message says what to do."""


class MachineFailed(Exception):
    """The virtual machine's process crashed, hung or reported an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one message did: the new ShardAccount, messages out, and the exit code of the contract."""

    account: Cell
    messages: tuple[MessageAny, ...]
    exit: int | None  # None: nothing was computed
    gas: int
    fees: int  # nanograms


class TonMachine:
    """The process. Use as a context; not for two threads at once."""

    def __init__(self) -> None:
        if importlib.util.find_spec("tonpy") is None:
            raise MachineMissing("tonpy is not installed: pip install 'sericin[tvm]' (requirements/tvm.txt)")
        command = [sys.executable, "-m", "enclave.simulator.ton_vm_child"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self._ask({"configuration": _text(machine_configuration())})
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, job: dict[str, object]) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None or self._process.poll() is not None:
            raise MachineFailed("the virtual machine has ended")
        watchdog = threading.Timer(ANSWER_SECONDS, self._process.kill)
        watchdog.start()
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as e:
            raise MachineFailed(f"the virtual machine: {e}") from None
        finally:
            watchdog.cancel()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the virtual machine crashed or hung"}
        if "error" in answer:
            raise MachineFailed(answer["error"])
        return answer

    def run(self, account: Cell, message: Cell, *, now: int, lt: int) -> Outcome | None:
        """Run `message` through the ShardAccount `account`; None when an external message is not accepted."""
        answer = self._ask({"account": _text(account), "message": _text(message), "now": now, "lt": lt})
        if "transaction" not in answer:
            return None
        done = Transaction.deserialize(_cell(answer["transaction"]).begin_parse())
        compute: Any = getattr(done.description, "compute_ph", None)
        computed = getattr(compute, "type_", "") == "vm"
        return Outcome(
            account=_cell(answer["account"]),
            messages=tuple(done.out_msgs),
            exit=int(compute.exit_code) if computed else None,
            gas=int(compute.gas_used) if computed else 0,
            fees=int(done.total_fees.grams),
        )


def _text(cell: Cell) -> str:
    return base64.b64encode(bag(cell)).decode()


def _cell(text: str) -> Cell:
    return Cell.one_from_boc(base64.b64decode(text))


def machine_configuration() -> Cell:
    """Write a configuration with what a virtual machine needs: prices, limits, one workchain (block.tlb)."""
    storage = Builder().store_uint(0xCC, 8).store_uint(0, 32).store_uint(1, 64).store_uint(500, 64)
    storage.store_uint(1000, 64).store_uint(500_000, 64)
    workchain = Builder().store_uint(0xA6, 8).store_uint(0, 32).store_uint(0, 16).store_uint(4, 8).store_uint(7, 3)
    workchain.store_uint(0, 13).store_uint(0, 512).store_uint(0, 32)
    workchain.store_uint(1, 4).store_uint(0xFFFFFFFF, 32).store_uint(0, 64)
    parameters = {
        0: Builder().store_bytes(b"\x55" * 32),
        8: Builder().store_uint(0xC4, 8).store_uint(VERSION, 32).store_uint(0x1EE, 64),
        12: Builder().store_cell(maybe_dictionary({0: workchain.end_cell()}, 32)),
        18: Builder().store_cell(dictionary({0: storage.end_cell()}, 32)),
        20: _gas(1_000_000, 10_000),
        21: _gas(40_000, GAS_PRICE),
        24: _forward(10_000_000, 10_000, 1_000_000),
        25: _forward(400_000, 400, 40_000),
        31: Builder().store_uint(0, 1),
    }
    return dictionary({key: Builder().store_ref(b.end_cell()).end_cell() for key, b in parameters.items()}, 32)


def _gas(flat_price: int, price: int) -> Builder:
    builder: Builder = Builder().store_uint(0xD1, 8).store_uint(100, 64).store_uint(flat_price, 64)
    builder.store_uint(0xDE, 8).store_uint(price << 16, 64)
    for field in (1_000_000, 10_000_000, 10_000, 10_000_000, 100_000_000, 1_000_000_000):
        builder.store_uint(field, 64)
    return builder


def _forward(lump: int, bit: int, cell: int) -> Builder:
    builder: Builder = Builder().store_uint(0xEA, 8).store_uint(lump, 64)
    builder.store_uint(bit << 16, 64).store_uint(cell << 16, 64).store_uint(98304, 32)
    builder.store_uint(21845, 16).store_uint(21845, 16)
    return builder
