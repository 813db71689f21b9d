"""Recipe → the service of a compose file that makes its engine's container.

The container is created and not started: profiles keep it out of `up`, and the service `engines` starts it by Docker's
interface. So nothing here says when it runs, and Docker must not start it again by itself.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from services.engines.loading.containers import CPU_IMAGE_VARIABLE, MODELS, instance_name
from services.engines.recipes import EngineName, Recipe
from services.engines.rendering import PORTS, Rendered, model_in_container, render, targets
from services.engines.runtimes import LaunchSpec
from services.engines.runtimes.docker import FILES_LABEL, INSTANCE_LABEL, PROJECT_LABEL

SPARK_IMAGE = "vllm/vllm-openai:v0.28.0"
"""The image whose engines the profile `spark` brings: one image of vLLM's is 20 GB, and most recipes take this one."""
CPU_IMAGE = f"${{{CPU_IMAGE_VARIABLE}:-sparkstack/llamacpp:${{SPARKSTACK_VERSION:-0.1.0}}}}"
"""llama.cpp on a CPU: our own image, which takes the options of llama.cpp's own and is built from the lock."""
_FILES = "engines"
_HUB_CACHE = MODELS / "huggingface" / "hub"
_HEALTH = "import urllib.request as r; r.urlopen('http://127.0.0.1:{port}{path}', timeout=5)"

HEADER = """\
# Made by `python -m compose.engines` from the recipes in services/engines/models: edit these.
#
# Each container is created by `docker compose --profile PROFILE create`, and started and stopped by the service
# `engines` alone. Profiles: `cpu`; `spark` (the models of one vLLM image, and the small model on the CPU); `vllm`,
# `sglang`, `trtllm`, `llamacpp`, `ollama` (all models of an engine); and each container's own name.

x-engine: &engine
  restart: "no"
  stop_grace_period: 30s
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  # Where memory runs out, an engine goes first.
  oom_score_adj: 800
  networks: [engines]
  logging: {driver: json-file, options: {max-size: 10m, max-file: "3"}}

x-cpu: &cpu
  <<: *engine
  user: "10001:10001"
  read_only: true
  tmpfs: ["/tmp:rw,nosuid,nodev,noexec,size=256m,mode=1777"]

# No memory limit: it would not bound what the driver takes, and unified memory is the machine's. Admission is what
# keeps the machine alive. Root, and a writable layer: these images compile kernels into places of their own.
x-gpu: &gpu
  <<: *engine
  # They are many processes; what one leaves behind is somebody's to reap.
  init: true
  deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]}}}

"""

_OWN_HEADER = "# Made by `sparkstack recipe compose` from recipes of your own.\n\n"


@dataclass(frozen=True)
class ComposeEngine:
    """One engine's service, and the files beside the compose file that it mounts.

    Args:
        files: name, relative to the compose file → text.
    """

    name: str
    document: dict[str, Any]
    gpu: bool
    configs: dict[str, str]
    files: dict[str, str]


def compose_engine(recipe: Recipe, engine: EngineName) -> ComposeEngine:
    """Return the service of one recipe on one engine.

    Raises:
        RenderError
    """
    name = instance_name(engine, recipe)
    rendered = render(recipe, engine, "compose", port=PORTS[engine], model=model_in_container(recipe))
    own = engine == "llamacpp" and not rendered.gpu
    configs = {f"{name}-{number}": path for number, path in enumerate(rendered.files)}
    document = {
        "image": CPU_IMAGE if own else rendered.image,
        "profiles": profiles(engine, rendered, name),
        "command": [_escaped(word) for word in rendered.command],
        "environment": {key: _escaped(value) for key, value in sorted(_environment(rendered).items())},
        "labels": _labels(name, rendered),
        **({"configs": [{"source": key, "target": path} for key, path in configs.items()]} if configs else {}),
        "volumes": list(_mounts(rendered)),
        **({"cap_add": list(rendered.cap_add)} if rendered.cap_add else {}),
        **({"ipc": "host"} if rendered.ipc_host else {}),
        **({"shm_size": rendered.shm_bytes} if rendered.shm_bytes else {}),
        **({"ulimits": dict(rendered.ulimits)} if rendered.ulimits else {}),
        "healthcheck": _healthcheck(engine, rendered, own=own),
    }
    files = {f"{_FILES}/{key}.yaml": text for key, text in zip(configs, rendered.files.values(), strict=True)}
    return ComposeEngine(name, document, rendered.gpu, {key: f"{_FILES}/{key}.yaml" for key in configs}, files)


def compose_engines(recipes: Iterable[Recipe]) -> list[ComposeEngine]:
    """Return a service for each recipe and engine that has an image.

    Raises:
        RenderError
    """
    return [
        compose_engine(recipe, engine)
        for recipe in recipes
        for engine in recipe.engines
        if "compose" in targets(recipe, engine)
    ]


