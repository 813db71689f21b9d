"""A recipe is a model in one format: where it comes from, what it can do, how each engine serves it.

One file a recipe: `models/<id>.yaml`. Every verb takes a recipe's id or one of its aliases; `id@engine` picks one of
its engines.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

MODELS_FOLDER = Path(__file__).with_name("models")
# libyaml's reads ten times as fast as Python's own; not every build of PyYAML has it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Capability = Literal[
    "chat", "completion", "tools", "reasoning", "vision", "embeddings", "rerank", "transcription", "moderation"
]
EngineName = Literal["llamacpp", "vllm", "sglang", "trtllm", "ollama"]
MachineName = Literal["any", "spark-128", "spark-64", "dual-spark"]
KVDtype = Literal["f32", "f16", "bf16", "fp8", "q8_0", "q4_0"]

RESERVING_ENGINES: frozenset[str] = frozenset({"vllm", "sglang", "trtllm"})
"""Engines that take a share of the memory at their start and hold it for life."""


class RecipeError(Exception):
    """A recipe is wrong, unknown, or its file isn't here; the message says which and what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PackageSource(_Part):
    """The Python package that carries the model's file, and what must be in it."""

    kind: Literal["package"]
    package: str
    revision: str = Field(description="the package's version")
    file: str = Field(description="path within the package's installation")
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class HubSource(_Part):
    """A repository of a model hub."""

    kind: Literal["hub"]
    repository: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name")
    revision: str = Field("main", description="commit, tag or branch; `sparkstack pull` writes down the commit it got")
    files: tuple[str, ...] = Field((), description="patterns of the files that are needed; empty for all")
    size_bytes: int | None = Field(None, gt=0, description="what is downloaded")
    gated: bool = Field(False, description="its owner wants a licence accepted: HF_TOKEN must be set")


class OllamaSource(_Part):
    """A model of Ollama's library, which Ollama downloads and keeps itself."""

    kind: Literal["ollama"]
    model: str = Field(description="name:tag")
    size_bytes: int | None = Field(None, gt=0)


class ConvertedSource(_Part):
    """Made on this machine from another recipe's file, by `sparkstack pull`."""

    kind: Literal["converted"]
    recipe: str = Field(description="id of the recipe that has the file")


class FileSource(_Part):
    """A file or folder of the user's own."""

    kind: Literal["file"]
    path: Path


Source = Annotated[PackageSource | HubSource | OllamaSource | ConvertedSource | FileSource, Field(discriminator="kind")]


class MemoryFacts(_Part):
    """What the memory plan is made of. Bytes are bytes, not GiB.

    A token's keys and values take `2 × attention_layers × kv_heads × head_dim × bytes of the KV dtype`.
    """

    weight_bytes: int = Field(gt=0, description="tensors as they lie in memory; the files' size where that is known")
    active_weight_bytes: int | None = Field(
        None, gt=0, description="read for each generated token: less than all where experts are chosen"
    )
    layers: int = Field(ge=0)
    attention_layers: int = Field(ge=0, description="with full attention: their KV cache grows with the context")
    kv_heads: int = Field(ge=0)
    head_dim: int = Field(ge=0)
    window_layers: int = Field(0, ge=0, description="with a sliding window: their KV cache stops growing")
    window_tokens: int = Field(0, ge=0)
    latent_dim: int = Field(0, ge=0, description="MLA: values a token and layer instead of 2 × heads × dimension")
    state_bytes_per_sequence: int = Field(0, ge=0, description="of state-space and linear-attention layers")
    source: str = Field(description="where these facts are from: a config.json, a file's header, a publication")

    @model_validator(mode="after")
    def _layers_add_up(self) -> "MemoryFacts":
        if self.attention_layers + self.window_layers > self.layers:
            raise ValueError(
                f"attention_layers {self.attention_layers} and window_layers {self.window_layers} are more than "
                f"layers {self.layers}"
            )
        if self.active_weight_bytes and self.active_weight_bytes > self.weight_bytes:
            raise ValueError(f"active_weight_bytes {self.active_weight_bytes} is more than weight_bytes")
        return self


Argument = str | int | float | bool


class EngineArguments(_Part):
    """How one engine serves the model."""

    device: Literal["any", "cpu", "gpu"] = "any"
    image: str | None = Field(None, description="pinned reference of the container image")
    context_tokens: int = Field(ge=256, description="prompt and answer of one request")
    sequences: int = Field(4, ge=1, le=1024, description="requests at a time")
    kv_dtype: KVDtype = "f16"
    kv_bytes_per_token: int | None = Field(
        None, gt=0, description="as measured in this engine, where it allocates otherwise than the formula"
    )
    kv_cache_bytes: int | None = Field(None, gt=0, description="a fixed pool for all sequences")
    memory_utilization: float | None = Field(
        None, gt=0, lt=1, description="share of all memory that a reserving engine takes and holds"
    )
    overhead_bytes: int | None = Field(None, ge=0, description="beside weights and KV cache; None: the engine's usual")
    transient_bytes: int = Field(0, ge=0, description="more than the settled use, for seconds while it loads")
    load_s: float = Field(30, gt=0, description="from start to ready, until a load here has been measured")
    temperature: float | None = Field(None, ge=0, description="for requests that name none")
    top_p: float | None = Field(None, gt=0, le=1, description="for requests that name none")
    arguments: dict[str, Argument | list[Argument] | dict[str, Any]] = Field(
        default_factory=dict, description="the engine's own options, without the leading dashes"
    )
    environment: dict[str, str] = Field(default_factory=dict)
    lacks: dict[str, str] = Field(
        default_factory=dict, description="checks of tests/conformance that this pair can't pass → why"
    )


