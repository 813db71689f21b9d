"""What may be asked of Docker: to list, inspect, watch, start and stop engines of one project. Pure.

A request is not passed on: from what it asks for, another one is written, with nothing in it that the caller chose but
a container's id and two numbers.
Source: https://docs.docker.com/reference/api/engine/
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

PROJECT_LABEL = "sparkstack.project"
INSTANCE_LABEL = "sparkstack.instance"

_PATH = re.compile(r"/containers/(?P<id>[0-9a-f]{12,64})/(?P<verb>json|top|logs|start|stop)")
_LIST = "/containers/json"
_METHODS = {"json": "GET", "top": "GET", "logs": "GET", "start": "POST", "stop": "POST"}
_LONGEST_STOP_S = 600
_MOST_LINES = 10_000
# Mounting volumes, and the GPU's runtime; a driver that gives 100 GB back.
_SLOW_S = 60.0
_QUICK_S = 10.0


class Refused(Exception):
    """A request that nobody may make; the message says why."""


@dataclass(frozen=True)
class Question:
    """A request as it goes to Docker.

    Args:
        container: whose labels must be looked at first; empty for the list, which is filtered.
    """

    method: str
    path: str
    container: str = ""
    timeout_s: float = _QUICK_S


def question(method: str, target: str, body_bytes: int, project: str) -> Question:
    """Return what is asked of Docker for a request.

    Raises:
        Refused
    """
    url = urlsplit(target)
    if body_bytes:
        raise Refused("a request with a body: nothing that may be asked for has one")
    if url.path == _LIST and method == "GET":
        return Question("GET", list_path(project))
    match = _PATH.fullmatch(url.path)
    if match is None:
        raise Refused("only containers can be listed, inspected, started and stopped")
    verb = match["verb"]
    if method != _METHODS[verb]:
        raise Refused(f"{verb} is asked for by {_METHODS[verb]}")
    query = parse_qs(url.query)
    path, timeout_s = f"/containers/{match['id']}/{verb}", _QUICK_S
    if verb == "logs":
        path += f"?stdout=1&stderr=1&tail={_number(query, 'tail', 100, _MOST_LINES)}"
    elif verb == "stop":
        wait_s = _number(query, "t", 10, _LONGEST_STOP_S)
        path, timeout_s = f"{path}?t={wait_s}", wait_s + _SLOW_S
    elif verb == "start":
        timeout_s = _SLOW_S
    return Question(method, path, match["id"], timeout_s)


def list_path(project: str) -> str:
    """Return the path of the list of a project's engines, whatever filter was asked for."""
    labels = json.dumps({"label": [f"{PROJECT_LABEL}={project}", INSTANCE_LABEL]})
    return f"{_LIST}?all=1&filters={quote(labels)}"


def is_ours(details: Any, project: str) -> bool:
    """Say whether a container, as Docker's inspect shows it, is an engine of this project."""
    config = details.get("Config") if isinstance(details, Mapping) else None
    labels = config.get("Labels") if isinstance(config, Mapping) else None
    return isinstance(labels, Mapping) and labels.get(PROJECT_LABEL) == project and INSTANCE_LABEL in labels


def _number(query: Mapping[str, list[str]], name: str, default: int, most: int) -> int:
    values = query.get(name)
    if values is None:
        return default
    text = values[-1]
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > most:
        raise Refused(f"{name}={text[:20]}: it must be a whole number, {most} at most")
    return int(text)
