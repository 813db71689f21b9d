"""The proxy before a fake Docker: what it lets through, and the runtime of the engines service behind it."""

import contextlib
import http.client
import http.server
import json
import socketserver
import threading
from dataclasses import dataclass, field

import pytest

from services.docker_proxy.__main__ import health
from services.docker_proxy.proxy import Docker, Server

OURS, ALIEN = "a" * 64, "b" * 64


@dataclass
class FakeDocker:
    """Two containers: an engine of the project `p`, and somebody else's."""

    path: str
    asked: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    labels: dict[str, dict[str, str]] = field(
        default_factory=lambda: {
            OURS: {"sparkstack.project": "p", "sparkstack.instance": "vllm-m"},
            ALIEN: {"com.docker.compose.project": "p"},
        }
    )

    def answer(self, method, target):
        self.asked.append(f"{method} {target}")
        if target == "/_ping":
            return 200, b"OK"
        if target.startswith("/containers/json?"):
            return 200, json.dumps([{"Id": OURS}]).encode()
        _, _, container, verb = target.partition("?")[0].split("/")
        if verb == "json":
            labels = self.labels.get(container)
            found = json.dumps({"Id": container, "Config": {"Labels": labels}}).encode()
            return (200, found) if labels else (404, b'{"message":"No such container"}')
        return {"start": (204, b""), "stop": (304, b"")}.get(verb, (200, b"lines"))


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def docker(tmp_path):
    fake = FakeDocker(str(tmp_path / "docker.sock"))

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self):
            fake.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = fake.answer(self.command, self.path)
            self.send_response(status)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815

        def log_message(self, *_):
            pass

    with serving(_UnixServer(fake.path, Handler)):
        yield fake


@contextlib.contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def port(docker):
    with serving(Server(("127.0.0.1", 0), Docker(docker.path), "p")) as server:
        yield server.server_address[1]


def ask(port, method, target, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, target, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_an_engine_of_the_project_is_inspected_started_and_stopped(docker, port):
    assert ask(port, "GET", "/containers/json?all=1")[0] == 200
    assert json.loads(ask(port, "GET", f"/containers/{OURS}/json")[1])["Id"] == OURS
    assert ask(port, "GET", f"/containers/{OURS}/logs?tail=3") == (200, b"lines")
    assert ask(port, "POST", f"/containers/{OURS}/start") == (204, b"")
    assert ask(port, "POST", f"/containers/{OURS}/stop?t=0") == (304, b"")
    assert docker.asked[-1] == f"POST /containers/{OURS}/stop?t=0"
    assert set(docker.bodies) == {b""}


@pytest.mark.parametrize("verb", ["json", "logs", "top", "start", "stop"])
@pytest.mark.parametrize("container", [ALIEN, "c" * 64])
def test_containers_of_others_are_as_if_they_were_not_there(docker, port, container, verb):
    status, body = ask(port, "POST" if verb.startswith("st") else "GET", f"/containers/{container}/{verb}")
    assert status == 404
    assert json.loads(body)["message"] == "No such container of the project p"
    assert docker.asked == [f"GET /containers/{container}/json"], "its labels, and nothing else"


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/containers/create", b'{"Image":"x","HostConfig":{"Privileged":true}}'),
        ("POST", f"/containers/{OURS}/start", b'{"Binds":["/:/host"]}'),
        ("POST", f"/containers/{OURS}/exec", None),
        ("DELETE", f"/containers/{OURS}", None),
        ("PUT", f"/containers/{OURS}/archive", b"x"),
        ("OPTIONS", "/containers/json", None),
        ("PATCH", "/containers/json", None),
    ],
)
def test_what_is_refused_never_reaches_docker(docker, port, method, target, body):
    status, answer = ask(port, method, target, body)
    assert (status, json.loads(answer)["message"].partition(":")[0]) == (403, "docker-proxy")
    assert docker.asked == []


def test_a_body_that_comes_in_pieces_is_a_body(docker, port):
    chunks = iter([b"{}"])
    assert ask(port, "POST", f"/containers/{OURS}/start", chunks, **{"Transfer-Encoding": "chunked"})[0] == 403
    assert docker.asked == []


def test_a_second_request_cannot_hide_behind_a_first(docker, port):
    """A length that two readers understand in two ways would let one through unread."""
    smuggled = f"POST /containers/{ALIEN}/start HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    ask(port, "POST", f"/containers/{OURS}/start", smuggled, **{"Content-Length": "+0"})
    assert docker.asked == []


def test_a_docker_that_is_gone_is_told(tmp_path):
    with serving(Server(("127.0.0.1", 0), Docker(str(tmp_path / "nowhere.sock")), "p")) as server:
        port = server.server_address[1]
        status, body = ask(port, "GET", "/containers/json")
        assert status == 502
        assert "Docker does not answer" in json.loads(body)["message"]
        assert health(port) == 1


def test_health_is_that_of_docker_too(docker, port):
    assert health(port) == 0
    assert docker.asked == ["GET /_ping"]


def test_nobody_there_is_not_healthy(capsys):
    assert health(1) == 1
    assert "does not answer" in capsys.readouterr().out
