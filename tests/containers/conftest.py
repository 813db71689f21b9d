"""A Docker engine, the stack's images on it, and at the end a list of what stood in for what."""

import os
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.containers.boxes import Boxes
from tests.containers.dockerfiles import IMAGES, ROOT, images
from tests.testkit.docker_engine import DockerEngine, docker_engine

_NOTES = pytest.StashKey[list[str]]()
_STAND_IN = "stand-in"


def pytest_configure(config: pytest.Config) -> None:
    """Begin the list of what is not as a user has it."""
    config.stash[_NOTES] = []


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """A function that notes what was replaced or left out: it stands in capitals at the end of the run."""
    notes = pytestconfig.stash[_NOTES]

    def note(text: str) -> None:
        if text not in notes:
            notes.append(text)

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was replaced, and what was left out for which reason."""
    notes = [*config.stash[_NOTES], *skipped(terminalreporter)]
    if notes:
        terminalreporter.section("REPLACED OR LEFT OUT IN CONTAINERS", sep="!", yellow=True)
        for note in notes:
            terminalreporter.write_line(f"- {note}")


def skipped(terminalreporter: pytest.TerminalReporter) -> list[str]:
    """Return why tests in containers were skipped, and how many for each reason."""
    reports = [report for report in terminalreporter.stats.get("skipped", []) if "containers" in report.keywords]
    reasons = Counter(report.longrepr[2] if isinstance(report.longrepr, tuple) else "?" for report in reports)
    return [f"{count} tests were left out: {reason.removeprefix('Skipped: ')}" for reason, count in reasons.items()]


@pytest.fixture(scope="session")
def engine(tell: Callable[[str], None]) -> Iterator[DockerEngine]:
    """The Docker that runs, or one that is started for these tests."""
    with docker_engine() as running:
        said = running.docker("image", "inspect", "--format", "{{.Comment}}", images.base())
        if _STAND_IN in said:
            tell(f"the base image {images.base()}: {said}")
        yield running


@pytest.fixture(scope="session")
def built(engine: DockerEngine) -> dict[str, str]:
    """The stack's images, built: tags by name. Layers of earlier builds are used."""
    build(engine)
    return {name: image.tag for name, image in IMAGES.items()}


def build(engine: DockerEngine, *arguments: str, root: Path = ROOT) -> None:
    """Build as `make images` does."""
    done = subprocess.run(
        [sys.executable, str(root / "scripts" / "images.py"), "build", *arguments],
        env=engine.environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


@pytest.fixture
def boxes(engine: DockerEngine) -> Iterator[Boxes]:
    """Containers of this test alone, in a network of their own that leads nowhere; removed at its end."""
    these = Boxes(engine, f"sparkstack-test-{os.getpid()}-{uuid.uuid4().hex[:6]}")
    try:
        yield these
    finally:
        these.remove()
