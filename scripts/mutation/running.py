# SPDX-License-Identifier: Apache-2.0
"""Run tests against mutants, each in a process of its own that is forked when everything is already imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Literal, NoReturn

import pytest
from coverage import Coverage, CoverageData

from .making import Mutant

Outcome = Literal["killed", "survived", "timed out"]
KILLED, SURVIVED, SAME = 1, 0, 77
SLACK, FACTOR = 10.0, 5.0  # seconds and multiples of what the same tests took before
LIKELIEST = 150  # tests that a mutant runs first; what they leave alive meets the others
MEMORY = 8 << 30  # a mutant that grows without bound is stopped


def _run(*command: str, cwd: Path, data: bytes | None = None) -> bytes:
    found = shutil.which(command[0])
    if found is None:
        raise SystemExit(f"scripts/mutate: {command[0]} is missing")
    return subprocess.run([found, *command[1:]], cwd=cwd, check=True, input=data, stdout=subprocess.PIPE).stdout


def commit(root: Path) -> str:
    """Give the commit that is mutated."""
    return _run("git", "rev-parse", "HEAD", cwd=root).decode().strip()


def copy_of_commit(root: Path, folder: Path) -> Path:
    """Unpack the last commit, so that nobody's work in the checkout changes under the campaign."""
    _run("tar", "x", cwd=folder, data=_run("git", "archive", "HEAD", cwd=root))
    os.environ.setdefault("SERICIN_VECTORS", str(root.parent / "shared" / "vectors"))
    return folder


def _quiet() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _wait(pid: int, seconds: float) -> Outcome | None:
    """Wait for a forked test process; None when it says that its code did not change."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return None if code == SAME else "survived" if code == SURVIVED else "killed"
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "timed out"


# ---- a mutant inside a function


def live(function: str, module: ModuleType) -> FunctionType | None:
    """Find the function that is called: past properties, class methods and caches."""
    owner: Any = module
    *classes, name = function.split(".")
    for one in classes:
        owner = vars(owner)[one]
    found = vars(owner).get(name)
    for attribute in ("fget", "func", "__func__", "__wrapped__"):
        found = getattr(found, attribute, None) or found
    return found if isinstance(found, FunctionType) else None


def compiled(function: str, code: CodeType) -> CodeType | None:
    """Find the code of a function in the code of its module."""
    for name in function.split("."):
        inner = [c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name]
        if not inner:
            return None
        code = inner[-1]
    return code


def put_in(mutant: Mutant) -> bool:
    """Replace the code of the mutated function, or the mutated constants wherever they were imported.

    False when that cannot be done so: a default argument, a class body, a decorator.
    """
    module = _module(mutant)
    if not mutant.function:
        new = changed_constants(mutant)
        for name, value in new.items():
            old = vars(module)[name]
            for other in list(sys.modules.values()):
                if vars(other or object).get(name) is old:
                    setattr(other, name, value)
        return bool(new)
    target = live(mutant.function, module)
    code = compiled(mutant.function, compile(mutant.source, str(module.__file__), "exec", dont_inherit=True))
    if target is None or code is None or code == target.__code__:
        return False
    if code.co_freevars != target.__code__.co_freevars:
        return False
    target.__code__ = code
    return True


def _module(mutant: Mutant) -> ModuleType:
    return sys.modules[mutant.file.removesuffix(".py").replace("/", ".")]


def _plain(value: object) -> bool:
    """Whether a value holds nothing that the changed module made for itself: functions, classes, their instances."""
    if isinstance(value, dict):
        return all(_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set | frozenset):
        return all(_plain(item) for item in value)
    return value is None or type(value) in {int, str, bytes, bool, float, re.Pattern}


def changed_constants(mutant: Mutant) -> dict[str, object]:
    """Run the changed module aside and give its constants that differ. Raises what its import raises."""
    module = _module(mutant)
    aside = ModuleType(module.__name__)
    aside.__file__, aside.__package__, aside.__spec__ = module.__file__, module.__package__, module.__spec__
    sys.modules[module.__name__] = aside  # dataclasses look their module up by name
    try:
        exec(compile(mutant.source, str(module.__file__), "exec", dont_inherit=True), vars(aside))  # noqa: S102
    finally:
        sys.modules[module.__name__] = module
    pairs = ((name, value, vars(module).get(name)) for name, value in vars(aside).items() if not name.startswith("__"))
    return {name: value for name, value, old in pairs if _plain(value) and _plain(old) and value != old}


class Campaign:
    """A pytest plugin: run every test once, then each mutant's tests in forked processes."""

    def __init__(self, mutants: Iterable[Mutant], out: Callable[[Mutant, Outcome | None], None]) -> None:
        self._mutants, self._out = list(mutants), out
        self._coverage = Coverage(data_file=None, branch=False)
        self._took: dict[str, float] = defaultdict(float)
        self._forked = False

    def pytest_collection(self) -> None:
        """Start before the tests are imported."""
        self._coverage.start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember how long each test takes."""
        self._took[report.nodeid] += report.duration

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> None:
        """In a mutant: the first failure is enough, and nobody reads its traceback."""
        if self._forked and call.excinfo and not isinstance(call.excinfo.value, pytest.skip.Exception):
            os._exit(KILLED)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all, then the mutants."""
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            self._coverage.switch_context(item.nodeid)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        self._coverage.stop()
        if session.testsfailed:
            raise session.Failed("the tests fail without any mutant")
        by_line = self._by_line()
        items = {item.nodeid: item for item in session.items}
        for mutant in self._mutants:
            chosen = [items[name] for name in self._chosen(mutant, by_line) if name in items]
            outcome = self._try(mutant, chosen[:LIKELIEST])
            if outcome == "survived" and chosen[LIKELIEST:]:
                outcome = self._try(mutant, chosen[LIKELIEST:])
            self._out(mutant, outcome)
        return True

    def _by_line(self) -> dict[str, dict[int, set[str]]]:
        data: CoverageData = self._coverage.get_data()
        return {
            file: {line: set(names) - {""} for line, names in data.contexts_by_lineno(file).items()}
            for file in data.measured_files()
        }

    def _chosen(self, mutant: Mutant, by_line: dict[str, dict[int, set[str]]]) -> list[str]:
        """Choose the tests that reach the place, or its function where lines do not tell; likely ones first."""
        module = _module(mutant)
        if not mutant.function:
            return sorted(self._took, key=lambda name: self._took[name])
        target = live(mutant.function, module)
        if target is None:
            return list(self._took)
        lines = by_line.get(str(module.__file__), {})
        inside = {at for at in _lines(target.__code__) if at is not None}
        here: set[str] = set().union(*(lines.get(at, set()) for at in inside if mutant.line <= at <= mutant.last))
        reached: dict[str, int] = {}
        farthest: dict[str, int] = defaultdict(int)
        for at in inside:
            names = lines.get(at, set())
            near = mutant.line <= at <= mutant.last + 2
            for name in names & here if here else names:
                farthest[name] = max(farthest[name], at)
                reached[name] = min(reached.get(name, 10**9), len(names) if near else 10**6 + len(names))
        # A test that a check ends comes no farther in the function than the check.
        ended = {name for name, at in farthest.items() if at <= mutant.last}
        return sorted(reached, key=lambda name: (name not in ended, reached[name], self._took[name]))

    def _try(self, mutant: Mutant, items: list[Any]) -> Outcome | None:
        pid = os.fork()
        if pid == 0:
            self._in_mutant(mutant, items)
        return _wait(pid, SLACK + FACTOR * sum(self._took[item.nodeid] for item in items))

    def _in_mutant(self, mutant: Mutant, items: list[Any]) -> NoReturn:
        try:
            _quiet()
            self._forked = True
            if not put_in(mutant):
                os._exit(SAME)
            _forget()
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            os._exit(SURVIVED)
        except BaseException:  # noqa: BLE001  # whatever it was, a test process that breaks is a killed mutant
            os._exit(KILLED)


