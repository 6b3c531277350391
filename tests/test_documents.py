# SPDX-License-Identifier: Apache-2.0
"""Documents and help texts that cannot lie: commands, options, codes and fields they name are there."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from attestation.tdx.policy import TdxPolicy
from client.__main__ import SUMMARIES, cli
from tests.forged import config_document, policy_document

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples() -> list[tuple[str, str]]:
    """Give every `sericin ...` line of a code block, with its page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                line = line.removeprefix("$ ")  # noqa: PLW2901 - the prompt of a transcript
                if line.startswith("sericin "):
                    found.append((page.name, line))
    return found


def test_there_are_examples() -> None:
    assert len(examples()) >= 12


@pytest.mark.parametrize(("page", "line"), examples(), ids=lambda value: value[:60])
def test_every_example_names_commands_and_options_that_exist(page: str, line: str) -> None:
    words = shlex.split(line.replace("...", "").rstrip("& "))[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, f"{page}: {line}"
        command = found
    options = {name for parameter in command.params for name in parameter.opts}
    for word in words:
        if word.startswith("-"):
            assert word in options, f"{page}: {line}"


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found.append((*prefix, name))
        if isinstance(command, click.Group):
            found += commands(command, (*prefix, name))
    return found


@pytest.mark.parametrize("words", commands(cli), ids=" ".join)
def test_every_command_has_help(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*words, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 3


def test_the_table_lists_what_is_there() -> None:
    listed = cli.list_commands(click.Context(cli))
    assert set(listed) <= set(SUMMARIES)
    assert {"verify", "ask", "policy", "receipt", "audit", "serve", "model", "quote", "collateral"} <= set(listed)


def test_the_page_of_codes_is_the_table() -> None:
    written = runpy.run_path(str(ROOT / "scripts" / "errors-page"))["page"]()
    assert (ROOT / "docs" / "errors.md").read_text() == written


def test_the_policy_page_names_every_field() -> None:
    text = (ROOT / "docs" / "policy.md").read_text()
    for name in [*policy_document(), *TdxPolicy.strict_template()]:
        if name not in {"schema", "name"}:
            assert f"`{name}`" in text, name


def test_the_operator_page_names_every_field() -> None:
    text = (ROOT / "docs" / "operator.md").read_text()
    fields = re.findall(r'"([a-z_]+)":', config_document().decode())
    for name in set(fields) - {"schema", "name", "sha256", "kind", "mode", "count", "engine", "gpu", "models"}:
        assert name in text, name


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in [*PAGES, ROOT / "SECURITY.md", ROOT / "CHANGELOG.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_name_no_other_machine() -> None:
    for page in PAGES:
        assert not re.search(r"/(?:work|root|home)/", page.read_text()), page