class Anchor(_Part):
    """A measured speed, batch 1 unless the note says otherwise."""

    machine: MachineName
    engine: EngineName
    version: str = ""
    prefill_tok_per_s: float | None = Field(None, gt=0)
    decode_tok_per_s: float | None = Field(None, gt=0)
    speculation: str = Field("", description="what drafted the tokens: with it, a rate may be above the decode ceiling")
    note: str = ""


class Recipe(_Part):
    """A model in one format."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    name: str
    source: Source
    licence: str
    aliases: tuple[str, ...] = ()
    family: str
    format: Literal["gguf", "safetensors", "ollama"]
    parameters: int = Field(gt=0)
    active_parameters: int | None = Field(None, gt=0, description="used for each token, where experts are chosen")
    quantization: str
    capabilities: tuple[Capability, ...] = Field(min_length=1)
    context_tokens: int = Field(gt=0, description="what the model was trained for")
    machines: tuple[MachineName, ...] = Field(("any",), min_length=1, description="what it is meant for")
    memory: MemoryFacts
    engines: dict[EngineName, EngineArguments] = Field(min_length=1, description="the first is the default")
    anchors: tuple[Anchor, ...] = ()

    @model_validator(mode="after")
    def _engines_fit_the_model(self) -> "Recipe":
        for name, engine in self.engines.items():
            if engine.context_tokens > self.context_tokens:
                raise ValueError(
                    f"engines.{name}.context_tokens {engine.context_tokens} is more than the model was trained for: "
                    f"{self.context_tokens}"
                )
            if name in RESERVING_ENGINES and engine.device != "cpu" and engine.memory_utilization is None:
                raise ValueError(f"engines.{name}.memory_utilization is missing: {name} holds that share for life")
        return self

    @property
    def default_engine(self) -> EngineName:
        """The engine that serves the model where none is picked."""
        return next(iter(self.engines))


def load_recipe(path: Path) -> Recipe:
    """Return the recipe in a file.

    Raises:
        RecipeError: with one line for each wrong field.
    """
    try:
        document: Any = yaml.load(path.read_text(encoding="utf-8"), _LOADER)  # noqa: S506 - libyaml's safe loader, or Python's
        recipe = Recipe.model_validate(document)
    except OSError as error:
        raise RecipeError(f"{path} can't be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']}" for item in error.errors()]
        raise RecipeError("\n".join([f"{path} is not a recipe:", *lines])) from None
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8, a 30th of February, brackets without end
        raise RecipeError(f"{path} is not YAML: {error}") from None
    if recipe.id != path.stem:
        raise RecipeError(f"{path}: its id is {recipe.id!r}; name the file {recipe.id}.yaml, or change the id")
    return recipe


def load_recipes(*folders: Path, on_broken: Callable[[RecipeError], None] | None = None) -> list[Recipe]:
    """Return the recipes of folders, by file name; the stack's own where none is named.

    A recipe of a later folder replaces one with the same id of an earlier one, so that a user's copy wins.

    Args:
        on_broken: is told of each that can't be used, which is then left out.

    Raises:
        RecipeError: without `on_broken`, when one is wrong, or two claim the same id or alias.
    """
    found: dict[str, Recipe] = {}
    for folder in folders or (MODELS_FOLDER,):
        for path in sorted(folder.glob("*.yaml")):
            try:
                found[path.stem] = load_recipe(path)
            except RecipeError as error:
                _raise_or_tell(error, on_broken)
    owners: dict[str, str] = {}
    for recipe in list(found.values()):
        for name in (recipe.id, *recipe.aliases):
            owner = owners.setdefault(name, recipe.id)
            if owner != recipe.id:
                found.pop(recipe.id, None)
                clash = RecipeError(f"both {owner} and {recipe.id} claim the name {name!r}; change one of them")
                _raise_or_tell(clash, on_broken)
    return list(found.values())


def _raise_or_tell(error: RecipeError, on_broken: Callable[[RecipeError], None] | None) -> None:
    if on_broken is None:
        raise error
    on_broken(error)


def find_recipe(name: str, recipes: Iterable[Recipe]) -> Recipe:
    """Return the recipe with this id or alias; what follows an `@` is left out.

    Raises:
        RecipeError: naming what there is.
    """
    known = list(recipes)
    wanted = name.partition("@")[0]
    for recipe in known:
        if wanted == recipe.id or wanted in recipe.aliases:
            return recipe
    raise RecipeError(f"there is no recipe {wanted!r}; there are: {', '.join(recipe.id for recipe in known)}")


def pick_engine(name: str, recipe: Recipe) -> EngineName:
    """Return the engine that `id@engine` names, the recipe's first where it names none.

    Raises:
        RecipeError: naming the recipe's engines.
    """
    wanted = name.partition("@")[2]
    if not wanted:
        return recipe.default_engine
    for engine in recipe.engines:
        if engine == wanted:
            return engine
    raise RecipeError(f"{recipe.id} has no recipe for the engine {wanted!r}; it has: {', '.join(recipe.engines)}")