def _forget() -> None:
    """Empty the caches of what is tested: what they hold was made without the mutant."""
    for module in list(sys.modules.values()):
        if module and module.__name__.startswith("attestation."):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _lines(code: CodeType) -> set[int | None]:
    found = {line for _, _, line in code.co_lines()}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            found |= _lines(inner)
    return found


def in_memory(tree: Path, tests: list[str], mutants: list[Mutant]) -> Iterator[tuple[Mutant, Outcome]]:
    """Give outcomes for the mutants that can be put in; the others are left for `by_import`."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(tree, tests, mutants, writer)
    os.close(writer)
    with os.fdopen(reader) as lines:
        for line in lines:
            number, outcome = json.loads(line)
            if outcome:
                yield mutants[number], outcome
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise SystemExit(f"scripts/mutate: the tests do not pass without a mutant (pytest: {code})")


# The same attacks again, each with a memory: they take long, and tell nothing that the attacks themselves do not.
LEFT_OUT = ["-k", "not excuses_nothing"]


def _arguments(tests: list[str]) -> list[str]:
    return ["-q", "-s", "-x", "-p", "no:cacheprovider", "-p", "no:terminalreporter", *LEFT_OUT, *tests]


def _enter(tree: Path) -> None:
    os.chdir(tree)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(tree))


def _child(tree: Path, tests: list[str], mutants: list[Mutant], writer: int) -> NoReturn:
    code = 3
    try:
        _enter(tree)
        number = {id(m): i for i, m in enumerate(mutants)}

        def out(mutant: Mutant, outcome: Outcome | None) -> None:
            os.write(writer, json.dumps([number[id(mutant)], outcome]).encode() + b"\n")

        code = int(
            pytest.main(["-q", "-s", "-p", "no:cacheprovider", *LEFT_OUT, *tests], plugins=[Campaign(mutants, out)])
        )
    finally:
        os._exit(code)


# ---- a mutant of what is done at import


class Changed(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Import one module from changed source."""

    def __init__(self, tree: Path, mutant: Mutant) -> None:
        self._name = mutant.file.removesuffix(".py").replace("/", ".")
        self._path, self._source = str(tree / mutant.file), mutant.source

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Answer for the one module."""
        if fullname != self._name:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=self._path)

    def get_source(self, _fullname: str) -> str:
        """Give the changed source."""
        return self._source


def by_import(tree: Path, tests: list[str], mutants: list[Mutant]) -> Iterator[tuple[Mutant, Outcome]]:
    """Give outcomes by importing each changed module."""
    began = time.monotonic()
    if _import_and_run(tree, tests, None, 900) != "survived":
        raise SystemExit("scripts/mutate: the tests do not pass without a mutant")
    allowed = SLACK + FACTOR * (time.monotonic() - began)
    for mutant in mutants:
        yield mutant, _import_and_run(tree, tests, mutant, allowed)


def _import_and_run(tree: Path, tests: list[str], mutant: Mutant | None, seconds: float) -> Outcome:
    pid = os.fork()
    if pid:
        return _wait(pid, seconds) or "survived"
    try:
        _quiet()
        _enter(tree)
        if mutant:
            sys.meta_path.insert(0, Changed(tree, mutant))
        os._exit(SURVIVED if pytest.main(_arguments(tests)) == 0 else KILLED)
    except BaseException:  # noqa: BLE001  # whatever it was, a test process that breaks is a killed mutant
        os._exit(KILLED)
