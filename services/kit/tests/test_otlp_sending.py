"""Spans on their way to a collector, over real sockets: batches, retries, drops, and the end of a service."""

import contextlib
import gzip
import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from structlog.testing import capture_logs

from services.kit import otlp_sending
from services.kit.otlp_posting import Posting
from services.kit.otlp_sending import Sender
from services.kit.otlp_variables import Batching, Collector
from services.kit.otlp_wire import encode, resource_and_scope
from services.kit.settings import SettingsError
from services.kit.tests.test_otlp_wire import Given
from tests.testkit.collector import read_spans
from tests.testkit.ports import free_port

HEAD = resource_and_scope({"service.name": "test"}, "test", "0")
NOW = Batching(delay_s=0.01)
LATER = Batching(delay_s=60.0)


class Server:
    """A collector whose answers are said beforehand; when none is left it takes everything."""

    def __init__(self, port=0, tls=None):
        self.answers = []
        self.requests = []
        self.batches = []
        self.connections = []
        self.hanging = threading.Event()
        self.hanging.set()
        seen = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 5

            def setup(self):
                super().setup()
                seen.connections.append(self.connection)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers["content-encoding"] == "gzip":
                    body = gzip.decompress(body)
                seen.hanging.wait(5)
                status, headers = seen.answers.pop(0) if seen.answers else (200, {})
                seen.requests.append((self.path, dict(self.headers.items()), time.monotonic()))
                if status == 200:
                    seen.batches.append([span.name for span in read_spans(body)])
                self.send_response(status)
                for name, value in {"content-length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that does not trust us, or is gone
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1/traces"

    @property
    def names(self):
        return [name for batch in self.batches for name in batch]

    def close(self):
        self.hanging.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def server():
    with contextlib.closing(Server()) as made:
        yield made


@pytest.fixture
def log():
    with capture_logs() as lines:
        yield lines


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(otlp_sending, "_FIRST_PAUSE_S", 0.01)


class Patient(Posting):
    """Takes a busy machine's time for each step; `timeout_s` says only for how long a batch is tried."""

    def post(self, body, timeout_s):
        return super().post(body, timeout_s=60.0)


@contextlib.contextmanager
def sending(url, batching=NOW, posting=Posting, **of_collector):
    sender = Sender(HEAD, posting(Collector(url, **of_collector)), batching)
    try:
        yield sender
    finally:
        sender.shutdown(60.0)


def span(name):
    return encode(Given(name=name))


def until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.002)


# --- batches ----------------------------------------------------------------------------------------------------


def test_what_waits_is_sent_after_the_delay_with_the_collectors_headers(server):
    with sending(f"{server.url}?a=b", headers={"x-key": "sëcret"}) as sender:
        sender.put(span("one"))
        until(lambda: server.names == ["one"])
    path, headers, _ = server.requests[0]
    assert path == "/v1/traces?a=b"
    assert headers["content-type"] == "application/x-protobuf"
    assert headers["x-key"].encode("latin-1").decode() == "sëcret"
    assert headers["user-agent"].startswith("sparkstack")


def test_a_full_batch_does_not_wait_and_batches_share_a_connection(server):
    with sending(server.url, Batching(60.0, 2048, most_together=10)) as sender:
        for number in range(25):
            sender.put(span(str(number)))
        until(lambda: sender.counts["sent"] == 20)
    assert server.names == [str(number) for number in range(25)]
    assert [len(batch) for batch in server.batches] == [10, 10, 5]
    assert len(server.connections) == 1


def test_long_spans_make_smaller_batches(server, monkeypatch):
    monkeypatch.setattr(otlp_sending, "MOST_BYTES", 1000)
    with sending(server.url, LATER) as sender:
        for size in (400, 400, 400, 4000, 1):
            sender.put(span("x" * size))
    assert [[len(name) for name in batch] for batch in server.batches] == [[400, 400], [400], [4000], [1]]


def test_it_is_compressed_where_that_is_asked_for(server):
    with sending(server.url, LATER, gzip=True) as sender:
        sender.put(span("one"))
    assert server.names == ["one"]
    assert server.requests[0][1]["content-encoding"] == "gzip"


# --- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_collector_that_is_busy_is_asked_again(server, log, status):
    server.answers = [(status, {}), (status, {"retry-after": "0"})]
    with sending(server.url) as sender:
        sender.put(span("one"))
        until(lambda: server.names == ["one"])
    assert (sender.counts["sent"], sender.counts["refused"], log) == (1, 0, [])


def test_a_collector_that_wants_to_be_left_alone_is(server):
    server.answers = [(503, {"retry-after": "1"})]
    with sending(server.url, posting=Patient, timeout_s=0.5) as sender:
        sender.put(span("lost"))
        until(lambda: sender.counts["refused"] == 1)
        sender.put(span("later"))
        until(lambda: server.names == ["later"])
    first, second = (at for _, _, at in server.requests)
    assert second - first >= 0.95


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500])
def test_what_is_refused_is_not_sent_again_and_told_once(server, log, status):
    server.answers = [(status, {})] * 3
    with sending(server.url) as sender:
        for number in range(3):
            sender.put(span("one"))
            until(lambda number=number: sender.counts["refused"] == number + 1)
        assert [(line["event"], line["spans"]) for line in log] == [("traces.spans_dropped", 1)]
        assert f"answered {status}" in log[0]["because"]
    assert [line["spans"] for line in log] == [1, 2], "the rest is told at the end"


