# SPDX-License-Identifier: Apache-2.0
"""The command `sericin`: a table of commands, each loaded only when it is named."""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Final, NoReturn

import click

GROUP: Final = "sericin.commands"
EXIT_PIPE: Final = 141  # 128 + SIGPIPE: what a shell says of a program whose reader has closed the pipe
SUMMARIES: Final = {
    "verify": "Verify an enclave against a policy, and send nothing.",
    "ask": "Ask a verified enclave and keep the receipt.",
    "proxy": "Offer a verified enclave as an OpenAI-compatible server on this machine.",
    "policy": "Make, check and compare policies.",
    "quote": "Show and verify TDX quotes.",
    "collateral": "Fetch what Intel publishes about a platform.",
    "gpu": "Show and verify NVIDIA GPU evidence.",
    "receipt": "Show, verify and prove receipts.",
    "audit": "Check a dossier, offline, link by link.",
    "anchor": "Publish batch heads on TON.",
    "registry": "Show the registry, every value proved.",
    "serve": "Run an enclave.",
    "model": "List, fetch and digest models.",
    "measure": "Compute expected measurements from firmware and image.",
    "image": "Build and verify enclave images.",
    "launch": "Launch enclave images.",
    "doctor": "Check what this host can do.",
}


class CommandTable(click.Group):
    """Finds commands by their entry points; what is not installed is not listed."""

    def _found(self) -> dict[str, EntryPoint]:
        found = {point.name: point for point in entry_points(group=GROUP)}
        return {name: found[name] for name in SUMMARIES if name in found and _module_exists(found[name])}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """List the commands at hand in the order of the table."""
        return list(self._found())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        """Load one command."""
        point = self._found().get(name)
        if point is None:
            return None
        command = point.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"{point.value} is not a command")
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Run one command. A reader that closes the pipe ends it quietly with EXIT_PIPE, whoever wrote last."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _pipe_closed()
        except SystemExit as e:
            if isinstance(e.__context__, BrokenPipeError):  # a table's library ends with 1, which says another thing
                _pipe_closed()
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without loading a single command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in self.list_commands(ctx)])


def _pipe_closed() -> NoReturn:
    """End, and let nothing complain of what could not be flushed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    raise SystemExit(EXIT_PIPE) from None


def _module_exists(point: EntryPoint) -> bool:
    from importlib.util import find_spec  # noqa: PLC0415 - only when a table is built

    try:
        return find_spec(point.module) is not None
    except ModuleNotFoundError:
        return False


@click.command(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sericin", prog_name="sericin")
def cli() -> None:
    """Private AI inference that its host cannot read, and that anybody can check.

    Every command's help says its exit codes. Ctrl-C ends one with 130, a reader that closes the pipe with 141.
    """


def main() -> None:
    """Run the command line; Ctrl-C ends it with 130, a closed pipe with EXIT_PIPE."""
    try:
        cli(prog_name="sericin", standalone_mode=False)
    except click.exceptions.Abort:
        raise SystemExit(130) from None
    except click.ClickException as e:
        e.show()
        raise SystemExit(e.exit_code) from None
    except click.exceptions.Exit as e:
        raise SystemExit(e.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
