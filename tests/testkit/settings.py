"""What the fake engine is, as long as no request and no rule says otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FakeEngineSettings:
    """The settings of the engine; each is a flag of its command line too."""

    models: Sequence[str] = ("fake-chat",)
    embedding_models: Sequence[str] = ("fake-embed",)
    ttft_ms: float = 0.0
    tokens_per_s: float = 0.0
    """0 is as fast as possible."""
    seed: int = 1
    answer_tokens: int = 24
    """How long an answer of words is where the request does not cut it."""
    n_ctx: int = 8192
    embedding_dimensions: int = 64
    usage: bool = True
    any_model: bool = False
    """Answer unknown model names with the first model, as llama.cpp does."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
