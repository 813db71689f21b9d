"""Can this machine run the stack as containers? `up` looks before it pulls and builds, `doctor` explains."""

import json
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping

from services.cli.containers.containers import Container
from services.cli.containers.docker import ARCHITECTURES, Engine
from services.cli.containers.host import Host
from services.cli.findings import Finding, fail, ok, warn
from services.cli.home import Home
from services.cli.ports import IN_USE, why_taken
from services.cli.processes import holder_of
from services.stack import find_service

GUARD_UNIT = "sparkstack-guard.service"
SPARK_DRIVER = 580
"""DGX OS's branch, which engines' images for the Spark were built for."""

# Own images take 3 GB; a Spark's engine image some 25 GB more. Models come on top, by the recipes.
NEEDED_DISK_BYTES = {"cpu": 6_000_000_000, "spark": 40_000_000_000}
_FROZEN_TOOLKITS = ((1, 19, 1),)
"""Versions of NVIDIA's container toolkit that, with CDI, are reported to have frozen Sparks."""
_MOST_MIN_FREE_BYTES = 1 << 30
_PLAN_S = 60.0
_DOES_NOT_FIT = 3


def check_engine(engine: Engine) -> Iterator[Finding]:
    """Judge the container engine itself."""
    yield ok(f"Docker {engine.version} with compose {engine.compose} ({engine.operating_system or 'Linux'})")
    if engine.architecture not in ARCHITECTURES:
        yield fail(
            f"{engine.architecture}: the stack's images are made for amd64 and arm64 alone; MODE=embedded make up"
        )
    else:
        yield ok(f"images for {engine.platform}")
    if engine.remote:
        yield fail(
            "DOCKER_HOST names the engine of another machine, which does not see this folder's files; run `make up` "
            "there, or unset DOCKER_HOST"
        )


def check_boot(host: Host) -> Iterator[Finding]:
    """Say whether the stack comes back when the machine starts again; nothing where that is not systemd's."""
    state = host.unit_start("docker.service")
    if state in ("enabled", "static", "indirect", "enabled-runtime"):
        yield ok("Docker starts with the machine, and the stack's services with it")
    elif state:
        yield warn(
            f"Docker does not start with the machine ({state}), so the stack doesn't: sudo systemctl enable docker"
        )


def check_gpu(engine: Engine, host: Host, profile: str) -> Iterator[Finding]:
    """Judge what containers need to use a GPU of NVIDIA's; nothing where there is none and none is wanted."""
    if profile != "spark":
        if host.has_nvidia_device and not engine.has_nvidia:
            yield warn(f"this machine has an NVIDIA GPU that containers can't use: {_how_to_get_the_runtime()}")
        return
    if not engine.has_nvidia:
        yield fail(f"PROFILE=spark: Docker has no NVIDIA runtime; {_how_to_get_the_runtime()}, or PROFILE=cpu make up")
        return
    yield ok("Docker has the NVIDIA runtime")
    yield check_driver(host)
    yield from check_toolkit(host)
    if host.is_spark:
        yield from check_unified_memory(host)


def check_driver(host: Host) -> Finding:
    """Judge the version of NVIDIA's driver."""
    version = host.driver
    if not version:
        return fail("NVIDIA's driver is not loaded (no /proc/driver/nvidia/version); `nvidia-smi` says why")
    major = int(version.partition(".")[0])
    if major < SPARK_DRIVER:
        return fail(f"NVIDIA's driver is {version}; the engines' images need {SPARK_DRIVER} or later (CUDA 13)")
    if host.is_spark and major != SPARK_DRIVER:
        return warn(f"NVIDIA's driver is {version}; DGX OS's own branch, {SPARK_DRIVER}, is what Sparks are run with")
    return ok(f"NVIDIA's driver {version}")


def check_toolkit(host: Host) -> Iterator[Finding]:
    """Judge the version of NVIDIA's container toolkit, and whether CDI is on."""
    version = host.toolkit
    if not version:
        yield warn("`nvidia-ctk` is not on PATH: the version of NVIDIA's container toolkit is not known")
        return
    numbers = tuple(int(part) for part in version.split("."))
    cdi = host.cdi_files
    if host.is_spark and numbers >= min(_FROZEN_TOOLKITS) and cdi:
        yield warn(
            f"NVIDIA's container toolkit {version} with CDI on ({cdi[0]}): reported to have frozen Sparks, 1.19.0 "
            f"without CDI was stable; `sudo mv {cdi[0]} /root/` and `sudo systemctl restart docker` switch it off"
        )
    else:
        yield ok(f"NVIDIA's container toolkit {version}{', CDI on' if cdi else ''}")


