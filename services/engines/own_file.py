"""A GGUF file of the user's own, as a recipe."""

import re
from pathlib import Path

from services.engines.gguf import GgufError, GgufFile, read_gguf
from services.engines.recipes import EngineArguments, FileSource, MemoryFacts, Recipe

STAND_IN_NAMES = ("gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo")
"""Clients have these names built in; whatever model is the default answers to them."""

_QUANTIZATION_SUFFIX = re.compile(r"\.(?=(?:i?q\d|t?q\d|f16|f32|bf16|mxfp4|nvfp4)[a-z0-9_]*$)")
_CONTEXT_TOKENS = 4096
_SHORTEST_CONTEXT_TOKENS = 256


def recipe_of_file(path: Path) -> Recipe:
    """Return a recipe for a GGUF file, by its header.

    Raises:
        GgufError: the file can't be served.
    """
    file = read_gguf(path.expanduser().absolute())
    check_can_chat(file)
    trained = max(_SHORTEST_CONTEXT_TOKENS, file.context_length or _CONTEXT_TOKENS)
    # Without a template of its own llama.cpp uses ChatML; one that knows tools says so.
    tools = ("tools",) if "tools" in file.chat_template else ()
    return Recipe(
        id=id_of(file.path),
        name=file.name,
        source=FileSource(kind="file", path=file.path),
        licence=file.licence or "not stated in the file",
        aliases=STAND_IN_NAMES,
        family=file.architecture or "unknown",
        format="gguf",
        parameters=max(1, file.parameters),
        quantization=file.quantization or "unknown",
        capabilities=("chat", "completion", *tools),
        context_tokens=trained,
        memory=memory_facts(file),
        engines={"llamacpp": EngineArguments(device="any", context_tokens=min(_CONTEXT_TOKENS, trained))},
    )


def memory_facts(file: GgufFile) -> MemoryFacts:
    """Return what the memory plan needs to know, by the header; what it doesn't say counts as the most there can be."""

    def number(name: str, default: int) -> int:
        value = file.metadata.get(f"{file.architecture}.{name}")
        return value if isinstance(value, int) and value > 0 else default

    layers = number("block_count", 0)
    heads = number("attention.head_count", 1)
    head_dim = number("attention.key_length", number("embedding_length", 0) // heads)
    return MemoryFacts(
        weight_bytes=file.size_bytes,
        layers=layers,
        attention_layers=layers,
        kv_heads=number("attention.head_count_kv", heads),
        head_dim=head_dim,
        source="the GGUF file's header and size",
    )


def check_can_chat(file: GgufFile) -> None:
    """Check that the file holds a model that generates text.

    Raises:
        GgufError: it holds a vocabulary, an adapter, an image encoder or an embedding model.
    """
    kind = str(file.metadata.get("general.type", "model"))
    if kind not in ("model", "") or file.architecture in ("clip", "mmproj"):
        what = "a projector for images or sound" if file.architecture == "clip" else f"of the type {kind!r}"
        raise GgufError(f"{file.path} is {what}, not a language model; name the model's own file")
    if file.tensor_count == 0:
        raise GgufError(f"{file.path} holds a vocabulary alone, no weights; name the model's own file")
    if f"{file.architecture}.pooling_type" in file.metadata:
        raise GgufError(
            f"{file.path} is an embedding model ({file.architecture}), which can't chat; name a chat model's"
        )


def id_of(path: Path) -> str:
    """Return a model id for a file: its name in lower case, `Qwen3-8B.Q4_K_M.gguf` → `qwen3-8b-q4_k_m`."""
    stem = path.name.lower().removesuffix(".gguf")
    words = re.sub(r"[^a-z0-9._-]+", "-", _QUANTIZATION_SUFFIX.sub("-", stem))
    return words.strip("-._") or "model"
