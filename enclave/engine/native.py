# SPDX-License-Identifier: Apache-2.0
"""Answers: what exactly do we ask of llama.cpp? The only file that holds its handles.

A model is loaded, warmed up and decoded by one thread for life: OpenMP keeps one pool of workers per calling thread,
and a second pool costs two thirds of the speed. Every call that computes checks that it is still that thread.
Tokenizing and rendering pieces only read the vocabulary and may be done by any thread.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from pathlib import Path
from typing import Any, TypeAlias

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp as lc

PINNED = "0.3.36"  # the release whose signatures this file was written against
_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}
_MAX_TEXT = 1 << 22
_EVERY_LAYER = -1
_NO_DEVICES = (ctypes.c_void_p * 1)()  # a list that ends where it begins
_LIBRARY: Any = vars(lc)["_lib"]

Logits: TypeAlias = npt.NDArray[np.float32]
Handle: TypeAlias = Any  # an opaque pointer or structure of llama.cpp, for which ctypes has no static type


class NativeError(Exception):
    """llama.cpp did not do what was asked. The message names the call, never the data."""


# A C function that looks at its first argument alone, and does nothing: llama.cpp logs some hundred lines whenever it
# lays out a graph, they may hold paths and prompts, and Python must not be called for each.
_SILENCE = ctypes.cast(ctypes.CDLL(None).abs, lc.llama_log_callback)
_started = threading.Lock()
_ready = False


def start() -> None:
    """Silence and initialise llama.cpp once per process. Raises NativeError for another release than the pinned one."""
    global _ready  # noqa: PLW0603  # the library itself is process-wide
    with _started:
        if _ready:
            return
        if llama_cpp.__version__ != PINNED:
            raise NativeError(f"llama-cpp-python {PINNED} is required, found {llama_cpp.__version__}")
        lc.llama_log_set(_SILENCE, ctypes.c_void_p(0))
        lc.llama_backend_init()
        _ready = True


def finds_gpu() -> bool:
    """Say whether this build of llama.cpp has a GPU to compute on."""
    start()
    return bool(lc.llama_supports_gpu_offload())


def library_digest() -> str:
    """Give the SHA-256 over the shared libraries in use, in the order of their names."""
    folder = Path(str(vars(_LIBRARY)["_name"])).parent
    total = hashlib.sha256()
    for path in sorted(folder.glob("lib*.so")):
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


class NativeModel:
    """Weights and vocabulary."""

    def __init__(self, path: str, *, on_gpu: bool = False, vocabulary_only: bool = False) -> None:
        """Load from `path`, which must be memory of ours: the digest was taken over these very bytes.

        With `on_gpu` every layer is computed by the GPUs, and without it nothing is, whatever GPU the host shows.
        """
        start()
        params = lc.llama_model_default_params()
        params.n_gpu_layers = _EVERY_LAYER if on_gpu else 0
        if not on_gpu:  # the default is all of them, which read long prompts at no layers, too
            params.devices = ctypes.addressof(_NO_DEVICES)
        params.load_mode = lc.LLAMA_LOAD_MODE_NONE
        params.check_tensors = True
        params.vocab_only = vocabulary_only
        handle = lc.llama_model_load_from_file(path.encode(), params)
        if not handle:
            raise NativeError("llama_model_load_from_file")
        self.handle = handle
        self.on_gpu = on_gpu
        self._vocab = lc.llama_model_get_vocab(handle)
        self.n_vocab = int(lc.llama_vocab_n_tokens(self._vocab))
        self.n_ctx_train = int(lc.llama_model_n_ctx_train(handle))
        self.n_embd = int(lc.llama_model_n_embd(handle))
        # 1 mean, 2 first token, 3 last token: an embedding model; 0 or absent: one that answers (llama.h).
        self.embeds = (self.meta(f"{self.meta('general.architecture')}.pooling_type") or "0") in {"1", "2", "3"}
        self.has_decoder = bool(lc.llama_model_has_decoder(handle))
        self.recurrent = bool(lc.llama_model_is_recurrent(handle) or lc.llama_model_is_hybrid(handle))
        self.bos = int(lc.llama_vocab_bos(self._vocab))
        self.eos = int(lc.llama_vocab_eos(self._vocab))
        self.add_bos = bool(lc.llama_vocab_get_add_bos(self._vocab))
        tokens = range(self.n_vocab)
        self.ends = frozenset(t for t in tokens if lc.llama_vocab_is_eog(self._vocab, t))
        self.controls = frozenset(t for t in tokens if lc.llama_vocab_is_control(self._vocab, t))
        self._pieces = [self.text_of(token, special=False) for token in tokens]
        self.plain = [b"" if t in self.ends or not p.isascii() else p for t, p in enumerate(self._pieces)]
        self.longest = max(len(self.text_of(token)) for token in tokens)  # bytes of one token, at most

    @property
    def vocab(self) -> Handle:
        """The vocabulary's handle, for samplers that need one."""
        return self._vocab

    def tokenize(self, text: bytes, *, special: bool, bos: bool = False) -> list[int]:
        """Give the ids of `text`; with `special`, texts of control tokens become those tokens."""
        if not text and not bos:
            return []
        if len(text) > _MAX_TEXT:
            raise NativeError("llama_tokenize: text too long")
        room = len(text) + 8
        buffer = (ctypes.c_int32 * room)()
        count = lc.llama_tokenize(self._vocab, text, len(text), buffer, room, bos, special)
        if count < 0:
            raise NativeError("llama_tokenize")
        ids = buffer[:count]
        ctypes.memset(buffer, 0, ctypes.sizeof(buffer))
        return ids

    def piece(self, token: int) -> bytes:
        """Give the bytes that `token` adds to the output; control tokens add none."""
        return self._pieces[token]

    def text_of(self, token: int, *, special: bool = True) -> bytes:
        """Give the bytes of `token`, of control tokens as well when `special`."""
        buffer = ctypes.create_string_buffer(512)
        size = lc.llama_token_to_piece(self._vocab, token, buffer, 512, 0, special)
        if size < 0:
            raise NativeError("llama_token_to_piece")
        return buffer.raw[:size]

    def meta(self, key: str) -> str | None:
        """Give a string of the GGUF metadata, or None."""
        size = lc.llama_model_meta_val_str(self.handle, key.encode(), None, 0)
        if size < 0:
            return None
        buffer = ctypes.create_string_buffer(size + 1)
        lc.llama_model_meta_val_str(self.handle, key.encode(), buffer, size + 1)
        return buffer.raw[:size].decode("utf-8", "strict")

    def free(self) -> None:
        """Give the weights back. Contexts must be freed before."""
        if self.handle:
            lc.llama_model_free(self.handle)
            self.handle = None


