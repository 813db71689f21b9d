"""A model hub on loopback, for the real huggingface_hub client: repositories in memory, and scripted faults.

with FakeHub() as hub:
    commit = hub.add("acme/tiny", {"config.json": b"{}", "model.gguf": big})
    environ = hub.variables(tmp_path / "hf")      # HF_ENDPOINT, HF_HOME …
    hub.drop_after("model.gguf", 1_000_000)       # one fault for the next GET of this file

`hub.served` counts the bytes sent of each file, `hub.requests` keeps method, path and headers. Large files are
answered as the real hub does: by a redirect to another origin (`localhost` instead of `127.0.0.1`).
"""

import dataclasses
import hashlib
import json
import re
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_LARGE = 4096
_PIECE = 16 * 1024
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>revision|tree|auth-check)(?:/(?P<revision>[^/]+))?$")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)$")


@dataclasses.dataclass
class Fault:
    """What goes wrong with one answer.

    Args:
        status: answered instead, with `headers`.
        drop_after: the connection is cut when so many bytes of this answer were sent.
        gate: the answer waits, after `drop_after` bytes, until this is set; then it goes on.
        corrupt: the first byte is another one.
        size: what the answer claims to have in all.
        no_ranges: a request for a part gets everything.
    """

    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    drop_after: int | None = None
    gate: threading.Event | None = None
    corrupt: bool = False
    size: int | None = None
    no_ranges: bool = False


