# SPDX-License-Identifier: Apache-2.0
"""What scripts/bench-inference measures the engine against: llama-server over HTTP, and llama-batched-bench."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from enclave.models.catalogue import find, local_path

PROMPT, GENERATE, CONTEXT = 110, 64, 256  # tokens: of a prompt, of an answer, room for both
Run = dict[str, float]


@dataclass(frozen=True, slots=True)
class Subject:
    """The model that all sides run."""

    name: str
    path: Path
    sha256: bytes

    @classmethod
    def of(cls, word: str) -> Subject:
        """Give the model of the catalogue that is called so, or the GGUF file."""
        if word.endswith(".gguf"):
            with Path(word).open("rb") as file:
                return cls(Path(word).stem, Path(word), hashlib.file_digest(file, "sha256").digest())
        entry = find(word)
        return cls(entry.name, local_path(entry), entry.sha256)


class Server:
    """llama-server with `n` slots."""

    def __init__(self, folder: Path, model: Path, *, n: int, threads: int, form: tuple[int, int], layers: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.words = [
            str(folder / "llama-server"), "-m", str(model), "-c", str(CONTEXT * n), "-np", str(n), "-t", str(threads),
            "-tb", str(threads), "-b", str(form[0]), "-ub", str(form[1]), "-fa", "on", "--cache-ram", "0", "--no-webui",
            "--host", "127.0.0.1", "--port", str(self._port), "--no-warmup", "-lv", "0", "-ngl", str(layers),
        ]  # fmt: skip
        self._process = subprocess.Popen(self.words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        asyncio.run(self._ready())

    async def _ready(self) -> None:
        async with aiohttp.ClientSession() as session:
            for _ in range(600):
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{self._port}/health") as answer:
                        if answer.status == 200:
                            return
                if self._process.poll() is not None:
                    raise SystemExit(f"llama-server ended: {' '.join(self.words)}")
                await asyncio.sleep(0.1)
        raise SystemExit("llama-server is not ready after a minute")

    def run(self, texts: list[str]) -> Run:
        """Run all prompts together, streamed."""
        return asyncio.run(self._run(texts))

    async def _run(self, texts: list[str]) -> Run:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            began = time.perf_counter()
            found = await asyncio.gather(*(self._one(session, text, began) for text in texts))
            wall = time.perf_counter() - began
        count, first = sum(count for count, _ in found), statistics.median(first for _, first in found)
        return {"tokens": count, "wall": wall, "rate": count / wall, "ttft": first}

    async def _one(self, session: aiohttp.ClientSession, text: str, began: float) -> tuple[int, float]:
        body = {"prompt": text, "n_predict": GENERATE, "temperature": 0, "stream": True, "cache_prompt": False}
        first, count = 0.0, 0
        async with session.post(f"http://127.0.0.1:{self._port}/completion", json=body) as answer:
            async for line in answer.content:
                if line.startswith(b"data: "):
                    first = first or time.perf_counter() - began
                    document = json.loads(line[6:])
                    count = document.get("tokens_predicted", count)
        return count, first

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=30)


def limit_words(folder: Path, model: Path, *, n: int, threads: int, layers: int, times: int) -> list[str]:
    """Give the command of llama-batched-bench for `n` sequences, `times` over."""
    return [
        str(folder / "llama-batched-bench"), "-m", str(model), "-c", str(CONTEXT * n), "-t", str(threads), "-tb",
        str(threads), "-b", "2048", "-ub", "512", "-fa", "on", "-npp", str(PROMPT), "-ntg", str(GENERATE), "-npl",
        ",".join([str(n)] * times), "--output-format", "jsonl", "-ngl", str(layers),
    ]  # fmt: skip


def bare(words: list[str]) -> list[str]:
    """Give a command without the folders of this machine."""
    return [word.rpartition("/")[2] for word in words]


def limit_runs(words: list[str], n: int) -> list[Run]:
    """Give llama-batched-bench's numbers for `n` sequences, as often as it ran them."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{") and '"t_tg"' in line]
    if not rows:
        raise SystemExit(f"llama-batched-bench said nothing: {done.stderr[-500:]}")
    walls = [row["t_pp"] + row["t_tg"] for row in rows]
    return [
        {"tokens": n * GENERATE, "wall": wall, "rate": n * GENERATE / wall, "ttft": row["t_pp"]}
        for wall, row in zip(walls, rows, strict=True)
    ]
