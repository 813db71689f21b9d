"""HTTP to a service that only its neighbours can reach: asked from inside its own container."""

import base64
import json

import httpx

from services.cli.containers.docker import Docker, DockerError, said

# Standard library alone, and everything it needs comes on stdin: no key is in a command line.
_INSIDE = """
import base64, http.client, json, sys
asked = json.load(sys.stdin)
connection = http.client.HTTPConnection("127.0.0.1", asked["port"], timeout=asked["timeout_s"])
try:
    connection.request(asked["method"], asked["path"], base64.b64decode(asked["body"]), asked["headers"])
    answer = connection.getresponse()
    body = base64.b64encode(answer.read()).decode()
    json.dump({"status": answer.status, "headers": answer.getheaders(), "body": body}, sys.stdout)
except OSError as error:
    json.dump({"error": str(error)}, sys.stdout)
"""
_LEFT_OUT = frozenset({"host", "connection", "accept-encoding", "transfer-encoding", "content-length"})
_ENDING_S = 10.0


class ContainerTransport(httpx.BaseTransport):
    """Carries each request by `docker exec` to a port of a container's own loopback; answers come whole.

    Args:
        container: its name or id.
    """

    def __init__(self, docker: Docker, container: str) -> None:
        self._docker = docker
        self._container = container

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            httpx.ConnectError: the container does not run, or nothing listens there.
        """
        timeout_s = float((request.extensions.get("timeout") or {}).get("read") or 30.0)
        asked = {
            "method": request.method,
            "path": request.url.raw_path.decode("ascii"),
            "port": request.url.port or 80,
            "headers": {name: value for name, value in request.headers.items() if name.lower() not in _LEFT_OUT},
            "body": base64.b64encode(request.read()).decode("ascii"),
            "timeout_s": timeout_s,
        }
        command = ("exec", "--interactive", self._container, "python3", "-I", "-c", _INSIDE)
        try:
            done = self._docker.run(*command, stdin=json.dumps(asked).encode(), timeout_s=timeout_s + _ENDING_S)
            answer = json.loads(done.stdout)
        except DockerError as error:
            raise httpx.ConnectError(error.message, request=request) from None
        except ValueError:
            raise httpx.ConnectError(said(done) or "no answer from the container", request=request) from None
        if "error" in answer:
            raise httpx.ConnectError(answer["error"], request=request)
        headers = [(name, value) for name, value in answer["headers"] if name.lower() not in _LEFT_OUT]
        return httpx.Response(answer["status"], headers=headers, content=base64.b64decode(answer["body"]))
