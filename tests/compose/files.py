"""The compose files as compose would read them with an empty environment, without a Docker."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "compose"
PROJECT = "sparkstack"
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Z0-9_]+)(?:(?P<sign>:?[-?])(?P<rest>[^{}]*))?\}")
_DUPLICATES = "tag:yaml.org,2002:merge"

ENGINE_PROFILES = ("cpu", "spark", "vllm", "sglang", "trtllm", "llamacpp", "ollama")
OTHER_PROFILES = ("ui", "observability", "dcgm", "mlflow", "qdrant", "postgres", "valkey")
OVERLAYS = tuple(path.stem for path in sorted(FOLDER.glob("*.yaml")) if path.stem not in ("compose", "engines"))


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice: the second would win, and nobody would be told."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != _DUPLICATES]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice and not getattr(node, "merged", False):
            raise yaml.YAMLError(f"{node.start_mark}: {', '.join(sorted(twice))} stands twice")
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        node.merged = True  # type: ignore[attr-defined]


def interpolated(text: str, variables: dict[str, str] | None = None) -> str:
    """Return a text with its variables filled in, as with an empty environment; the innermost first."""
    given = {"COMPOSE_PROJECT_NAME": PROJECT, **(variables or {})}

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "\0"
        known = given.get(match["name"])
        if known is not None:
            return known
        assert not (match["sign"] or "").endswith("?"), f"{match[0]}: it has no default"
        return match["rest"] or ""

    while (changed := _VARIABLE.sub(value, text)) != text:
        text = changed
    return text.replace("\0", "$")


@cache
def read(name: str) -> dict[str, Any]:
    """Return one file, merged with its anchors; its variables as they stand. Nobody may change what this returns."""
    document = yaml.load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), _Loader)
    assert isinstance(document, dict)
    return document


def filled(value: Any) -> Any:
    """Return a part of a file with its variables filled in."""
    if isinstance(value, str):
        return interpolated(value)
    if isinstance(value, list):
        return [filled(each) for each in value]
    if isinstance(value, dict):
        return {key: filled(each) for key, each in value.items()}
    return value


@cache
def core() -> dict[str, dict[str, Any]]:
    """Return the services of compose.yaml."""
    services = filled(read("compose")["services"])
    assert isinstance(services, dict)
    return services


@cache
def engines() -> dict[str, dict[str, Any]]:
    """Return the engines' services."""
    services = filled(read("engines")["services"])
    assert isinstance(services, dict)
    return services


def everything() -> dict[str, dict[str, Any]]:
    """Return all services."""
    return {**core(), **engines()}


def mounts(service: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return what a service mounts: source, target, whether it can write."""
    found = []
    for volume in service.get("volumes", ()):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            found.append((source, target, "ro" not in mode))
        else:
            found.append((volume["source"], volume["target"], not volume.get("read_only", False)))
    return found
