"""A Docker engine of a test's own on a unix socket: it holds containers as a test sets them, and notes what is asked.

As a strict socket proxy would, it answers 403 to whatever the runtime has no business with.
"""

import contextlib
import http.server
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PATH = re.compile(r"/containers/(?P<id>\w+)/(?P<verb>json|top|logs|start|stop)")


@dataclass
class Container:
    """One container, as the engine's `inspect` has it."""

    id: str
    labels: dict[str, str]
    image: str = "engine:1"
    command: list[str] = field(default_factory=lambda: ["serve"])
    environment: list[str] = field(default_factory=list)
    restart: str = "no"
    host: dict[str, Any] = field(default_factory=dict)
    mounts: list[str] = field(default_factory=list)
    created: int = 1
    state: dict[str, Any] = field(default_factory=lambda: {"Running": False, "Pid": 0, "ExitCode": 0})
    log: bytes = b""
    pids: list[int] = field(default_factory=list)

    def run(self, *pids: int) -> None:
        self.pids = list(pids)
        self.state = {"Running": True, "Pid": pids[0], "ExitCode": 0}

    def end(self, code: int, **more: Any) -> None:
        self.state = {"Running": False, "Pid": 0, "ExitCode": code, **more}


class FakeDocker:
    """The engine, and what was asked of it."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.containers: dict[str, Container] = {}
        self.asked: list[str] = []
        self.refusals: dict[str, tuple[int, str]] = {}
        self.lists_everything = False

    @property
    def endpoint(self) -> str:
        return f"unix://{self.socket}"

    def add(self, container_id: str, project: str = "p", instance: str = "", **options: Any) -> Container:
        labels = {"sparkstack.project": project, "sparkstack.instance": instance or container_id}
        container = self.containers[container_id] = Container(container_id, labels, **options)
        return container

    def answer(self, method: str, target: str) -> tuple[int, bytes]:
        """Return status and body."""
        url = urlsplit(target)
        self.asked.append(f"{method} {url.path}")
        if method == "GET" and url.path == "/containers/json":
            return 200, json.dumps(self._list(parse_qs(url.query))).encode()
        match = _PATH.fullmatch(url.path)
        if match is None or (method == "POST") != (match["verb"] in ("start", "stop")):
            return _failure(403, "forbidden")
        if match["verb"] in self.refusals:
            return _failure(*self.refusals[match["verb"]])
        container = self.containers.get(match["id"])
        if container is None:
            return _failure(404, f"No such container: {match['id']}")
        return getattr(self, f"_{match['verb']}")(container, parse_qs(url.query))

    def _list(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        wanted = json.loads(query["filters"][0])["label"] if query["all"] == ["1"] else []
        return [
            {"Id": each.id, "Labels": each.labels, "Created": each.created}
            for each in self.containers.values()
            if self.lists_everything
            or all(label in each.labels or label in (f"{k}={v}" for k, v in each.labels.items()) for label in wanted)
        ]

    def _json(self, container: Container, _query: Any) -> tuple[int, bytes]:
        document = {
            "State": container.state,
            "Config": {
                "Image": container.image,
                "Cmd": container.command,
                "Env": container.environment,
                "Labels": container.labels,
            },
            "HostConfig": {"RestartPolicy": {"Name": container.restart}, **container.host},
            "Mounts": [{"Destination": path} for path in container.mounts],
        }
        return 200, json.dumps(document).encode()

    def _top(self, container: Container, _query: Any) -> tuple[int, bytes]:
        rows = [["root", str(pid), "serve"] for pid in container.pids]
        return 200, json.dumps({"Titles": ["UID", "PID", "CMD"], "Processes": rows}).encode()

    def _logs(self, container: Container, _query: Any) -> tuple[int, bytes]:
        return 200, container.log

    def _start(self, container: Container, _query: Any) -> tuple[int, bytes]:
        container.run(4_000_000)
        return 204, b""

    def _stop(self, container: Container, query: Any) -> tuple[int, bytes]:
        if not container.state["Running"]:
            return 304, b""
        container.end(137 if query["t"] == ["0"] else 143)
        return 204, b""


def _failure(status: int, message: str) -> tuple[int, bytes]:
    return status, json.dumps({"message": message}).encode()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False


@contextlib.contextmanager
def fake_docker(socket: Path) -> Iterator[FakeDocker]:
    """Serve a fake Docker engine on a unix socket, in threads."""
    docker = FakeDocker(socket)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            status, body = docker.answer(self.command, self.path)
            self.send_response(status)
            if status not in (204, 304):
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = do_PUT = _answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    with _Server(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield docker
        finally:
            server.shutdown()
            thread.join()
