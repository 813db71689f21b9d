"""One engine at a time: started once a session, asked everything, ended."""

import json
import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from tests.conformance import matrix
from tests.conformance.checks import CHECKS
from tests.conformance.engines import SETUPS, need, place
from tests.conformance.subject import Place, Subject, subject_of
from tests.testkit.server import in_thread

RESULTS = "CONFORMANCE_RESULTS"
"""A folder to write what came out into, a file an engine: docs/engine-matrix.md is made from these."""
MARKS = {"fake": (), "llamacpp": (pytest.mark.slow,)}
_outcomes: dict[str, dict[str, str]] = {}
_places: dict[str, Place] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask every check of every engine."""
    if "running" in metafunc.fixturenames:
        engines = [pytest.param(name, marks=MARKS.get(name, (pytest.mark.engines,)), id=name) for name in SETUPS]
        metafunc.parametrize("running", engines, indirect=True, scope="session")
        metafunc.parametrize("check", list(CHECKS.values()), ids=list(CHECKS))


@pytest.fixture(scope="package", autouse=True)
def quiet_log() -> Iterator[None]:
    """Log warnings alone: a request's line comes after its answer, when pytest may no longer capture its test."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Run an engine and a gateway, in a thread of their own."""
    need(request.param)
    with in_thread(place(request.param, tmp_path_factory.mktemp(request.param))) as found:
        _places[request.param] = found
        yield found
    _write(request.param)


@pytest.fixture
async def subject(running: Place) -> AsyncIterator[Subject]:
    """Give what a check is asked of."""
    async with subject_of(running) as found:
        yield found


def note(place: Place, name: str, outcome: str) -> None:
    """Write down what came out."""
    _outcomes.setdefault(place.name, {})[name] = outcome


def _write(name: str) -> None:
    """Bring an engine's file of results up to date; a run of a part of the checks keeps the others of that version."""
    folder = os.environ.get(RESULTS)
    if not folder or name not in _outcomes:
        return
    path, place = Path(folder) / f"{name}.json", _places[name]
    about = {"engine": name, "version": place.version, "model": place.model}
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    known = before["checks"] if about.items() <= before.items() else {}
    found = {**known, **_outcomes[name]}
    document = {**about, "checks": {check: found[check] for check in CHECKS if check in found}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the matrix of what was asked."""
    if _outcomes:
        terminalreporter.section("engines and the wire contract")
        for line in matrix.table(_outcomes):
            terminalreporter.line(line)
