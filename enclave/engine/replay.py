# SPDX-License-Identifier: Apache-2.0
"""Answers: would this model have given this answer? Re-executes one run from its dossier, token by token.

The prompt is rendered and tokenized anew from the request, the settings are read anew, and then every token that was
claimed is put to the model, after all the claimed ones before it:

- **bit-exact**, when the receipt's model record says `exact` and the self-test here gives the record's digest: the same
  chain with the same seed must choose the very token. One that differs was not computed by that model.
- **teacher-forced** otherwise: a greedy token must be within TOLERANCE of the largest logit, a drawn one must be one
  that top-k, min-p and top-p leave, with the same tolerance. That is evidence and not proof: a token is not shown to be
  the one that was drawn, only one that could have been.

A recount is the same without the model's computing: only its vocabulary is loaded, the prompt's tokens are counted
anew, and the answer's are held to its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from attestation.boot import ModelRecord

from ..models.gguf_child import read_facts
from ..models.refusal import ModelRefused
from ..seams import EngineEvent
from .grammar import GrammarMaker
from .library import ModelConfig, Weights
from .native import NativeContext, NativeModel
from .plan import Plan, make_plan
from .prompt import PromptMaker
from .requests import read_request
from .rerun import TOLERANCE, rerun
from .selftest import EXACT, measure
from .stream import ChoiceStream

_COUNTED: Final = ("recounted", "the prompt's tokens, and the answer's against its text")
_FINISHES: Final = ("stop", "length", "tool_calls")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ClaimedChoice:
    """One choice as the dossier has it."""

    ids: tuple[int, ...]
    text: str
    finish: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ReplayQuestion:
    """What is to be re-executed. Has no repr: it holds a prompt and an answer."""

    record: ModelRecord
    endpoint: str
    body: bytes
    most: int  # the boot map's limit on completion tokens
    prompt: tuple[int, ...]
    params: dict[str, int | str]
    choices: tuple[ClaimedChoice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was re-executed: what was wanted and found are ids, counts and names, never text."""

    rule: str
    holds: bool
    want: str = ""
    got: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """What came out."""

    mode: str  # "bit-exact", "teacher-forced" or "recounted"
    why: str
    tokens: int  # re-executed or recounted completion tokens
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """True when everything that was re-executed holds."""
        return bool(self.checks) and all(check.holds for check in self.checks)


