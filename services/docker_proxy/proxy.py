"""The proxy: an HTTP server before Docker's socket, a thread a connection."""

import http.client
import http.server
import json
import socket
import sys
import threading
import time
from typing import Any

from services.docker_proxy.rules import Question, Refused, is_ours, question

_MOST_BYTES = 32 << 20
_MOST_AT_A_TIME = 32
_IDLE_S = 120.0


class Docker:
    """Docker's HTTP interface on a unix socket; a connection a question."""

    def __init__(self, path: str) -> None:
        self._path = path

    def ask(self, asked: Question) -> tuple[int, str, bytes]:
        """Return status, content type and body.

        Raises:
            OSError, http.client.HTTPException: Docker doesn't answer.
        """
        connection = _UnixConnection(self._path, asked.timeout_s)
        try:
            connection.request(asked.method, asked.path, headers={"Host": "docker", "Content-Length": "0"})
            answer = connection.getresponse()
            body = answer.read(_MOST_BYTES + 1)
            if len(body) > _MOST_BYTES:
                raise http.client.HTTPException(f"an answer of more than {_MOST_BYTES >> 20} MiB")
            return answer.status, answer.getheader("Content-Type") or "application/json", body
        finally:
            connection.close()

    def is_ours(self, container: str, project: str) -> bool:
        """Say whether there is such a container, and it is an engine of this project."""
        status, _, body = self.ask(Question("GET", f"/containers/{container}/json"))
        try:
            return status == 200 and is_ours(json.loads(body), project)
        except ValueError:
            return False

    def answers(self) -> bool:
        """Say whether Docker is there."""
        try:
            return self.ask(Question("GET", "/_ping"))[0] == 200
        except (OSError, http.client.HTTPException):
            return False


class Server(http.server.ThreadingHTTPServer):
    """Lets through what the rules allow for one project.

    Args:
        address: host and port; port 0 takes a free one.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], docker: Docker, project: str) -> None:
        super().__init__(address, _Handler)
        self.docker = docker
        self.project = project
        self.places = threading.BoundedSemaphore(_MOST_AT_A_TIME)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("docker", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_S

    def version_string(self) -> str:
        return "docker-proxy"

    def _handle(self) -> None:
        began = time.monotonic()
        with self.server.places:
            status, kind, body = self._answer()
        if status >= 400 or self.command != "GET":  # engines are looked at every other second
            self._log(status, time.monotonic() - began)
        self.send_response(status)
        if status not in (204, 304):
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status not in (204, 304) and self.command != "HEAD":
            self.wfile.write(body)

    def _log(self, status: int, seconds: float) -> None:
        event = "request.refused" if status == 403 else "request.completed"
        path = self.path.partition("?")[0][:200]
        log(event, method=self.command, path=path, status=status, ms=round(seconds * 1000, 1))

    # Whatever is asked by, the rules judge.
    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = do_OPTIONS = _handle  # noqa: N815

    def _answer(self) -> tuple[int, str, bytes]:
        if self.command == "GET" and self.path == "/livez":
            well = self.server.docker.answers()
            return (200, *_message("ok")) if well else (503, *_message("Docker does not answer on its socket"))
        try:
            asked = question(self.command, self.path, self._body_bytes(), self.server.project)
            if asked.container and not self.server.docker.is_ours(asked.container, self.server.project):
                # Whether there is one of another project is nobody's business here.
                return 404, *_message(f"No such container of the project {self.server.project}")
            return self.server.docker.ask(asked)
        except Refused as refused:
            self.close_connection = True  # a body may follow
            return 403, *_message(f"docker-proxy: {refused}")
        except (OSError, http.client.HTTPException) as error:
            return 502, *_message(f"docker-proxy: Docker does not answer: {error or type(error).__name__}")

    def _body_bytes(self) -> int:
        if self.headers.get("Transfer-Encoding"):
            return 1
        text = self.headers.get("Content-Length", "0")
        return int(text) if text.isdecimal() else 1

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: `_handle` writes the line."""


def log(event: str, **fields: Any) -> None:
    """Write one line of JSON."""
    line = {"service": "docker-proxy", "event": event, "time": round(time.time(), 3), **fields}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _message(text: str) -> tuple[str, bytes]:
    return "application/json", json.dumps({"message": text}).encode()