class FakeHub:
    """The hub; a context manager."""

    def __init__(self) -> None:
        self.served: dict[str, int] = defaultdict(int)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.gated: dict[str, str] = {}
        """Repository → the token that may read it."""
        self.token_of_account = ""
        """A token that is known and has accepted nothing."""
        self.refs: dict[tuple[str, str], str] = {}
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        self.held = threading.Event()
        """Set when an answer waits at its gate."""
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        for faults in self._faults.values():
            for fault in faults:
                if fault.gate is not None:
                    fault.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """Return the port."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Return the address that HF_ENDPOINT names."""
        return f"http://127.0.0.1:{self.port}"

    def variables(self, home: Path) -> dict[str, str]:
        """Return the environment of a client whose cache is in `home`."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN_PATH": str(home / "no-token")}

    def add(self, repository: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """Add a commit, point the branch to it and return it."""
        text = json.dumps([repository, *((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())])
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[repository, commit] = dict(files)
        self.refs[repository, branch] = commit
        return commit

    def fail(self, file: str, **fault: Any) -> Fault:
        """Let the next GET of a file's bytes, or a path under /api, go wrong. Several are used in their order."""
        made = Fault(**fault)
        with self._lock:
            self._faults[file].append(made)
        return made

    def take_fault(self, file: str) -> Fault | None:
        """Return the next fault of a file."""
        with self._lock:
            waiting = self._faults[file]
            return waiting.popleft() if waiting else None

    def count(self, method: str, part: str) -> int:
        """Return how many requests had this method and this text in their path."""
        return sum(method == each[0] and part in each[1] for each in self.requests)

    def files_of(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return the commit of a revision and its files."""
        commit = self.refs.get((repository, revision), revision)
        files = self.commits.get((repository, commit))
        return None if files is None else (commit, files)


def is_large(data: bytes) -> bool:
    """Say whether the hub keeps a file in its store of large files, by its sha256."""
    return len(data) >= _LARGE


def digest_of(data: bytes) -> str:
    """Return the name that the hub gives to contents."""
    if is_large(data):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\x00" % len(data) + data).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    @property
    def hub(self) -> FakeHub:
        """Return the hub."""
        return self.server.hub

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_arguments: Any) -> None:
        """Tests read the hub's `requests`."""

    def _answer(self, *, with_body: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        if found := _API.match(path):
            self._api(found["repo"], found["what"], found["revision"] or "main")
        elif found := _RESOLVE.match(path):
            self._resolve(found["repo"], found["revision"], found["file"], with_body)
        elif path.startswith("/store/"):
            name = parse_qs(url.query)["name"][0]
            self._send_file(name, self._stored(path.removeprefix("/store/")), with_body, {})
        else:
            self._refuse(404, {"X-Error-Code": "RepoNotFound"})

    def _stored(self, digest: str) -> bytes:
        everything = (data for files in self.hub.commits.values() for data in files.values())
        return next(data for data in everything if digest_of(data) == digest)

    def _may_read(self, repository: str) -> bool:
        wanted = self.hub.gated.get(repository)
        given = self.headers.get("authorization", "").removeprefix("Bearer ")
        if wanted is None or given == wanted:
            return True
        status = 403 if given and given == self.hub.token_of_account else 401
        self._refuse(status, {"X-Error-Code": "GatedRepo"})
        return False

    def _api(self, repository: str, what: str, revision: str) -> None:
        fault = self.hub.take_fault(f"/api/{what}")
        if fault is not None and fault.status:
            self._refuse(fault.status, fault.headers)
            return
        if what == "auth-check":
            if self._may_read(repository):
                self._json({})
            return
        found = self.hub.files_of(repository, revision)
        if found is None:
            known = any(name == repository for name, _ in self.hub.commits)
            self._refuse(404, {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        elif what == "revision":
            self._json({"id": repository, "sha": found[0], "siblings": [], "tags": []})
        else:
            self._json([_entry(name, data) for name, data in found[1].items()])

    def _resolve(self, repository: str, revision: str, file: str, with_body: bool) -> None:
        found = self.hub.files_of(repository, revision)
        if not self._may_read(repository):
            return
        if found is None or file not in found[1]:
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})
            return
        data = found[1][file]
        headers = {"X-Repo-Commit": found[0], "ETag": f'"{digest_of(data)}"', "Accept-Ranges": "bytes"}
        if is_large(data):
            headers |= {"X-Linked-Etag": f'"{digest_of(data)}"', "X-Linked-Size": str(len(data))}
            headers["Location"] = f"http://localhost:{self.hub.port}/store/{digest_of(data)}?name={file}"
            self._head(302, {**headers, "Content-Length": "0"})
        else:
            self._send_file(file, data, with_body, headers)

    def _send_file(self, name: str, data: bytes, with_body: bool, headers: dict[str, str]) -> None:
        fault = (self.hub.take_fault(name) if with_body else None) or Fault()
        if fault.status:
            self._refuse(fault.status, fault.headers)
            return
        size = len(data) if fault.size is None else fault.size
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        start = int(wanted[1]) if wanted and not fault.no_ranges else 0
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._head(206 if start else 200, {**headers, "Content-Length": str(size - start)})
        if with_body:
            body = bytes([data[0] ^ 1]) + data[1:] if fault.corrupt else data
            self._send_body(name, body[start:size], fault)

    def _send_body(self, name: str, body: bytes, fault: Fault) -> None:
        sent = 0
        try:
            while sent < len(body):
                end = len(body)
                if fault.drop_after is not None and sent < fault.drop_after:
                    end = min(end, fault.drop_after)
                piece = body[sent : min(end, sent + _PIECE)]
                self.wfile.write(piece)
                sent += len(piece)
                self.hub.served[name] += len(piece)
                if fault.drop_after is not None and sent == fault.drop_after and not self._at_fault(fault):
                    return
        except OSError:  # the client has left
            self.close_connection = True

    def _at_fault(self, fault: Fault) -> bool:
        """Do what the fault says in the middle; say whether the answer goes on."""
        self.wfile.flush()
        if fault.gate is not None:
            self.hub.held.set()
            fault.gate.wait(60)
            return True
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        return False

    def _json(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _refuse(self, status: int, headers: Mapping[str, str]) -> None:
        self._head(status, {**headers, "Content-Length": "0"})

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": digest_of(data)}
    if is_large(data):
        entry["oid"] = hashlib.sha1(data).hexdigest()
        entry["lfs"] = {"oid": digest_of(data), "size": len(data), "pointerSize": 134}
    return entry
