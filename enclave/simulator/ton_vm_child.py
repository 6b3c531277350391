# SPDX-License-Identifier: Apache-2.0
"""The process that runs TON's own virtual machine (tonpy, extra `tvm`): JSON lines in, JSON lines out.

Started by ton_machine. Native code stays in here: when it crashes, one transaction fails.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tonpy import Cell, Emulator


def transact(emulator: Emulator, job: dict[str, Any]) -> dict[str, Any]:
    """Run one message through one account; without `transaction` in the answer the account did not accept it."""
    if not emulator.emulate_transaction(Cell(job["account"]), Cell(job["message"]), job["now"], job["lt"]):
        return {}
    transaction, account = emulator.transaction.to_cell(), emulator.account.to_cell()
    return {"transaction": str(transaction.to_boc()), "account": str(account.to_boc())}


def main() -> None:
    """Serve until the pipe closes. The first line is the configuration."""
    emulator = Emulator(Cell(json.loads(sys.stdin.readline())["configuration"]))
    print("{}", flush=True)
    for line in sys.stdin:
        try:
            answer = transact(emulator, json.loads(line))
        except Exception as e:  # noqa: BLE001 - reported to the process that asked
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