def test_a_collector_that_is_not_there_loses_spans_and_says_so(log):
    with sending(f"http://127.0.0.1:{free_port()}/v1/traces", timeout_s=0.2) as sender:
        sender.put(span("one"))
        until(lambda: sender.counts["unreachable"] == 1)
    assert "ConnectionRefusedError" in log[0]["because"]


def test_a_collector_that_comes_back_gets_what_waited(server):
    with sending(server.url) as sender:
        sender.put(span("before"))
        until(lambda: server.names == ["before"])
        server.close()
        sender.put(span("meanwhile"))
        with contextlib.closing(Server(server.port)) as after:
            until(lambda: after.names == ["meanwhile"])
    assert sender.counts["sent"] == 2


def test_where_too_many_wait_the_next_is_dropped_and_nobody_is_held_up(server, log):
    server.hanging.clear()
    with sending(server.url, Batching(0.01, most_waiting=4, most_together=2)) as sender:
        sender.put(span("first"))
        until(lambda: not sender._waiting)
        began = time.monotonic()
        for number in range(10):
            sender.put(span(str(number)))
        assert time.monotonic() - began < 4.0
        assert sender.counts["queue_full"] == 6
        server.hanging.set()
        until(lambda: len(server.names) == 5)
    assert server.names == ["first", "0", "1", "2", "3"]
    assert (log[0]["spans"], log[0]["because"]) == (6, "more came than were sent")


def test_what_has_become_of_the_spans_is_a_metric(server):
    registry = CollectorRegistry()
    server.answers = [(400, {})]
    with sending(server.url) as sender:
        registry.register(sender)
        sender.put(span("lost"))
        until(lambda: sender.counts["refused"] == 1)
    text = generate_latest(registry).decode()
    assert 'trace_spans_total{outcome="refused"} 1.0' in text
    assert 'trace_spans_total{outcome="sent"} 0.0' in text


# --- the end ----------------------------------------------------------------------------------------------------


def test_the_end_sends_what_waits(server):
    with sending(server.url, LATER) as sender:
        sender.put(span("one"))
    assert server.names == ["one"]
    sender.put(span("too late"))
    assert sender.counts["queue_full"] == 1


def test_a_collector_that_hangs_holds_the_end_up_no_longer_than_is_said(server, log):
    server.hanging.clear()
    with sending(server.url, LATER) as sender:
        sender.put(span("one"))
        began = time.monotonic()
        sender.shutdown(0.1)
        assert 0.1 <= time.monotonic() - began < 4.0
        assert log[-1]["because"] == "the service ends"
        server.hanging.set()


def test_the_end_does_not_wait_for_a_pause_to_be_over(monkeypatch):
    monkeypatch.setattr(otlp_sending, "_FIRST_PAUSE_S", 5.0)
    with sending(f"http://127.0.0.1:{free_port()}/") as sender:
        sender.put(span("one"))
        until(lambda: not sender._waiting)
        began = time.monotonic()
        sender.shutdown(4.0)
        assert time.monotonic() - began < 3.9
        assert sender.counts["unreachable"] == 1


# --- proxies and certificates -----------------------------------------------------------------------------------


def test_a_proxy_of_the_environment_is_asked_for_others_and_never_for_this_machine(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://ann:secret@127.0.0.1:{server.port}")
    monkeypatch.setenv("no_proxy", "inside.example")
    with sending("http://collector.example:4318/v1/traces", LATER) as sender:
        sender.put(span("by the proxy"))
    assert server.names == ["by the proxy"]
    assert server.requests[0][0] == "http://collector.example:4318/v1/traces"
    assert server.requests[0][1]["proxy-authorization"] == "Basic YW5uOnNlY3JldA=="
    with contextlib.closing(Server()) as near, sending(near.url, LATER) as sender:
        sender.put(span("straight"))
        sender.shutdown(60.0)
        assert near.names == ["straight"]
    assert Posting(Collector("http://inside.example/"))._proxy is None


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_of_ones_own_is_held_against_the_file_that_is_named(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    name = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", *curve, *name, "-keyout", key, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with contextlib.closing(Server(tls=context)) as server:
        url = server.url.replace("http:", "https:")
        with sending(url, LATER, certificate=str(certificate)) as known:
            known.put(span("one"))
        with sending(url, LATER, timeout_s=0.2) as unknown:
            unknown.put(span("two"))
        assert server.names == ["one"]
    assert (known.counts["sent"], unknown.counts["unreachable"]) == (1, 1)


def test_a_certificate_that_is_not_there_is_said_at_once(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.pem can't be read"):
        Posting(Collector("https://127.0.0.1:1/", certificate=str(tmp_path / "nowhere.pem")))
