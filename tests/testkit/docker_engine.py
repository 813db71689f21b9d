"""A real Docker engine for tests: the one that runs, or one that scripts beside the repository can start.

Where there is neither, tests that want one skip, and say so; where the scripts are there and fail, so do the tests.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

IMAGE = "python:3.11-slim-bookworm"
_REPOSITORY = Path(__file__).parents[2]
_SCRIPTS = _REPOSITORY.parent / "shared" / "workshop"
_PID_FILE = Path(os.environ.get("WORKSHOP") or Path.home() / ".cache" / "workshop") / "dockerd.pid"


@dataclass(frozen=True)
class DockerEngine:
    """An engine that answers, and the environment in which its command line finds it."""

    endpoint: str
    environment: dict[str, str]

    def docker(self, *arguments: str, cwd: Path | None = None, check: bool = True) -> str:
        """Run the command line and return what it said."""
        done = subprocess.run(
            ["docker", *arguments],
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"docker {' '.join(arguments)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout.strip()


@contextlib.contextmanager
def docker_engine() -> Iterator[DockerEngine]:
    """Give an engine that has IMAGE; one that was started for this is stopped after it."""
    engine = _running(dict(os.environ))
    started = engine is None and not _PID_FILE.exists()
    if engine is None:
        engine = _started()
    try:
        if engine is None:
            pytest.skip("optional: there is no Docker engine here, and none can be started")
        if not _has_image(engine):
            pytest.skip(f"optional: the image {IMAGE} is not here, and can't be had")
        yield engine
    finally:
        if started and engine is not None:
            subprocess.run(["bash", str(_SCRIPTS / "docker-engine.sh"), "stop"], timeout=120, check=False)


def _running(environment: dict[str, str]) -> DockerEngine | None:
    try:
        done = subprocess.run(
            ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        engine = DockerEngine(done.stdout.strip(), environment)
        return engine if done.returncode == 0 and _answers(engine) else None
    except (OSError, subprocess.TimeoutExpired):  # no command line; an engine that is stuck
        return None


def _answers(engine: DockerEngine) -> bool:
    return bool(engine.docker("version", "--format", "{{.Server.Version}}", check=False))


def _started() -> DockerEngine | None:
    script = _SCRIPTS / "docker-engine.sh"
    if not script.is_file() or os.getuid() != 0:
        return None
    done = subprocess.run(
        ["bash", "-c", f'set -e; exports=$(bash "{script}" start); eval "$exports"; env -0'],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{script} start: status {done.returncode}\n{done.stdout}{done.stderr}"
    return _running(dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line))


def _has_image(engine: DockerEngine) -> bool:
    if engine.docker("image", "inspect", IMAGE, check=False) not in ("", "[]"):
        return True
    script = _SCRIPTS / "base-image.sh"
    command = ["bash", str(script), IMAGE] if script.is_file() else ["docker", "pull", "--quiet", IMAGE]
    done = subprocess.run(command, env=engine.environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0 or not script.is_file(), f"{script}: {done.stdout}{done.stderr}"
    return done.returncode == 0
