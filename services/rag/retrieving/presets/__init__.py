"""Presets: which steps a retrieval takes, with which options. YAML files, the shipped ones beside this module."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pydantic
import yaml

from services.kit.errors import InvalidRequest
from services.rag.errors import PresetNotFound
from services.rag.retrieving.steps import GENERATING, SEARCHES, STEPS, Step

SHIPPED = Path(__file__).parent
_NEEDS_VECTORS = frozenset({"dense", "hybrid", "mmr"})
_BEFORE_EMBED = frozenset({"hyde", "decompose"})


class PresetError(Exception):
    """A preset can't be read; the message names file, step and rule."""


@dataclass(frozen=True)
class Preset:
    """A named list of steps."""

    name: str
    description: str
    steps: tuple[Step, ...]

    @cached_property
    def digest(self) -> str:
        """Short for what the preset does: another for other options."""
        text = "|".join(each.model_dump_json() for each in self.steps)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def asks_a_model(self) -> bool:
        """Whether a step has a model write something."""
        return any(each.step in GENERATING or getattr(each, "by", "") == "model" for each in self.steps)

    def document(self) -> dict[str, Any]:
        """Return the preset as a client reads it."""
        steps = [{each.step: each.model_dump(exclude={"step"})} for each in self.steps]
        return {"name": self.name, "description": self.description, "steps": steps}


def parse_preset(name: str, text: str, source: str) -> Preset:
    """Return the preset that a YAML document describes.

    Args:
        source: of the text, as errors name it.

    Raises:
        PresetError
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PresetError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or not isinstance(document.get("steps"), list) or not document["steps"]:
        raise PresetError(f"{source} needs `steps:`, a list with at least one of {_names()}")
    unknown = sorted(map(str, set(document) - {"description", "steps"}))
    if unknown:
        raise PresetError(f"{source}: {', '.join(unknown)} is not known; there are description and steps")
    steps = tuple(_step(item, f"{source}, step {at}") for at, item in enumerate(document["steps"], start=1))
    _check_order([each.step for each in steps], source)
    return Preset(name, str(document.get("description", "")), steps)


def _step(item: Any, where: str) -> Step:
    name: Any
    options: Any = {}
    if isinstance(item, str):
        name = item
    elif isinstance(item, dict) and len(item) == 1:
        name, options = next(iter(item.items()))
        options = {} if options is None else options
    else:
        raise PresetError(f"{where}: write `name` or `name: {{option: value}}`, not {item!r}")
    if name not in STEPS:
        raise PresetError(f"{where}: there is no step {name!r}; there are {_names()}")
    if not isinstance(options, Mapping):
        raise PresetError(f"{where} ({name}): its options must be a mapping, not {options!r}")
    try:
        return STEPS[name].model_validate({**options, "step": name})
    except pydantic.ValidationError as error:
        raise PresetError(f"{where} ({name}): {_explain(error, STEPS[name])}") from None


def _explain(error: pydantic.ValidationError, step: type[Step]) -> str:
    first = error.errors()[0]
    option = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        known = [name for name in step.model_fields if name != "step"]
        return f"{option} is not an option; there are {', '.join(known) or 'none'}"
    return f"{option}={first['input']!r}: {first['msg']}"


def _check_order(names: Sequence[str], source: str) -> None:
    searches = [at for at, name in enumerate(names) if name in SEARCHES]
    if len(searches) != 1:
        raise PresetError(f"{source} needs one search, dense, sparse or hybrid, and has {len(searches)}")
    embeds = [at for at, name in enumerate(names) if name == "embed"]
    needing = [name for name in names if name in _NEEDS_VECTORS]
    if needing and (not embeds or embeds[0] > searches[0]):
        raise PresetError(f"{source}: {needing[0]} needs `embed` before the search")
    before_search = {"embed", "expand"} | _BEFORE_EMBED
    for at, name in enumerate(names):
        if name in _BEFORE_EMBED | {"expand"} and embeds and at > embeds[0]:
            raise PresetError(f"{source}: {name} comes before `embed`, which makes the vectors of what it adds")
        if (name in before_search) != (at < searches[0]) and name not in SEARCHES:
            place = "before" if name in before_search else "after"
            raise PresetError(f"{source}: {name} comes {place} the search")


def _names() -> str:
    return ", ".join(STEPS)


class Presets:
    """The shipped presets, and a user's own beside them. Read when they are asked for: an edit holds at once.

    Args:
        folder: of the user's own, `NAME.yaml` each; one with a shipped name takes its place.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._read: dict[Path, tuple[int, Preset]] = {}

    def names(self) -> list[str]:
        """Return the names of all presets."""
        return sorted(self._files())

    def get(self, name: str) -> Preset:
        """Return the preset of this name.

        Raises:
            PresetNotFound: naming those that there are.
            InvalidRequest: its file can't be read; the message says why.
        """
        path = self._files().get(name)
        if path is None:
            raise PresetNotFound(f"there is no preset {name!r}; there are {', '.join(self.names())}", param="preset")
        try:
            changed = path.stat().st_mtime_ns
            kept = self._read.get(path)
            if kept is None or kept[0] != changed:
                kept = self._read[path] = (changed, parse_preset(name, path.read_text("utf-8"), path.name))
        except (PresetError, OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the preset {name!r} can't be used: {error}", param="preset") from None
        return kept[1]

    def _files(self) -> dict[str, Path]:
        folders = [SHIPPED, *([self._folder] if self._folder is not None and self._folder.is_dir() else [])]
        return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