class Replayer:
    """A model made ready to re-execute runs of one record. Use as a context manager."""

    def __init__(self, record: ModelRecord, path: Path, *, threads: int, count: bool = False) -> None:
        """Load the file at `path`; to `count`, its vocabulary alone.

        Raises ModelRefused when it is not the record's model, TemplateRefused.
        """
        self._record = record
        self._count = count
        self._config = _config(record, path, threads)
        weights = Weights(path, record.weights)
        try:
            facts = read_facts(weights.fd)
            if (facts.tokenizer, facts.template) != (record.tokenizer, record.template):
                raise ModelRefused("model_digest", f"{path.name}: tokenizer or template is not the record's")
            self._selftest = b"" if count else measure(weights.fd, self._config).digest
            self._model = NativeModel(weights.path, vocabulary_only=count)
        finally:
            weights.close()
        self._grammars = GrammarMaker()
        self._context: NativeContext | None = None
        self._maker = PromptMaker(self._model, self._model.meta("tokenizer.chat_template"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._grammars.close()
        if self._context is not None:
            self._context.free()
        self._model.free()

    def replay(self, question: ReplayQuestion, *, progress: Callable[[int], None]) -> ReplayResult:
        """Re-execute a run of this record; `progress` is told of each token.

        Raises RequestRefused when the request is none, NativeError when the model does not compute.
        """
        mode, why = _COUNTED if self._count else _mode(question.record, self._selftest)
        plan, checks = _plan(question, self._model, self._maker, self._grammars)
        context = None if self._count else self._ready()
        for number, choice in enumerate(question.choices):
            exact = mode == "bit-exact"
            room = question.record.settings.n_ctx
            checks += _check_choice(
                self._model, context, plan, number, choice, exact=exact, room=room, progress=progress
            )
        total = sum(len(choice.ids) for choice in question.choices)
        return ReplayResult(mode=mode, why=why, tokens=total, checks=tuple(checks))

    def _ready(self) -> NativeContext:
        if self._context is None:
            config = self._config
            self._context = NativeContext(
                self._model,
                context=config.context,
                slots=1,
                batch=config.ubatch,
                ubatch=config.ubatch,
                threads=config.resolved_threads(),
                flash=config.flash,
                type_k=config.type_k,
                type_v=config.type_v,
            )
        return self._context


def _config(record: ModelRecord, path: Path, threads: int) -> ModelConfig:
    settings = record.settings
    if not (1 <= settings.n_ctx <= 1 << 20 and 1 <= settings.n_ubatch <= 1 << 14):
        raise ModelRefused("model_load", "the record's settings are out of bounds")
    return ModelConfig(
        name=record.name,
        path=path,
        sha256=record.weights,
        context=settings.n_ctx,
        slots=1,
        ubatch=settings.n_ubatch,
        threads=threads,
        flash=settings.flash_attention,
        type_k=settings.type_k,
        type_v=settings.type_v,
    )


def _mode(record: ModelRecord, selftest: bytes) -> tuple[str, str]:
    if record.determinism != EXACT:
        return "teacher-forced", f"the record's class is {record.determinism}"
    if selftest != record.selftest:
        return "teacher-forced", "this machine computes other bits than the enclave did"
    return "bit-exact", "the record's class is exact, and this machine computes the enclave's bits"


def _plan(
    question: ReplayQuestion, model: NativeModel, maker: PromptMaker, grammars: GrammarMaker
) -> tuple[Plan, list[Check]]:
    """Make the plan anew, with the seed that was drawn; compare prompt and settings with the claimed ones."""
    request = read_request(question.endpoint, question.body, model=question.record.name)
    context, most = question.record.settings.n_ctx, question.most
    plan = make_plan(request, maker, grammars, context=context, n_vocab=model.n_vocab, most=most)
    params = dict(plan.params)
    if b'"seed"' not in question.body:
        params["seed"] = question.params.get("seed", -1)
    names = sorted(key for key in params.keys() | question.params.keys() if params.get(key) != question.params.get(key))
    seed = params["seed"] if type(params["seed"]) is int and 0 <= params["seed"] < 1 << 32 else 0
    plan = replace(plan, sampling=replace(plan.sampling, seed=seed))
    at = _difference(plan.prompt, question.prompt)
    return plan, [
        Check(rule="replay.params", holds=not names, want="the request's settings", got=", ".join(names) or "the same"),
        Check(
            rule="replay.prompt",
            holds=at is None,
            want=f"{len(plan.prompt)} tokens",
            got=f"{len(question.prompt)} tokens" + ("" if at is None else f", the first other one at {at}"),
        ),
        Check(
            rule="replay.choices",
            holds=len(question.choices) == plan.choices,
            want=str(plan.choices),
            got=str(len(question.choices)),
        ),
    ]


def _difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    for at, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return at
    return None if len(a) == len(b) else min(len(a), len(b))


def _check_choice(
    model: NativeModel, context: NativeContext | None, plan: Plan, number: int, choice: ClaimedChoice, *, exact: bool,
    room: int, progress: Callable[[int], None],
) -> list[Check]:  # fmt: skip
    rule = f"replay.choice.{number}"
    fits = len(plan.prompt) + len(choice.ids) <= room
    if not fits or any(not 0 <= token < model.n_vocab for token in choice.ids):
        return [Check(rule=f"{rule}.tokens", holds=False, want="tokens of this model that fit", got="others")]
    stream, events = ChoiceStream(0, number, plan, model), list[EngineEvent]()
    over = False
    for at, token in enumerate(choice.ids):
        if over:
            return [Check(rule=f"{rule}.tokens", holds=False, want=f"an end after token {at - 1}", got="more tokens")]
        over = stream.push(token)
    if not over and choice.finish in _FINISHES:
        return [Check(rule=f"{rule}.finish", holds=False, want="an answer that goes on", got=choice.finish)]
    stream.take(events)
    text = b"".join(event.text for event in events).decode("utf-8")
    different, want = None, "tokens of this model"
    if context is not None:
        different = rerun(model, context, plan, choice.ids, choice=number, exact=exact, progress=progress)
        want = "the model's tokens" if exact else f"tokens within {TOLERANCE} of the model's"
    checks = [
        Check(
            rule=f"{rule}.tokens",
            holds=different is None,
            want=want,
            got=f"{len(choice.ids)} of {len(choice.ids)}" if different is None else str(different),
        ),
        Check(
            rule=f"{rule}.text",
            holds=text == choice.text if over else text.startswith(choice.text) or choice.text.startswith(text),
            want=f"the text of these tokens, {len(text)} characters",
            got=f"{len(choice.text)} characters",
        ),
    ]
    if over and stream.finish is not None:
        finish = stream.finish.value
        checks.append(Check(rule=f"{rule}.finish", holds=finish == choice.finish, want=finish, got=choice.finish))
    return checks
