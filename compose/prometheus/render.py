"""Render Prometheus' configuration from its template.

    python -m compose.prometheus.render                      write the two files of the tree again
    python -m compose.prometheus.render --stack .state/stack.json > prometheus.yml
                                                             for a stack whose ports were moved, as `up` has started it

The tree has one file for each way to run: `embedded` (everything on loopback) and `compose` (services by their names).
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from services.stack import SERVICES

FOLDER = Path(__file__).parent
TEMPLATE = FOLDER / "prometheus.template.yml"
RULES = FOLDER / "rules"
SCRAPED = ("gateway", "engines", "embeddings", "rag", "tracking")
PORTS = {"prometheus": 9090, "alertmanager": 9093}
WAYS = ("embedded", "compose")
_LOOPBACK = "127.0.0.1"
_EVERYWHERE = ("0.0.0.0", "::", "")  # noqa: S104 - not listened on: asked on loopback instead
# Beyond loopback the gateway's figures want its key, as its data does. Compose mounts it as a secret.
_KEY_FILE = "/run/secrets/sparkstack_api_key"
_MADE = "Made by `python -m compose.prometheus.render` from prometheus.template.yml: edit that."
_KEY = "\n    authorization:\n      credentials_file: {}"
# Of the host, in containers. Who isn't started has no name there, and is no target that is down.
_EXPORTERS = """

  # The host's memory, processors and disks; and its GPU, with the profile dcgm.
  - job_name: node
    dns_sd_configs:
      - {names: [node-exporter], type: A, port: 9100}

  - job_name: dcgm
    dns_sd_configs:
      - {names: [dcgm-exporter], type: A, port: 9400}"""


@dataclass(frozen=True)
class Rendering:
    """What the template is filled with.

    Args:
        addresses: host:port by name; of the services and of Prometheus and Alertmanager.
        rules: the folder of rules; relative to the configuration's own, or absolute.
        key_file: a file with the gateway's key; empty where it wants none.
        absent: services that this stack was started without: nobody is alarmed that they don't answer.
        exporters: those of the host and its GPU are containers beside it.
    """

    addresses: Mapping[str, str]
    rules: str = "rules"
    key_file: str = ""
    absent: frozenset[str] = frozenset()
    exporters: bool = False
    interval: str = "15s"
    timeout: str = "10s"


def addresses(way: str, ports: Mapping[str, int] | None = None) -> dict[str, str]:
    """Return where each service listens, by its name.

    Args:
        ports: those that were moved; the others are the table's.
    """
    known = {service.name: service.port for service in SERVICES if service.name in SCRAPED} | PORTS | dict(ports or {})
    return {name: f"{_LOOPBACK if way == 'embedded' else name}:{port}" for name, port in known.items()}


def render(rendering: Rendering) -> str:
    """Return the configuration's text."""
    key = _KEY.format(rendering.key_file) if rendering.key_file else ""
    found = rendering.addresses
    return Template(TEMPLATE.read_text()).substitute(
        {
            "made": _MADE,
            "rules": rendering.rules,
            "gateway_key": key,
            "exporters": _EXPORTERS if rendering.exporters else "",
            "interval": rendering.interval,
            "timeout": rendering.timeout,
            **found,
            **{f"{name}_target": f'"{where}"' if name not in rendering.absent else "" for name, where in found.items()},
        }
    )


def of_way(way: str) -> str:
    """Return the tree's configuration for a way to run."""
    composed = way == "compose"
    return render(Rendering(addresses(way), key_file=_KEY_FILE if composed else "", exporters=composed))


def of_stack(document: Mapping[str, Mapping[str, Mapping[str, str | int]]], key_file: str = "") -> str:
    """Return the configuration for a running stack, from what `up` wrote of it (`stack.json`).

    Args:
        key_file: a file with the gateway's key, which one that listens on no loopback address wants.
    """
    services = {name: row for name, row in document["services"].items() if name in SCRAPED}
    found = addresses("embedded", {name: int(row["port"]) for name, row in services.items()})
    found |= {name: f"{row['host']}:{row['port']}" for name, row in services.items() if row["host"] not in _EVERYWHERE}
    return render(Rendering(found, str(RULES), key_file, absent=frozenset(SCRAPED) - services.keys()))


def path_of(way: str) -> Path:
    """Return where the tree has the configuration for a way to run."""
    return FOLDER / f"prometheus.{way}.yml"


def main(arguments: list[str]) -> int:
    """Write the tree's files, or print a running stack's configuration."""
    parser = argparse.ArgumentParser(prog="compose.prometheus.render", description="Render Prometheus' configuration.")
    parser.add_argument("--stack", type=Path, help="the stack.json of a stack that runs; prints its configuration")
    parser.add_argument("--key-file", default="", help="file with the gateway's key, where it listens beyond loopback")
    chosen = parser.parse_args(arguments)
    if chosen.stack is not None:
        sys.stdout.write(of_stack(json.loads(chosen.stack.read_text()), chosen.key_file))
        return 0
    for way in WAYS:
        path_of(way).write_text(of_way(way))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
