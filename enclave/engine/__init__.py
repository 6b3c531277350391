# SPDX-License-Identifier: Apache-2.0
"""The inference engine: turns sealed requests into tokens, many at a time, with tenants kept apart.

Both engines obey `enclave.seams.Engine`; nothing else of this package is called from outside it:

    from enclave.engine.echo import EchoEngine
    EchoEngine(*, clock: Clock, name: str = "echo", context: int = 4096, queue_limit: int = 256,
               delay: float = 0.0, default_max_tokens: int = 1024)

    from enclave.engine.library import ModelConfig
    from enclave.engine.llama import LlamaEngine
    LlamaEngine.load(models: Sequence[ModelConfig], *, clock: Clock) -> LlamaEngine
    ModelConfig(*, name: str, path: Path, sha256: bytes, context: int = 4096, slots: int = 4, ubatch: int = 512,
                chunk: int = 0, threads: int = 0, queue_limit: int = 64, max_tokens: int = 1 << 20,
                type_k: str = "f16", type_v: str = "f16", flash: int = 1, on_gpu: bool = False,
                self_test: bool = True)

`context` is tokens per slot, `slots` the number of sequences decoded together, `threads` 0 means one fewer than the
CPUs (both of two). `LlamaEngine.load` raises `enclave.models.refusal.ModelRefused` (digest, header, self-test) before
anything of the model is believed, and returns when the model is warm. Submit and cancel may be called from any thread,
`events` from one. A job cancelled while it waits has no STARTED event; every other accepted job begins with one.
"""
