import socket
import subprocess
import sys
import threading

import pytest

from services.cli.healthcheck import Page, page_of
from services.stack import SERVICES


def answering(answer: bytes) -> int:
    """Start a server that gives one answer to one request; return its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer_once() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.recv(4096)
            connection.sendall(answer)

    threading.Thread(target=answer_once, daemon=True).start()
    return listener.getsockname()[1]


def check(target: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "services.cli.healthcheck", target],
        env=variables,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_each_service_is_asked_for_its_own_health_page(service):
    assert page_of(service.name, {}) == Page("127.0.0.1", service.port, service.health_path)


@pytest.mark.parametrize(
    ("host", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.1.2.3", "10.1.2.3"), ("", "127.0.0.1")]
)
def test_a_service_is_asked_where_its_variables_say_that_it_listens(host, asked):
    assert page_of("gateway", {"GATEWAY_HOST": host, "GATEWAY_PORT": "8001"}) == Page(asked, 8001, "/readyz")


def test_an_unknown_service_is_named():
    with pytest.raises(ValueError, match="'gatevay'"):
        page_of("gatevay", {})


def test_a_service_that_is_ready_is_well():
    port = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    done = check("gateway", GATEWAY_PORT=str(port))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_service_that_lacks_something_is_not_well_and_its_words_are_shown():
    port = answering(b'HTTP/1.1 503 Service Unavailable\r\n\r\n{"missing": ["embeddings"]}')
    done = check(f"http://127.0.0.1:{port}/readyz")
    assert done.returncode == 1
    assert '503 {"missing": ["embeddings"]}' in done.stdout


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_what_speaks_no_http_is_not_well(answer):
    done = check(f"http://127.0.0.1:{answering(answer)}/")
    assert done.returncode == 1
    assert "not HTTP" in done.stdout


def test_where_nothing_listens_nothing_is_well():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = check(f"http://127.0.0.1:{port}/")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_check_loads_nothing_that_takes_long():
    program = "import sys, services.cli.healthcheck; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert {"click", "pydantic", "asyncio", "http", "ssl"}.isdisjoint(done.stdout.split())