def profiles(engine: EngineName, rendered: Rendered, name: str) -> list[str]:
    """Return the profiles that create a container: its own name is always one."""
    if not rendered.gpu:
        return ["cpu", "spark", name]
    return [*(["spark"] if rendered.image == SPARK_IMAGE else []), engine, name]


def compose_text(engines: Iterable[ComposeEngine]) -> str:
    """Return the compose file of these engines, with the networks and volumes that they have."""
    listed = list(engines)
    configs = {key: {"file": path} for each in listed for key, path in each.configs.items()}
    volumes = {volume: {"labels": {"sparkstack.volume": "cache"}} for volume in _volumes(listed)}
    rest = {
        **({"configs": configs} if configs else {}),
        "networks": {"engines": {"internal": True}},
        "volumes": volumes,
    }
    return f"{HEADER}services:\n{_services(listed)}\n\n{_dumped(rest)}\n"


def own_compose_text(engines: Iterable[ComposeEngine], recipes: Path) -> str:
    """Return an overlay with a user's own engines.

    Args:
        recipes: the folder of their recipes, which the service `engines` is to see.
    """
    mount = {
        "type": "bind",
        "source": str(recipes.absolute()),
        "target": "/var/lib/sparkstack/recipes",
        "read_only": True,
        "bind": {"create_host_path": False},
    }
    anchors = HEADER.partition("\n\n")[2]
    shown = _indented(_dumped({"engines": {"volumes": [mount]}}), 2)
    # In place of a container of the stack's own recipe of the same id, not added to it; networks and volumes are there.
    return f"{_OWN_HEADER}{anchors}services:\n{shown}\n{_services(engines, tag=' !override')}\n"


def _services(engines: Iterable[ComposeEngine], tag: str = "") -> str:
    return "\n".join(
        f"  {each.name}:{tag}\n    <<: *{'gpu' if each.gpu else 'cpu'}\n{_indented(_dumped(each.document), 4)}"
        for each in engines
    )


def _environment(rendered: Rendered) -> dict[str, str]:
    # Weights are where the service `engines` puts them, for engines to read and not to write; what a library of the
    # hub keeps beside them (modules of remote code) goes to a volume of its own.
    hub = {"HF_HUB_CACHE": str(_HUB_CACHE)} if "huggingface" in rendered.volumes else {}
    return {**rendered.environment, **hub}


def _labels(name: str, rendered: Rendered) -> dict[str, str]:
    spec = LaunchSpec(name, "", "", (), 0, files=rendered.files)
    project = {PROJECT_LABEL: "${COMPOSE_PROJECT_NAME:-sparkstack}", INSTANCE_LABEL: name}
    return {**project, **({FILES_LABEL: spec.files_digest} if rendered.files else {})}


def _mounts(rendered: Rendered) -> Iterator[dict[str, Any]]:
    if {"models", "huggingface"} & rendered.volumes.keys():
        # Nothing of an image's own folder is copied into the volume: `engines` owns it.
        yield {
            "type": "volume",
            "source": "models",
            "target": str(MODELS),
            "read_only": True,
            "volume": {"nocopy": True},
        }
    for volume, folder in sorted(rendered.volumes.items()):
        if volume != "models":
            yield {"type": "volume", "source": volume, "target": folder}


def _healthcheck(engine: EngineName, rendered: Rendered, *, own: bool) -> dict[str, Any]:
    """Return what Docker shows of an engine; the service `engines` judges by tokens, not by this."""
    times = {"interval": "60s", "timeout": "10s", "retries": 3, "start_period": f"{rendered.start_period_s}s"}
    if own or engine == "llamacpp":
        return times  # the image's own
    if engine == "ollama":
        return {"test": ["CMD", "ollama", "list"], **times}
    code = _HEALTH.format(port=rendered.port, path=rendered.health_path)
    return {"test": ["CMD", "python3", "-c", code], **times}


def _volumes(engines: Iterable[ComposeEngine]) -> list[str]:
    return sorted({mount["source"] for each in engines for mount in each.document["volumes"]})


def _escaped(text: str) -> str:
    return text.replace("$", "$$")


def _dumped(document: Mapping[str, Any]) -> str:
    text: str = yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    return text.rstrip("\n")


def _indented(text: str, spaces: int) -> str:
    return "\n".join(f"{' ' * spaces}{line}" for line in text.splitlines())


class _Dumper(yaml.SafeDumper):
    """Indents lists, and quotes what another reader of YAML could take for something else than text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = value and not value.startswith("-") and not any(sign in value for sign in "{}[]\"'#&*!|>%@`,")
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else "'")


_Dumper.add_representer(str, _text)
