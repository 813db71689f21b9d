"""Docker volumes as tar files, and back.

Docker itself reads and writes them, through a container that is created and never started: no program runs on the
data, whichever user it belongs to, and any image will do.
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from services.cli.containers.containers import PROJECT_LABEL
from services.cli.containers.docker import Docker, DockerError
from services.cli.keeping.backup_folder import BackupError

VOLUME_LABEL = "com.docker.compose.volume"
CACHE_LABEL = "sparkstack.volume"
_INSIDE = "volume"
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Volume:
    """One named volume of a project.

    Args:
        key: its name in the compose file.
        is_cache: what is in it can be got again.
    """

    name: str
    key: str
    labels: dict[str, str]

    @property
    def is_cache(self) -> bool:
        """Whether what is in it can be got again."""
        return self.labels.get(CACHE_LABEL) == "cache"


def find_volumes(docker: Docker, project: str) -> list[Volume]:
    """Return the volumes of a project, by name.

    Raises:
        DockerError: the engine does not answer.
    """
    names = docker.ask("volume", "ls", "--quiet", "--filter", f"label={PROJECT_LABEL}={project}").split()
    if not names:
        return []
    documents = json.loads(docker.ask("volume", "inspect", *names))
    found = [_volume(document["Name"], document.get("Labels") or {}) for document in documents]
    return sorted(found, key=lambda volume: volume.name)


def save(docker: Docker, volume: Volume, image: str, file: BinaryIO) -> None:
    """Write a volume's content, with its owners and modes.

    Args:
        image: any that is here; nothing of it is run.

    Raises:
        BackupError: Docker can't read it.
    """
    with _holder(docker, volume.name, image, read_only=True) as container:
        command = [docker.program, "cp", "--archive", f"{container}:/{_INSIDE}", "-"]
        with subprocess.Popen(
            command, env=dict(docker.variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            while piece := process.stdout.read(_PIECE_BYTES):
                file.write(piece)
            problem = process.stderr.read().decode("utf-8", "replace").strip()
        if process.returncode:
            raise BackupError(f"the volume {volume.name} can't be read: {problem}")


def put_back(docker: Docker, volume: Volume, image: str, archive: Path) -> None:
    """Replace a volume by what a tar file holds; no container may use it.

    Raises:
        BackupError: Docker can't write it.
    """
    try:
        docker.ask("volume", "rm", "--force", volume.name)
        labels = [word for name, value in volume.labels.items() for word in ("--label", f"{name}={value}")]
        docker.ask("volume", "create", *labels, volume.name)
    except DockerError as error:
        raise BackupError(f"the volume {volume.name} can't be replaced: {error.message}") from None
    with _holder(docker, volume.name, image, read_only=False) as container, archive.open("rb") as file:
        done = subprocess.run(
            [docker.program, "cp", "-", f"{container}:/"], env=dict(docker.variables), stdin=file, capture_output=True,
            check=False,
        )  # fmt: skip
    if done.returncode:
        problem = done.stderr.decode("utf-8", "replace").strip()
        raise BackupError(f"the volume {volume.name} can't be written: {problem}")


@contextlib.contextmanager
def _holder(docker: Docker, volume: str, image: str, *, read_only: bool) -> Iterator[str]:
    """Give a container that is never started, through which Docker reaches the volume."""
    # Content of the image is not copied into the volume: it would be taken for the user's.
    mount = f"type=volume,source={volume},target=/{_INSIDE},volume-nocopy"
    mount += ",readonly" if read_only else ""
    container = docker.ask(
        "create", "--pull", "never", "--network", "none", "--label", "sparkstack.keeping=1", "--mount", mount, image,
        "true",
    )  # fmt: skip
    try:
        yield container
    finally:
        docker.run("rm", "--force", "--volumes", container)


def _volume(name: str, labels: dict[str, str]) -> Volume:
    return Volume(name, labels.get(VOLUME_LABEL, name), labels)
