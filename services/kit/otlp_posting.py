"""OTLP over HTTP: one kept connection to the collector, of the standard library, since a batch a second needs no more.

httpx would cost as much CPU for one request as the encoding of twenty spans.
"""

import base64
import gzip
import ssl
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection, RemoteDisconnected
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from services import __version__
from services.kit.otlp_variables import Collector
from services.kit.settings import SettingsError

_MOST_ANSWER_BYTES = 65_536
_GZIP_LEVEL = 1
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Answer(NamedTuple):
    """What a collector has said; `retry_after_s` where it wants to be asked again."""

    status: int
    retry_after_s: float | None


class Posting:
    """Posts batches to a collector, from one thread.

    Raises:
        SettingsError: a file of the collector's can't be read.
    """

    def __init__(self, collector: Collector) -> None:
        self.timeout_s = collector.timeout_s
        self._url = urlsplit(collector.url)
        self._proxy = _proxy_for(self._url)
        self._gzip = collector.gzip
        self._tls = _tls(collector) if self._url.scheme == "https" else None
        self._headers = {
            "content-type": b"application/x-protobuf",
            "user-agent": f"sparkstack-otlp/{__version__}".encode(),
            **_basic("authorization", self._url),
            **{name: value.encode() for name, value in collector.headers.items()},
        }
        if self._gzip:
            self._headers["content-encoding"] = b"gzip"
        if self._proxy is not None and self._tls is None:
            self._headers |= _basic("proxy-authorization", self._proxy)
        self._connection: HTTPConnection | None = None

    def post(self, body: bytes, timeout_s: float) -> Answer:
        """Post a batch; `timeout_s` is for each step of it.

        Raises:
            OSError, HTTPException: the collector can't be reached, or is lost.
        """
        if self._gzip:
            body = gzip.compress(body, _GZIP_LEVEL)
        timeout_s = max(timeout_s, 0.1)
        kept = self._connection is not None
        try:
            return self._once(body, timeout_s)
        except (RemoteDisconnected, ConnectionError):
            if not kept:
                raise
            # A connection that has been idle for long is closed by the other side; that says nothing of the collector.
            return self._once(body, timeout_s)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _once(self, body: bytes, timeout_s: float) -> Answer:
        connection = self._connection or self._connect()
        connection.timeout = timeout_s
        try:
            if connection.sock is not None:
                connection.sock.settimeout(timeout_s)
            connection.request("POST", self._target(), body, self._headers)
            response = connection.getresponse()
            response.read(_MOST_ANSWER_BYTES)
            answer = Answer(response.status, _retry_after_s(response.getheader("retry-after")))
            self._connection = connection
            if response.will_close or not response.isclosed():
                self.close()
        except (OSError, HTTPException):
            self._connection = None
            connection.close()
            raise
        return answer

    def _connect(self) -> HTTPConnection:
        url, proxy = self._url, self._proxy
        host, port = (url if proxy is None else proxy).hostname or "", (url if proxy is None else proxy).port
        if self._tls is None:
            return HTTPConnection(host, port or 80)
        connection = HTTPSConnection(host, port or (443 if proxy is None else 80), context=self._tls)
        if proxy is not None:
            secret = {name: value.decode() for name, value in _basic("proxy-authorization", proxy).items()}
            connection.set_tunnel(url.hostname or "", url.port or 443, secret)
        return connection

    def _target(self) -> str:
        path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        if self._proxy is not None and self._tls is None:
            return f"http://{self._url.netloc.rpartition('@')[2]}{path}"
        return path


def _proxy_for(url: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment names for an address; none for what is on this machine."""
    host = url.hostname or ""
    named = getproxies().get(url.scheme)
    if not named or host in _LOOPBACK or host.startswith("127.") or proxy_bypass(host):
        return None
    return urlsplit(named if "//" in named else f"http://{named}")


def _tls(collector: Collector) -> ssl.SSLContext:
    files = [collector.certificate, collector.client_certificate, collector.client_key]
    try:
        context = ssl.create_default_context(cafile=collector.certificate or None)
        if collector.client_certificate:
            context.load_cert_chain(collector.client_certificate, collector.client_key or None)
    except OSError as error:
        named = ", ".join(filter(None, files))
        raise SettingsError(f"OTEL_EXPORTER_OTLP_CERTIFICATE and its like: {named} can't be read: {error}") from None
    return context


def _basic(name: str, url: SplitResult) -> dict[str, bytes]:
    if url.username is None:
        return {}
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {name: b"Basic " + base64.b64encode(pair.encode())}


def _retry_after_s(text: str | None) -> float | None:
    """Return the seconds of a Retry-After, which may be a date."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return None
