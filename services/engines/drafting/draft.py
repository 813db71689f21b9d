"""The first draft of a recipe, from what a model's own files say; what a person must look at is marked in it."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from services.engines.drafting.config import read_attention, text_part
from services.engines.drafting.facts import Draft, DraftError
from services.engines.drafting.gguf_facts import fill_from_gguf
from services.engines.drafting.safetensors import INDEX, Safetensors, SafetensorsError, read_safetensors
from services.engines.drafting.weights import count_tensors, estimate, read_quantization
from services.engines.files.hub_cache import CachedRepository, cache_folder
from services.engines.gguf import GgufError, read_gguf
from services.engines.planning.machines import machine
from services.engines.planning.sizing import size_up
from services.engines.recipes import Recipe

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LICENCE = re.compile(r"^license: *['\"]?([\w.+-]+)", re.MULTILINE)
_MAX_TEXT_BYTES = 32 * 1024 * 1024
# The engines that read each format, the first where none is asked for.
_ENGINES = {"gguf": ("llamacpp",), "safetensors": ("vllm", "sglang", "trtllm")}
_HEAD = """\
# A first draft, made by `sparkstack recipe new`. Look at each line that says "check" and remove its comment; add
# aliases, the engine's own arguments and its image. The file's name must be the id.
"""
_USUAL_CONTEXT = 32768
_USUAL_SEQUENCES = 4
_LARGEST_SHARE, _SMALLEST_SHARE = 0.85, 0.15


def draft_recipe(model: str, engine: str = "", *, variables: Mapping[str, str] = os.environ) -> str:
    """Return a recipe's text for a folder, a GGUF file, or the Hugging Face cache's copy of `owner/name`.

    It meets the schema; comments mark what a person has to fill in or look at. Nothing is fetched.

    Raises:
        DraftError: no such model is here, its files can't be read, or the engine does not read them.
    """
    try:
        draft = _gather(model, variables)
    except (GgufError, SafetensorsError) as error:
        raise DraftError(str(error)) from None
    return _write(draft, _pick_engine(draft, engine))


def _gather(model: str, variables: Mapping[str, str]) -> Draft:
    path = Path(model).expanduser()
    if path.is_file() or model.endswith(".gguf"):
        return _of_gguf(path.absolute(), {"kind": "file", "path": str(path.absolute())})
    if path.is_dir():
        return _of_folder(path.absolute(), path.absolute().name, {"kind": "file", "path": str(path.absolute())})
    if not _HUB_ID.fullmatch(model) or ".." in model:
        raise DraftError(f"there is no file or folder {model}, and it is no owner/name of a model hub; check the path")
    cache = cache_folder(variables)
    cached = CachedRepository(cache, model)
    commit = cached.commit_of("main")
    if commit is None or not cached.snapshot(commit).is_dir():
        raise DraftError(
            f"there is neither a folder {model} nor a copy of it in {cache}; `hf download {model}` gets all of it, "
            f"`hf download {model} config.json` enough for a first estimate"
        )
    return _of_folder(
        cached.snapshot(commit), model.rpartition("/")[2], {"kind": "hub", "repository": model, "revision": commit}
    )


def _of_folder(folder: Path, name: str, source: dict[str, Any]) -> Draft:
    files = sorted(folder.glob("*.gguf"))
    if len(files) == 1 and not (folder / "config.json").is_file():
        return _of_gguf(files[0], {**source, "files": [files[0].name]} if source["kind"] == "hub" else source)
    if not (folder / "config.json").is_file():
        inside = f"; name one of its files: {', '.join(file.name for file in files[:5])}" if files else ""
        raise DraftError(f"{folder} has no config.json{inside or ', so it is no model of transformers'}")
    config = _read_json(folder / "config.json")
    text = text_part(config)
    draft = Draft("", name, dict(source), "safetensors")
    draft.family = str(text.get("model_type") or config.get("model_type") or "unknown").removesuffix("_text")
    quantizer = _read_json(folder / "hf_quant_config.json").get("quantization")  # where ModelOpt writes it
    draft.quantization = read_quantization(
        {**config, **({"quantization_config": quantizer} if quantizer and "quantization_config" not in config else {})},
        text,
    )
    draft.id = _id(name, draft.quantization)
    draft.licence = _licence(folder)
    draft.capabilities = _capabilities(folder, config)
    draft.doubt("capabilities", "guessed from the config and the chat template")
    read_attention(draft, text)
    weights = _weights(folder)
    if weights is None:
        estimate(draft, text)
    else:
        count_tensors(draft, text, weights)
        if source["kind"] == "hub":
            draft.source["size_bytes"] = weights.size_bytes
    return draft


def _weights(folder: Path) -> Safetensors | None:
    """Return what the weights' headers say; None where only the config was downloaded."""
    if (folder / INDEX).is_file() or any(folder.glob("*.safetensors")):
        return read_safetensors(folder)
    return None


def _of_gguf(path: Path, source: dict[str, Any]) -> Draft:
    file = read_gguf(path)
    draft = Draft("", file.name, dict(source), "gguf")
    fill_from_gguf(draft, file)
    draft.id = _id(path.name.removesuffix(".gguf"), draft.quantization)
    draft.capabilities = _talks(file.chat_template) if file.chat_template else ["completion"]
    draft.doubt("capabilities", "guessed from the chat template")
    if source["kind"] == "hub":
        draft.source["size_bytes"] = file.size_bytes
    return draft


def _id(name: str, quantization: str) -> str:
    """Return a recipe's id: the model's name and its format, in lower case."""
    words = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "model"
    quantized = re.sub(r"[^a-z0-9_]+", "-", quantization.lower())
    words = re.sub(rf"[.-]{re.escape(quantized)}$", "", words)
    return words if quantized in words.split("-") else f"{words}-{quantized}"


