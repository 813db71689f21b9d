"""From a recipe, or a user's file, to what one llama.cpp process serves and what the catalogue says of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.engines.gguf import GgufError, GgufFile, read_gguf
from services.engines.packaged import locate
from services.engines.recipes import EngineArguments, PackageSource, find_recipe, load_recipes
from services.engines.threads import Threads, default_threads

DEFAULT_MODEL = "smollm2"
# Clients have these names built in; whatever model is the default answers to them.
STAND_IN_NAMES = ("gpt-4o-mini", "gpt-4o", "gpt-3.5-turbo")
_QUANTIZATION_SUFFIX = re.compile(r"\.(?=(?:i?q\d|t?q\d|f16|f32|bf16|mxfp4|nvfp4)[a-z0-9_]*$)")


class ServingError(Exception):
    """A variable or a file does not let the model be served; the message says what to do."""


@dataclass(frozen=True)
class Served:
    """One model on one llama.cpp process.

    Args:
        sha256: what the file must have; None for a file of the user's.
        context_tokens: of one slot, the most that prompt and answer of a request can have.
        facts: the model's entry in the gateway's catalogue.
    """

    id: str
    path: Path
    sha256: str | None
    slots: int
    context_tokens: int
    threads: Threads
    temperature: float | None
    top_p: float | None
    facts: dict[str, Any]

    def arguments(self, port: int) -> list[str]:
        """Return the arguments of `sparkstack engine llamacpp` that serve it."""
        options = {
            "--model": self.path,
            "--id": self.id,
            "--port": port,
            "--slots": self.slots,
            "--context": self.context_tokens,
            "--threads": self.threads.decode,
            "--threads-batch": self.threads.batch,
            "--temperature": self.temperature,
            "--top-p": self.top_p,
        }
        return [str(word) for option in options.items() if option[1] is not None for word in option]


def resolve(gguf: str, variables: Mapping[str, str]) -> Served:
    """Return what is to be served: the file `gguf`, or the default recipe where that is empty.

    Args:
        variables: `LLAMACPP_SLOTS`, `LLAMACPP_CONTEXT` (tokens a slot), `LLAMACPP_THREADS` and
            `LLAMACPP_THREADS_BATCH` win over the recipe.

    Raises:
        GgufError: the file can't be served.
        RecipeError: the recipe, or its file, is wrong.
        ServingError: a variable is wrong.
    """
    if gguf:
        return _of_file(Path(gguf).expanduser().absolute(), variables)
    recipe = find_recipe(DEFAULT_MODEL, load_recipes())
    assert isinstance(recipe.source, PackageSource)
    path = locate(recipe.source)
    file = read_gguf(path)
    facts = {
        "aliases": list(recipe.aliases),
        "capabilities": list(recipe.capabilities),
        "parameters": recipe.parameters,
        "quantization": recipe.quantization,
        "family": recipe.family,
        "licence": recipe.licence,
        "digest": f"sha256:{recipe.source.sha256}",
    }
    return _served(recipe.id, file, recipe.source.sha256, recipe.engines["llamacpp"], facts, variables)


def _of_file(path: Path, variables: Mapping[str, str]) -> Served:
    file = read_gguf(path)
    check_can_chat(file)
    # Without a template of its own llama.cpp uses ChatML; one that knows tools says so.
    capabilities = ["chat", "completion", *(["tools"] if "tools" in file.chat_template else [])]
    facts = {
        "aliases": list(STAND_IN_NAMES),
        "capabilities": capabilities,
        "parameters": file.parameters,
        "quantization": file.quantization,
        "family": file.architecture,
        "licence": file.licence,
        "digest": None,
    }
    arguments = EngineArguments(context_tokens=max(256, min(4096, file.context_length or 4096)))
    return _served(id_of(path), file, None, arguments, facts, variables)


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


def _served(
    model_id: str,
    file: GgufFile,
    sha256: str | None,
    arguments: EngineArguments,
    facts: dict[str, Any],
    variables: Mapping[str, str],
) -> Served:
    threads = default_threads()
    context = _number(variables, "LLAMACPP_CONTEXT", arguments.context_tokens, 256)
    if file.context_length and context > file.context_length:
        raise ServingError(
            f"LLAMACPP_CONTEXT={context}: {model_id} was trained for {file.context_length}; set that or less"
        )
    return Served(
        id=model_id,
        path=file.path,
        sha256=sha256,
        slots=_number(variables, "LLAMACPP_SLOTS", arguments.sequences, 1),
        context_tokens=context,
        threads=Threads(
            _number(variables, "LLAMACPP_THREADS", threads.decode, 1),
            _number(variables, "LLAMACPP_THREADS_BATCH", threads.batch, 1),
        ),
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        facts={
            "id": model_id,
            **facts,
            "context_tokens": context,
            "size_bytes": file.size_bytes,
            "format": "gguf",
        },
    )


def _number(variables: Mapping[str, str], name: str, default: int, lowest: int) -> int:
    text = variables.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < lowest:
        raise ServingError(f"{name}={text}: it must be a whole number of {lowest} or more")
    return int(text)
