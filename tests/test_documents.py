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


def lines_of_code(page: Path) -> list[str]:
    """Give the lines of every code block, with or without a language, continued lines joined."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def examples() -> list[tuple[str, str]]:
    """Give every `sericin ...` line of a code block, with its page."""
    found = []
    for page in PAGES:
        lines = [line.removeprefix("$ ") for line in lines_of_code(page)]  # the prompt of a transcript
        found += [(page.name, line) for line in lines if line.startswith("sericin ")]
    return found


def mentions() -> list[tuple[str, str]]:
    """Give every `sericin ...` that a sentence names, with its page."""
    texts = [
        (page.name, re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)) for page in PAGES
    ]
    return [(name, words) for name, text in texts for words in re.findall(r"`(sericin [^`]+)`", text)]


def test_there_are_examples() -> None:
    assert len(examples()) >= 12
    assert len(mentions()) >= 5


def resolve(words: list[str], where: str) -> tuple[click.Command, list[str]]:
    """Walk the real command table; give the command and what is left for it."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words[0])
        assert found is not None, f"{where}: no command {words[0]}"
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize(("page", "line"), examples(), ids=lambda value: value[:60])
def test_every_example_is_one_that_the_command_line_takes(page: str, line: str) -> None:
    """Parsed by the real commands: every option is there, has a value it takes, and no argument is missing."""
    words = shlex.split(re.split(r" [|>&]( |$)", line)[0])[1:]
    command, rest = resolve(words, f"{page}: {line}")
    assert not isinstance(command, click.Group), f"{page}: {line} stops at a group"
    try:
        command.make_context(command.name, rest).close()
    except click.UsageError as e:
        pytest.fail(f"{page}: {line}: {e.format_message()}")


@pytest.mark.parametrize(("page", "words"), mentions(), ids=lambda value: value[:60])
def test_every_mention_names_a_command_and_options_that_exist(page: str, words: str) -> None:
    command, rest = resolve(words.split()[1:], f"{page}: {words}")
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert not [word for word in rest if word.startswith("-") and word not in options], f"{page}: {words}"


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