# A C function that reads a flag byte: strlen of a one-byte string is 0 or 1. Asked some 500 times per decode, so
# Python must not be called there.
_STRLEN = ctypes.cast(ctypes.CDLL(None).strlen, lc.ggml_abort_callback)
_logits = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(("llama_get_logits", _LIBRARY))
_logits_ith = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(("llama_get_logits_ith", _LIBRARY))
_embeddings_seq = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
    ("llama_get_embeddings_seq", _LIBRARY)
)


class NativeContext:
    """KV state of `slots` sequences, owned by the thread that made it."""

    def __init__(
        self,
        model: NativeModel,
        *,
        context: int,
        slots: int,
        batch: int,
        ubatch: int,
        threads: int,
        flash: int = -1,
        type_k: str = "f16",
        type_v: str = "f16",
        embeddings: bool = False,
        outputs: int = 1,
    ) -> None:
        """Make a context of `slots` sequences of `context` tokens each, and `outputs` logits rows of one per batch."""
        params = lc.llama_context_default_params()
        params.n_ctx = context * slots
        params.n_batch = batch
        params.n_ubatch = min(ubatch, batch)
        params.n_seq_max = slots
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = flash
        params.type_k, params.type_v = _TYPES[type_k], _TYPES[type_v]
        params.kv_unified = False
        params.embeddings = embeddings
        params.no_perf = True
        params.n_outputs_max_per_seq = outputs
        if embeddings:
            params.pooling_type = lc.LLAMA_POOLING_TYPE_UNSPECIFIED
        self._abort = ctypes.create_string_buffer(2)
        self._model = model
        self._thread = threading.get_ident()
        self.handle = lc.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise NativeError("llama_init_from_model")
        self.memory = lc.llama_get_memory(self.handle)
        self.context = int(lc.llama_n_ctx_seq(self.handle))
        self.batch = batch
        lc.llama_set_abort_callback(self.handle, _STRLEN, ctypes.addressof(self._abort))

    def _mine(self) -> None:
        if threading.get_ident() != self._thread:
            raise NativeError("called from another thread than the one that loaded the model")

    def decode(self, batch: Handle) -> int:
        """Run one batch. 0 done, 1 no room, 2 aborted; raises NativeError for what is fatal."""
        self._mine()
        code = int(lc.llama_decode(self.handle, batch))
        if code < 0:
            raise NativeError(f"llama_decode {code}")
        return code

    def wait(self) -> None:
        """Wait until the last batch is computed: a GPU goes on after `decode` has returned."""
        self._mine()
        lc.llama_synchronize(self.handle)

    def ask_abort(self, asked: bool) -> None:
        """Ask the running decode to stop soon, or take that back. Any thread may ask."""
        self._abort[0] = b"\x01" if asked else b"\x00"

    def logits(self, index: int) -> Logits:
        """Give the logits row of the batch's token `index`: llama.cpp's own memory, valid until the next decode."""
        address = _logits_ith(self.handle, index)
        if not address:
            raise NativeError("llama_get_logits_ith")
        memory: Handle = (ctypes.c_float * self._model.n_vocab).from_address(address)
        return np.frombuffer(memory, dtype=np.float32)

    def likeliest(self, rows: int) -> list[int]:
        """Give the first of the largest logits of each of the last batch's outputs, `rows` of them, in their order."""
        address = _logits(self.handle)
        if not address:
            raise NativeError("llama_get_logits")
        memory: Handle = (ctypes.c_float * (rows * self._model.n_vocab)).from_address(address)
        found: list[int] = np.frombuffer(memory, dtype=np.float32).reshape(rows, -1).argmax(axis=1).tolist()
        return found

    def embedding(self, slot: int) -> list[float]:
        """Give the pooled embedding of a sequence of the last batch."""
        address = _embeddings_seq(self.handle, slot)
        if not address:
            raise NativeError("llama_get_embeddings_seq")
        row = (ctypes.c_float * self._model.n_embd).from_address(address)
        return list(row)

    def forget(self, slot: int, start: int = 0) -> None:
        """Drop the positions of `slot` from `start` on. The bytes stay until they are overwritten or wiped."""
        self._mine()
        if not lc.llama_memory_seq_rm(self.memory, slot, start, -1):
            raise NativeError("llama_memory_seq_rm")

    def holds(self, slot: int, length: int) -> bool:
        """Whether `slot` holds every position below `length`: a sliding window may have lost the first ones."""
        first = int(lc.llama_memory_seq_pos_min(self.memory, slot))
        return first == 0 and int(lc.llama_memory_seq_pos_max(self.memory, slot)) + 1 >= length

    def overwrite(self, slot: int, blank: int) -> None:
        """Replace every KV byte of `slot` by those of `blank`, a slot that was never used: by zeros.

        llama.cpp copies whole streams before it computes the next batch; until then the bytes are still there.
        """
        self.forget(slot)
        if not self._model.recurrent:
            lc.llama_memory_seq_cp(self.memory, blank, slot, -1, -1)

    def share(self, source: int, slot: int, length: int) -> None:
        """Give `slot` the first `length` positions that `source` holds, in place of all that it held.

        Whole streams are copied here too, before the next batch; what lies beyond is cut off, and lies there.
        """
        self._mine()
        lc.llama_memory_seq_cp(self.memory, source, slot, -1, -1)
        self.forget(slot, length)

    def wipe(self) -> None:
        """Zero the KV bytes of every sequence."""
        self._mine()
        lc.llama_memory_clear(self.memory, True)

    def free(self) -> None:
        """Wipe and give the context back."""
        if self.handle:
            self.wipe()
            lc.llama_free(self.handle)
            self.handle = None