def check_unified_memory(host: Host) -> Iterator[Finding]:
    """Judge what freezes a machine whose GPU shares the host's memory."""
    free, available = host.memory("MemFree"), host.memory("MemAvailable")
    if available - free > free:
        yield warn(
            f"{free / 2**30:.0f} GiB of memory are free and {available / 2**30:.0f} GiB available: CUDA counts free "
            "pages alone; `sudo scripts/spark/flush-caches.sh` gives the page cache back before an engine loads"
        )
    if host.min_free_bytes > _MOST_MIN_FREE_BYTES:
        yield warn(
            f"vm.min_free_kbytes is {host.min_free_bytes // 1024}: vLLM's check at its start fails with it raised; "
            "set it back to the system's default"
        )
    state = host.unit_state(GUARD_UNIT)
    if state == "active":
        yield ok(f"{GUARD_UNIT} is active")
    else:
        yield warn(
            f"{GUARD_UNIT} is {state or 'not there'}: it gives the page cache back while an engine loads; "
            "`sudo scripts/spark/guard-service.sh install` installs it"
        )


def check_disk(engine: Engine, profile: str, missing_images: Collection[str]) -> Finding:
    """Judge the room for images, where there are any to get."""
    root = next(folder for folder in (engine.root, *engine.root.parents) if folder.is_dir())
    free = shutil.disk_usage(root).free
    text = f"{free / 1e9:.0f} GB free for images and volumes at {root}"
    needed = NEEDED_DISK_BYTES[profile]
    if not missing_images or free >= needed:
        return ok(text)
    return fail(
        f"{text}; the images that are missing need up to {needed / 1e9:.0f} GB. Free some (`docker system df` shows "
        "what Docker holds, `docker image prune` removes what nothing uses)"
    )


def check_ports(
    published: Iterable[tuple[str, str, int, int]], containers: Mapping[str, Container]
) -> Iterator[Finding]:
    """Judge each port of this machine that a container is to publish."""
    held = {port for container in containers.values() for _, port in container.ports.values()}
    for service, host, port, inside in published:
        reason = "" if port in held else why_taken(host, port)
        if not reason:
            yield ok(f"port {port} is {'held by' if port in held else 'free for'} {service}")
        elif reason == IN_USE:
            yield fail(f"port {port} is taken by {holder_of(port)}; stop it, or set {_variable(service, inside)}")
        else:
            yield fail(f"{service} can't be published on {host}:{port}: {reason}; set {_variable(service, inside)}")


def check_memory_plan(home: Home, models: str) -> Iterator[Finding]:
    """Judge whether the models that are to be loaded at the start fit on this machine; nothing where none is named."""
    names = [name.strip() for name in models.split(",") if name.strip()]
    if not names:
        return
    command = [sys.executable, "-m", "services.cli.main", "plan", "--json", *names]
    try:
        done = subprocess.run(command, cwd=home.code, capture_output=True, text=True, timeout=_PLAN_S, check=False)
    except subprocess.TimeoutExpired:
        yield warn(f"the memory plan of {', '.join(names)} was not made within {_PLAN_S:.0f} s")
        return
    if done.returncode == _DOES_NOT_FIT:
        yield fail(
            f"MODELS={models}: they do not fit on this machine side by side; `sparkstack plan {' '.join(names)}`"
        )
    elif done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was given"]
        yield fail(f"MODELS={models}: {lines[-1].removeprefix('Error: ')}")
    else:
        found = json.loads(done.stdout)
        yield ok(
            f"MODELS={models} fit: {found['total_gib']} of {found['available_gib']} GiB, the host's reserve included"
        )


def check_platforms(images: Mapping[str, str], engine: Engine) -> Iterator[Finding]:
    """Judge images that are here and were made for another kind of machine.

    Args:
        images: platform, such as `linux/arm64`, by image.
    """
    for image, platform in images.items():
        if platform and platform != engine.platform:
            yield fail(f"{image} here is for {platform}, this machine is {engine.platform}; docker rmi {image}")


def _variable(service: str, inside: int) -> str:
    """Return the variable that moves a published port."""
    row = find_service(service)
    if row is not None and inside != row.port:
        return "GATEWAY_OLLAMA_PORT"
    return row.port_variable if row is not None else f"{service.upper().replace('-', '_')}_PORT"


def _how_to_get_the_runtime() -> str:
    return "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
