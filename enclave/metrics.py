# SPDX-License-Identifier: Apache-2.0
"""What may be counted: one list of numbers, and no labels that a request could fill."""

from __future__ import annotations

from enum import Enum


class Count(Enum):
    """Counters: name and help."""

    CONNECTIONS = ("sericin_connections_total", "Connections accepted")
    CONNECTIONS_REFUSED = ("sericin_connections_refused_total", "Connections refused because too many are open")
    HANDSHAKES_FAILED = ("sericin_tls_handshakes_failed_total", "TLS handshakes that failed or took too long")
    HTTP_REQUESTS = ("sericin_http_requests_total", "HTTP requests")
    ATTESTATIONS = ("sericin_attestations_total", "Evidence made for a client's nonce")
    SEALED_ACCEPTED = ("sericin_sealed_accepted_total", "Sealed requests that authenticated to their end")
    SEALED_REFUSED_OUTER = ("sericin_sealed_refused_outer_total", "Sealed requests refused before that")
    SEALED_REFUSED = ("sericin_sealed_refused_total", "Runs refused inside the seal")
    RUNS_COMPLETE = ("sericin_runs_complete_total", "Runs that ended complete")
    RUNS_ABORTED = ("sericin_runs_aborted_total", "Runs that ended early")
    RUNS_FAILED = ("sericin_runs_failed_total", "Runs that failed in the engine")
    TOKENS_PROMPT = ("sericin_prompt_tokens_total", "Prompt tokens of runs with a receipt")
    TOKENS_COMPLETION = ("sericin_completion_tokens_total", "Completion tokens of runs with a receipt")
    READERS_TOO_SLOW = ("sericin_readers_too_slow_total", "Runs cancelled because nobody read them")
    LEDGER_ERRORS = ("sericin_ledger_errors_total", "Records that the ledger did not take")
    BATCHES = ("sericin_batches_total", "Batch statements signed")
    INTERNAL_ERRORS = ("sericin_internal_errors_total", "Errors of our own")


class Gauge(Enum):
    """Gauges: name and help."""

    CONNECTIONS_OPEN = ("sericin_connections_open", "Open connections")
    RUNS_LIVE = ("sericin_runs_live", "Runs that the engine holds")
    EPOCH = ("sericin_epoch", "Number of the current epoch")
    KEYS_LIVE = ("sericin_seal_keys_live", "Private seal keys in memory")
    REPLAY_ENTRIES = ("sericin_replay_entries", "Replay entries of the current epoch")
    RUN_IDS = ("sericin_run_ids", "Run ids remembered")
    RECEIPTS_KEPT = ("sericin_receipts_kept", "Receipts that can be fetched by capability")


class Metrics:
    """Numbers of this process. A name that is not on the list is a TypeError."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Count, 0)
        self._gauges = dict.fromkeys(Gauge, 0)

    def add(self, count: Count, by: int = 1) -> None:
        """Count `by` more."""
        if type(count) is not Count or type(by) is not int:
            raise TypeError("metrics are on the list, and whole numbers")
        self._counts[count] += by

    def set(self, gauge: Gauge, value: int) -> None:
        """Set a gauge."""
        if type(gauge) is not Gauge or type(value) is not int:
            raise TypeError("metrics are on the list, and whole numbers")
        self._gauges[gauge] = value

    def read(self, name: Count | Gauge) -> int:
        """Give one number."""
        return self._counts[name] if isinstance(name, Count) else self._gauges[name]

    def exposition(self) -> str:
        """Give everything in the Prometheus text format, version 0.0.4."""
        lines: list[str] = []
        for kind, numbers in (("counter", self._counts), ("gauge", self._gauges)):
            for metric, value in numbers.items():
                name, text = metric.value
                lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
        return "\n".join(lines) + "\n"
