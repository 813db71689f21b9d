"""`python -m services.docker_proxy`: run the proxy; with the word `health`, ask one that runs.

DOCKER_PROXY_PROJECT    whose engines: the label sparkstack.project (sparkstack)
DOCKER_PROXY_HOST       address to listen on (127.0.0.1)
DOCKER_PROXY_PORT       port (2375)
DOCKER_PROXY_SOCKET     Docker's socket (/var/run/docker.sock)
"""

import os
import signal
import sys
import threading
import urllib.error
import urllib.request

from services.docker_proxy.proxy import Docker, Server, log


def main(arguments: list[str]) -> int:
    """Serve until told to stop, or say whether one that runs here is well."""
    host = os.environ.get("DOCKER_PROXY_HOST") or "127.0.0.1"
    text = os.environ.get("DOCKER_PROXY_PORT") or "2375"
    if not text.isdecimal() or int(text) > 65535:
        sys.stderr.write(f"DOCKER_PROXY_PORT={text}: it must be a port, 0 to 65535\n")
        return 2
    if arguments == ["health"]:
        return health(int(text))
    project = os.environ.get("DOCKER_PROXY_PROJECT") or "sparkstack"
    docker = Docker(os.environ.get("DOCKER_PROXY_SOCKET") or "/var/run/docker.sock")
    server = Server((host, int(text)), docker, project)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    log("proxy.started", host=host, port=server.server_address[1], project=project)
    server.serve_forever()
    server.server_close()
    return 0


def health(port: int) -> int:
    """Say whether the proxy and Docker behind it answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5):
            return 0
    except urllib.error.HTTPError as error:
        sys.stdout.write(error.read().decode("utf-8", "replace")[:300] + "\n")
    except OSError as error:
        sys.stdout.write(f"the proxy does not answer: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
