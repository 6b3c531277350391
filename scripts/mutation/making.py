# SPDX-License-Identifier: Apache-2.0
"""Make the mutants of a file: mutmut's operators and two of our own, without what no program reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, deep_replace
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal
from mutmut.mutation.pragma_handling import IgnoredCode

WORDS = {"where", "want", "got", "what", "when"}
ERRORS = {"Malformed", "Untrusted", "Refused", "PolicyInvalid"}


@dataclass(frozen=True, slots=True, eq=False)
class Mutant:
    """One change of one file. `function` is "name" or "Class.name", or "" for what is done at import."""

    file: str
    function: str
    line: int
    last: int
    before: str
    after: str
    number: int  # of those with the same text in the same function, from 0
    source: str  # the whole changed file
    file_sha256: str  # of the unchanged one

    @property
    def key(self) -> str:
        """Name the mutant so that the name outlives moved lines."""
        twin = f" #{self.number + 1}" if self.number else ""
        return f"{self.file} {self.function or 'module'}: {self.before} -> {self.after}{twin}"


def left_out(node: cst.SimpleStatementLine) -> Iterable[cst.CSTNode]:
    """Leave a call or a raise out."""
    body = node.body[0]
    is_call = isinstance(body, cst.Expr) and isinstance(body.value, cst.Call)
    if len(node.body) == 1 and (is_call or isinstance(body, cst.Raise)):
        yield node.with_changes(body=[cst.Pass()])


def never(node: cst.If) -> Iterable[cst.CSTNode]:
    """Never take a branch."""
    yield node.with_changes(test=cst.Name("False"))


def is_words(arg: cst.Arg) -> bool:
    """Whether an argument only says where and what, for people."""
    value = arg.value
    if arg.keyword:
        return arg.keyword.value in WORDS | {"name"}
    if (
        isinstance(value, cst.FormattedString)
        and value.parts
        and isinstance(value.parts[0], cst.FormattedStringExpression)
    ):
        value = value.parts[0].expression
    return isinstance(value, cst.Name) and value.value in WORDS


def parameters(module: cst.Module) -> dict[str, list[str]]:
    """Name the positional parameters of every top-level function."""
    functions = [node for node in module.body if isinstance(node, cst.FunctionDef)]
    return {node.name.value: [param.name.value for param in node.params.params] for node in functions}


def words_of(call: cst.Call, known: dict[str, list[str]]) -> list[cst.Arg]:
    """List the arguments of a call that are words; of an error also its place."""
    found = [arg for arg in call.args if is_words(arg)]
    if isinstance(call.func, cst.Name):
        names = known.get(call.func.value, [])
        if call.func.value in ERRORS:
            names = ["where"] if call.func.value == "PolicyInvalid" else ["", "where"]
        for name, arg in zip(names, call.args, strict=False):
            if name in WORDS and not arg.keyword and not arg.star and arg not in found:
                found.append(arg)
    return found


def arguments(node: cst.Call, known: dict[str, list[str]]) -> Iterable[cst.CSTNode]:
    """Do what mutmut does with arguments, apart from words."""
    words = {id(arg) for arg in words_of(node, known)}
    kept = [arg for arg in node.args if id(arg) not in words]
    for changed in operator_arg_removal(node.with_changes(args=kept)):
        rest = [arg for arg in node.args if id(arg) in words]
        positional = [arg for arg in rest if not arg.keyword]
        if len(changed.args) < len(kept) and positional:
            continue  # another argument would move into the words' place
        if len(changed.args) < len(kept):
            out = [*changed.args, *rest]
        else:
            new = iter(changed.args)
            out = [arg if id(arg) in words else next(new) for arg in node.args]
        yield node.with_changes(args=out)


OURS: list[tuple[Any, Any]] = [(cst.SimpleStatementLine, left_out), (cst.If, never)]
ALL = [*mutation_operators, *OURS]


class Visitor(MutationVisitor):  # type: ignore[misc]  # mutmut is not installed where types are checked
    """Visit decorated functions too (only code is replaced, no decorator runs again), and no words."""

    def __init__(self, operators: Sequence[tuple[Any, Any]], known: dict[str, list[str]], *, words: bool) -> None:
        if not words:
            operators = [pair for pair in operators if pair[1] is not operator_arg_removal]
            operators += [(cst.Call, lambda node: arguments(node, known))] if len(operators) > len(OURS) else []
        super().__init__(operators, IgnoredCode(set(), set(), set()))
        self._words, self._known = words, known
        self._skipped: set[int] = set()

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if not self._words:
            if isinstance(node, cst.Call):
                self._skipped |= {id(arg) for arg in words_of(node, self._known)}
            if id(node) in self._skipped:
                return True
            targets = node.targets if isinstance(node, cst.Assign) else ()
            if any(isinstance(t.target, cst.Name) and t.target.value in WORDS for t in targets):
                return True
        if isinstance(node, cst.FunctionDef) and node.decorators:
            return False
        return bool(super()._skip_node_and_children(node))


def _functions(module: cst.Module) -> dict[int, str]:
    """Name every top-level function and method by its node."""
    names: dict[int, str] = {}
    for statement in module.body:
        if isinstance(statement, cst.FunctionDef):
            names[id(statement)] = statement.name.value
        if isinstance(statement, cst.ClassDef):
            for child in statement.body.body:
                if isinstance(child, cst.FunctionDef):
                    names[id(child)] = f"{statement.name.value}.{child.name.value}"
    return names


def _visit(source: str, operators: Sequence[tuple[Any, Any]], *, words: bool) -> tuple[MetadataWrapper, list[Any]]:
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = Visitor(operators, parameters(wrapper.module), words=words)
    wrapper.visit(visitor)
    return wrapper, list(visitor.mutations)


def _text(module: cst.Module, node: cst.CSTNode) -> str:
    return " ".join(module.code_for_node(node).split()).replace("`", "'")[:160]


def mutants_of(tree: Path, file: str, *, checks: bool) -> tuple[list[Mutant], int]:
    """Give the mutants of one file, and how many were excluded; with `checks` those alone that leave a check out."""
    source, operators = (tree / file).read_text(), OURS if checks else ALL
    wrapper, found = _visit(source, operators, words=False)
    everything = len(_visit(source, operators, words=True)[1])
    module, places = wrapper.module, wrapper.resolve(PositionProvider)
    names = _functions(module)
    mutants: list[Mutant] = []
    seen: dict[tuple[str, str, str], int] = {}
    texts, digest = {source}, sha256(source.encode()).hexdigest()
    for one in found:
        function = names.get(id(one.contained_by_top_level_function), "") if one.contained_by_top_level_function else ""
        changed = deep_replace(module, one.original_node, one.mutated_node)
        text = changed.code if isinstance(changed, cst.Module) else source
        if text in texts:
            everything -= 1
            continue  # the same change by two operators
        texts.add(text)
        before, after = _text(module, one.original_node), _text(module, one.mutated_node)
        number = seen.get((function, before, after), 0)
        seen[function, before, after] = number + 1
        place = places[one.original_node]
        made = Mutant(file, function, place.start.line, place.end.line, before, after, number, text, digest)
        mutants.append(made)
    return mutants, everything - len(mutants)
