"""Recipe → a compose file with which two DGX Sparks hold one model together: half of every layer each, by RDMA.

It is a project of its own on each machine, started by hand: the service `engines` looks after one machine. It was not
run by us; what it sets is from NVIDIA's instructions for two Sparks and from owners' reports (docs/spark.md).
"""

import yaml

from services.engines.recipes import Recipe
from services.engines.rendering import PORTS, Rendered, model_in_container, render

NODES = 2
MASTER_PORT = 29501
# Docker's own bridge: containers of this machine reach it, other machines don't.
_LISTEN = "${DUAL_SPARK_LISTEN:-172.17.0.1}"
_HEAD = "${DUAL_SPARK_HEAD:?the address of the first Spark on the cable between them}"

_HEADER = """\
# Made by `python -m compose.engines` from the recipe {recipe}: edit that.
#
# Two Sparks, joined by their ConnectX ports, hold one model. On both, in the folder of the project:
#
#     export DUAL_SPARK_HEAD=192.168.100.10 DUAL_SPARK_KEY=...      the first one's address on the cable; any long word
#     docker compose -f compose/dual-spark/compose.yaml --profile worker up -d      on the second, first
#     docker compose -f compose/dual-spark/compose.yaml --profile head up -d        on the first
#
# then, on the first, `PROFILES=dual-spark make up`: the gateway has it as the backend `dual-spark`. docs/spark.md.
name: sparkstack-dual

x-node: &node
  image: {image}
  # RDMA between the machines takes the host's network, its devices and locked memory.
  privileged: true
  network_mode: host
  ipc: host
  init: true
  restart: "no"
  stop_grace_period: 30s
  shm_size: {shm}
  ulimits: {{memlock: -1, stack: 67108864}}
  deploy: {{resources: {{reservations: {{devices: [{{driver: nvidia, count: 1, capabilities: [gpu]}}]}}}}}}
  logging: {{driver: json-file, options: {{max-size: 10m, max-file: "3"}}}}
  environment:
    VLLM_API_KEY: ${{DUAL_SPARK_KEY:?any long word, the same on both}}
    NCCL_SOCKET_IFNAME: ${{DUAL_SPARK_INTERFACE:-enp1s0f0np0}}
    GLOO_SOCKET_IFNAME: ${{DUAL_SPARK_INTERFACE:-enp1s0f0np0}}
    NCCL_IB_HCA: ${{DUAL_SPARK_HCA:-rocep1s0f0,roceP2p1s0f0}}
{environment}
  volumes:
    # The stack's own volumes: what `sparkstack pull` has fetched there.
    - {{type: volume, source: models, target: /models, read_only: true, volume: {{nocopy: true}}}}
{volumes}

services:
"""


def dual_spark_text(recipe: Recipe) -> str:
    """Return the compose file that serves a recipe by vLLM on two Sparks.

    Raises:
        RenderError
    """
    rendered = render(
        recipe,
        "vllm",
        "compose",
        port=PORTS["vllm"],
        model=model_in_container(recipe),
        served_name=f"{recipe.id}@dual-spark",  # one of the two may be loaded on this machine alone, too
    )
    environment = {**rendered.environment, "HF_HUB_CACHE": "/models/huggingface/hub"}
    caches = {name: folder for name, folder in sorted(rendered.volumes.items()) if name != "models"}
    header = _HEADER.format(
        recipe=recipe.id,
        image=rendered.image,
        shm=rendered.shm_bytes,
        environment="\n".join(f"    {name}: {_word(value)}" for name, value in sorted(environment.items())),
        volumes="\n".join(f"    - {name}:{folder}" for name, folder in caches.items()),
    )
    nodes = "".join(_node(name, rank, rendered) for rank, name in enumerate(("head", "worker")))
    return header + nodes + _volumes(["models", *caches])


def _node(name: str, rank: int, rendered: Rendered) -> str:
    words = [_LISTEN if word == "0.0.0.0" else word for word in rendered.command]  # noqa: S104
    parallel = {
        "tensor-parallel-size": NODES,
        "nnodes": NODES,
        "node-rank": rank,
        "master-addr": _HEAD,
        "master-port": MASTER_PORT,
    }
    words += [word for option, value in parallel.items() for word in (f"--{option}", str(value))]
    words += ["--headless"] if rank else []
    listed = "\n".join(f"      - {_word(word)}" for word in words)
    return f"  {name}:\n    <<: *node\n    profiles: [{name}]\n    command:\n{listed}\n"


def _volumes(names: list[str]) -> str:
    # Those of the stack, whatever this project is called.
    lines = [f"  {name}: {{name: '${{COMPOSE_STACK:-sparkstack}}_{name}', external: true}}" for name in names]
    return "\nvolumes:\n" + "\n".join(lines) + "\n"


def _word(text: str) -> str:
    """Return a word as YAML text, whatever is in it; of the environment's variables nothing but ours are meant."""
    escaped = text if text in (_LISTEN, _HEAD) else text.replace("$", "$$")
    dumped: str = yaml.safe_dump(escaped, default_style="'", width=10_000, allow_unicode=True)
    return dumped.strip()