def _capabilities(folder: Path, config: Mapping[str, Any]) -> list[str]:
    kinds = str(config.get("architectures"))
    if "SequenceClassification" in kinds:
        return ["rerank"]
    if "Whisper" in kinds or config.get("model_type") == "whisper":
        return ["transcription"]
    if (folder / "modules.json").is_file():  # sentence-transformers writes it
        return ["embeddings"]
    template = _read_text(folder / "chat_template.jinja") or str(
        _read_json(folder / "tokenizer_config.json").get("chat_template") or ""
    )
    found = _talks(template) if template else ["completion"]
    return [*found, "vision"] if "vision_config" in config else found


def _talks(template: str) -> list[str]:
    """Return what a chat template tells of a model."""
    tools = ["tools"] if "tools" in template else []
    reasoning = ["reasoning"] if "reasoning_content" in template or "<think>" in template else []
    return ["chat", "completion", *tools, *reasoning]


def _licence(folder: Path) -> str:
    """Return what the model card's header says."""
    head = _read_text(folder / "README.md").split("\n---", 1)[0]
    match = _LICENCE.search(head)
    return match[1] if match else ""


def _pick_engine(draft: Draft, asked: str) -> str:
    known = _ENGINES[draft.format]
    if asked and asked not in known:
        raise DraftError(f"{asked} does not read {draft.format} files; {' and '.join(known)} can")
    return asked or known[0]


def _write(draft: Draft, engine: str) -> str:
    """Return the YAML text, with its marks."""
    if not draft.licence:
        draft.licence = "unknown"
        draft.doubt("licence", "fill it in from the model's card")
    document = _document(draft, engine)
    if engine == "llamacpp":
        _choose_machines(draft, document)
    else:
        _choose_share(draft, document, engine)
    _checked(draft, document)
    text = yaml.safe_dump(document, sort_keys=False, width=1000)
    return _HEAD + _marked(text, draft.doubts)


def _checked(draft: Draft, document: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DraftError(f"what the files of {draft.name} say makes no recipe: {wrong}") from None


def _marked(text: str, doubts: Mapping[str, str]) -> str:
    """Return a recipe's text with a comment behind the first line of each doubtful field."""
    lines = text.splitlines()
    for name, why in doubts.items():
        for index, line in enumerate(lines):
            if line.lstrip().startswith(f"{name}:"):
                lines[index] = f"{line}  # check: {why}"
                break
    return "\n".join(lines) + "\n"


def _document(draft: Draft, engine: str) -> dict[str, Any]:
    context = min(draft.context_tokens, _USUAL_CONTEXT)
    arguments: dict[str, Any] = {
        "device": "any" if engine == "llamacpp" else "gpu",
        "context_tokens": max(256, context),
        "sequences": _USUAL_SEQUENCES,
        "kv_dtype": "f16" if engine == "llamacpp" else "fp8" if draft.quantization in ("NVFP4", "FP8") else "bf16",
    }
    document = {
        "id": draft.id,
        "name": _one_line(draft.name),
        "source": draft.source,
        "licence": _one_line(draft.licence),
        "family": _one_line(draft.family),
        "format": draft.format,
        "parameters": draft.parameters,
        "active_parameters": draft.active_parameters,
        "quantization": draft.quantization,
        "capabilities": draft.capabilities,
        "context_tokens": max(256, draft.context_tokens),
        "machines": ["any"],
        "memory": draft.memory,
        "engines": {engine: arguments},
    }
    return {name: value for name, value in document.items() if value is not None}


def _choose_machines(draft: Draft, document: dict[str, Any]) -> None:
    """Put in the machines that have room for a model that takes what it needs."""
    recipe = _checked(draft, document)
    arguments = recipe.engines["llamacpp"]
    fitting = [
        name
        for name in ("8 GiB", "spark-64", "spark-128")
        for place in [machine(name)]
        if size_up(recipe, "llamacpp", place).fits(
            arguments.context_tokens, arguments.sequences, place.total_bytes - place.reserve_bytes
        )
    ]
    document["machines"] = ["any"] if "8 GiB" in fitting else fitting or ["spark-128"]
    if not fitting:
        draft.doubt("machines", "no Spark holds it with these settings")


def _choose_share(draft: Draft, document: dict[str, Any], engine: str) -> None:
    """Put in the share of the memory that holds what is asked, and the machines that have it."""
    arguments = document["engines"][engine]
    arguments["memory_utilization"] = _LARGEST_SHARE
    draft.doubt("memory_utilization", "the least that holds these requests at a time")
    for name in ("spark-128", "dual-spark"):
        recipe = _checked(draft, document)
        sizing = size_up(recipe, recipe.default_engine, machine(name))
        least = sizing.least_utilization(arguments["context_tokens"], arguments["sequences"])
        document["machines"] = [name]
        if least <= _LARGEST_SHARE:
            arguments["memory_utilization"] = max(_SMALLEST_SHARE, least)
            return
    draft.doubt("machines", "not even two Sparks hold it with these settings")


def _one_line(text: str) -> str:
    return " ".join(text.split())[:120]


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise DraftError(f"{path} has more than {_MAX_TEXT_BYTES:,} bytes, too many for what it should be")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; {} where there is no file."""
    text = _read_text(path)
    if not text:
        return {}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise DraftError(f"{path} is not JSON; download it again") from None
    if not isinstance(document, dict):
        raise DraftError(f"{path} holds no JSON object; download it again")
    return document
