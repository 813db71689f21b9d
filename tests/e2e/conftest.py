"""A whole stack of one's own: its folders in tmp_path, its ports free, everything ended when the test ends.

Each test runs in both modes, as processes (`[embedded]`) and as containers (`[compose]`, marked `containers`), but for
those that say otherwise by `@pytest.mark.only("embedded")`.
"""

from collections.abc import Iterator

import pytest

from services.cli.home import Home
from tests.containers.conftest import build
from tests.e2e.stacks import REPOSITORY, ContainerStack, Stack
from tests.testkit.docker_engine import DockerEngine, docker_engine

MODES = ("embedded", "compose")


def pytest_configure(config: pytest.Config) -> None:
    """Know the mark by which a test says in which modes it makes sense."""
    config.addinivalue_line("markers", "only(mode, …): the modes in which a test of the whole stack makes sense")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that has a stack in each mode."""
    if "mode" in metafunc.fixturenames:
        chosen = metafunc.definition.get_closest_marker("only")
        in_containers = (pytest.mark.containers, pytest.mark.timeout(900))
        modes = [
            pytest.param(mode, marks=in_containers if mode == "compose" else ())
            for mode in (chosen.args if chosen else MODES)
        ]
        metafunc.parametrize("mode", modes)


@pytest.fixture(scope="session")
def images() -> Iterator[DockerEngine]:
    """A Docker engine that has the stack's images, of the code as it is."""
    with docker_engine() as engine:
        build(engine)
        yield engine


@pytest.fixture
def new_stack(tmp_path, mode, request):
    """A function that makes a stack, of a folder's name and variables."""
    stacks = []
    engine = request.getfixturevalue("images") if mode == "compose" else None

    def make(folder="project", **variables) -> Stack:
        root = tmp_path / folder
        root.mkdir()
        home = Home(REPOSITORY, root, (root / ".state").resolve())
        made = Stack(home, variables) if engine is None else ContainerStack(home, variables, engine)
        stacks.append(made)
        return made

    yield make
    for stack in stacks:
        stack.end()


@pytest.fixture
def stack(new_stack):
    return new_stack()
