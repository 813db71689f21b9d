"""`sparkstack doctor` with containers: the engine, the GPU, room, ports, images, and how each container is."""

from collections.abc import Iterator, Mapping

import click

from services.cli.containers.checks import (
    check_boot,
    check_disk,
    check_engine,
    check_gpu,
    check_memory_plan,
    check_platforms,
    check_ports,
)
from services.cli.containers.containers import find_containers
from services.cli.containers.host import Host
from services.cli.containers.images import is_own, look_at, platform_of, stale
from services.cli.containers.status import read_container_status
from services.cli.containers.up import make_plan
from services.cli.doctor import services_of
from services.cli.findings import Finding, fail, ok, warn
from services.cli.home import Home
from services.cli.modes import Mode


def examine_containers(home: Home, mode: Mode, variables: Mapping[str, str]) -> Iterator[Finding]:
    """Yield what is found."""
    docker, engine = mode.docker, mode.engine
    assert docker is not None
    assert engine is not None
    yield from check_engine(engine)
    try:
        plan = make_plan(home, docker, engine, variables)
    except click.ClickException as error:
        yield fail(error.message)
        return
    yield ok(f"profile {plan.profile}: {', '.join(plan.config.core)}")
    host = Host(variables=variables)
    yield from check_boot(host)
    yield from check_gpu(engine, host, plan.profile)
    images = plan.config.images()
    here = look_at(docker, images)
    yield check_disk(engine, plan.profile, [image for image in images if image not in here])
    yield from check_platforms({name: platform_of(document) for name, document in here.items()}, engine)
    yield from check_images(images, here, stale(home, images, here))
    containers = find_containers(docker, plan.project.name)
    yield from check_ports(plan.config.published(), containers)
    yield from check_memory_plan(home, variables.get("MODELS", ""))
    if any(container.is_up for container in containers.values()):
        yield from services_of(read_container_status(home))
    else:
        yield warn("nothing is running; `make up` starts it")


def check_images(images: list[str], here: Mapping[str, object], old: list[str]) -> Iterator[Finding]:
    """Say which images `up` is going to get."""
    build = [image for image in old if is_own(image)]
    pull = [image for image in images if image not in here and not is_own(image)]
    if build:
        yield warn(f"to be built of this folder's code: {', '.join(build)}; `make up` does")
    if pull:
        yield warn(f"to be pulled: {', '.join(pull)}; `make up` does")
    if not build and not pull:
        yield ok(f"all {len(images)} images are here")
