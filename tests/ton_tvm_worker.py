# SPDX-License-Identifier: Apache-2.0
"""The process that runs TON's own virtual machine (tonpy): JSON lines in, JSON lines out. Started by ton_tvm."""

from __future__ import annotations

import json
import sys
from typing import Any


def _cell(text: str) -> Any:
    from tonpy import Cell  # native, and only in this process

    return Cell(text)


def _boc(cell: Any) -> str:
    return str(cell.to_boc())


def transact(emulator: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Run one message through one account."""
    done = emulator.emulate_transaction(_cell(job["account"]), _cell(job["message"]), job["now"], job["lt"])
    if not done:
        return {"error": "no transaction"}
    transaction, account = emulator.transaction, emulator.account
    return {"transaction": _boc(transaction.to_cell()), "account": _boc(account.to_cell())}


def get(job: dict[str, Any]) -> dict[str, Any]:
    """Run a get-method over code and data."""
    from tonpy import TVM  # native, and only in this process

    machine = TVM(code=_cell(job["code"]), data=_cell(job["data"]))
    arguments: list[Any] = [int(a["int"]) if "int" in a else _cell(a.get("cell") or a["slice"]) for a in job["stack"]]
    stack = [a.begin_parse() if "slice" in given else a for a, given in zip(arguments, job["stack"], strict=True)]
    machine.set_stack([*stack, job["methodId"]])
    machine.set_gas_limit(10_000_000)
    machine.set_c7(_registers(job["now"], int(job["balance"]), _cell(job["config"])))
    result = machine.run(allow_non_success=True)
    return {"exit": machine.exit_code, "gas": machine.gas_used, "stack": [_item(entry) for entry in result]}


def _registers(now: int, balance: int, config: Any) -> list[Any]:
    from tonpy import begin_cell

    address = begin_cell().store_uint(0b100, 3).store_uint(0, 8).store_uint(0, 256).end_cell().begin_parse()
    return [0x076EF1EA, 0, 0, now, 0, 0, 0, [balance, None], address, config]  # the library puts the tuple around it


def _item(entry: Any) -> Any:
    if isinstance(entry, int):
        return str(entry)
    return "cell"


def main() -> None:
    """Serve until the pipe closes."""
    emulator: Any = None
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if job["do"] == "configure":
                from tonpy import Emulator

                emulator = Emulator(_cell(job["config"]))
                answer: dict[str, Any] = {}
            elif job["do"] == "transact":
                answer = transact(emulator, job)
            else:
                answer = get(job)
        except Exception as e:  # noqa: BLE001 - reported to the process that asked
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
