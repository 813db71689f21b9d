"""The gateways that can be measured: how each is found, started and spoken to."""

import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from loadtests.gateway_overhead import wire
from services import __version__

ROOT = Path(__file__).resolve().parents[2]
_PEERS = ROOT / ".venvs"
_KEY = "sk-overhead-0123456789abcdef0123456789abcdef"
_OWN_CODE = {"PYTHONPATH": str(ROOT)}
_HOW_TO_INSTALL = "not installed: make bench-peers"


class NotInstalledError(Exception):
    """The target's program is not on this machine; the message says how it gets there."""


@dataclass(frozen=True)
class Launch:
    """A gateway's command line, and what its clients must know."""

    argv: tuple[str, ...]
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    ready_timeout_s: float = 30.0
    counts_tokens: bool = False
    """Whether its `/metrics` has the completion tokens, to be held against those that were sent."""


@dataclass(frozen=True)
class Place:
    """Where a gateway is to run: the engine behind it, its own port, a folder for its files."""

    engine_url: str
    port: int
    folder: Path


_FOREIGN = re.compile(r"(GATEWAY|SPARKSTACK|OTEL|LITELLM|OPENAI|UVICORN|PROMETHEUS)_|PYTHON|.*_proxy$", re.IGNORECASE)


def clean_environment(more: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what would change a gateway or its interpreter, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
    return {**kept, **more}


def _sparkstack(place: Place) -> Launch:
    argv = (sys.executable, "-m", "services.cli.main", "gateway", "--backend", f"stub={place.engine_url}")
    return Launch(
        (*argv, "--port", str(place.port)),
        version=__version__,
        environment={**_OWN_CODE, "SPARKSTACK_API_KEY": _KEY},
        key=_KEY,
        counts_tokens=True,
    )


def _bare_fastapi(place: Place, client: str) -> Launch:
    versions = [importlib.metadata.version(name) for name in ("fastapi", client)]
    module = "loadtests.gateway_overhead.bare_fastapi"
    argv = (sys.executable, "-m", module, "--engine", place.engine_url, "--port", str(place.port))
    return Launch((*argv, "--client", client), version=", ".join(versions), environment=_OWN_CODE)


_NGINX_CONF = """\
daemon off;
{user}worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream engine {{ server {engine}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def _nginx(place: Place) -> Launch:
    found = shutil.which("nginx", path=f"{_PEERS}/peer-nginx/usr/sbin:{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise NotInstalledError(_HOW_TO_INSTALL)
    said = subprocess.run([found, "-v"], capture_output=True, text=True, check=True)
    config = place.folder / "nginx.conf"
    # Started by root, the workers would become `nobody` and could not write into the folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    engine = place.engine_url.removeprefix("http://")
    config.write_text(_NGINX_CONF.format(folder=place.folder, engine=engine, port=place.port, user=user))
    argv = (found, "-p", str(place.folder), "-e", "stderr", "-c", str(config))
    return Launch(argv, version=said.stderr.strip().rpartition("/")[2])


def _vllm_router(place: Place) -> Launch:
    folder = _PEERS / "peer-vllm-router"
    program = _installed(folder, "vllm-router")
    argv = (program, "--worker-urls", place.engine_url, "--host", "127.0.0.1", "--port", str(place.port))
    rest = ("--policy", "round_robin", "--log-level", "warning", "--prometheus-port", str(free_port()))
    return Launch((*argv, *rest), version=_version_in(folder, "vllm_router"))


def _litellm(place: Place) -> Launch:
    folder = _PEERS / "peer-litellm"
    program = _installed(folder, "litellm")
    config = place.folder / "litellm.yaml"
    engine = {"model": f"openai/{wire.MODEL}", "api_base": f"{place.engine_url}/v1", "api_key": "none"}
    document = {  # JSON is YAML
        "model_list": [{"model_name": wire.MODEL, "litellm_params": engine}],
        "general_settings": {"master_key": _KEY},
        "litellm_settings": {"telemetry": False},
    }
    config.write_text(json.dumps(document))
    argv = (program, "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port))
    return Launch(
        (*argv, "--num_workers", "1", "--telemetry", "False"),
        version=_version_in(folder, "litellm"),
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "DO_NOT_TRACK": "1"},
        key=_KEY,
        ready_timeout_s=180.0,
    )


def _installed(folder: Path, program: str) -> str:
    path = folder / "bin" / program
    if not path.exists():
        raise NotInstalledError(_HOW_TO_INSTALL)
    return str(path)


def _version_in(folder: Path, package: str) -> str:
    found = next(folder.glob(f"lib/python*/site-packages/{package}-*.dist-info"), None)
    return found.name.removesuffix(".dist-info").rpartition("-")[2] if found else ""


def free_port() -> int:
    """Return a port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


DIRECT = "direct"
TARGETS: Mapping[str, Callable[[Place], Launch]] = {
    "sparkstack": _sparkstack,
    "nginx": _nginx,
    "vllm-router": _vllm_router,
    "litellm": _litellm,
    "fastapi-aiohttp": partial(_bare_fastapi, client="aiohttp"),
    "fastapi-httpx": partial(_bare_fastapi, client="httpx"),
}
"""Every gateway by name; `direct` beside them means none."""
