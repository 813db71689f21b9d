"""What the engines service writes down, so that its next start knows what an earlier one has left.

Two files: the engines that run, with their addresses and keys, and the one that is being loaded. A load that is still
written down when the machine has booted again was the last thing that it did.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from services.kit.files import read_json, write_json

_log = structlog.get_logger("engines")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Running:
    """One engine that runs.

    Args:
        taken: bytes by which available memory fell when it was loaded.
        digest: of the command line that it was started with; with another one it is started anew.
    """

    model: str
    instance: str
    engine: str
    port: int
    api_key: str
    taken: int
    digest: str
    on_gpu: bool | None = None


class Journal:
    """The two files in a folder; what can't be read counts as not written."""

    def __init__(self, folder: Path, boot_id: Path = _BOOT_ID) -> None:
        self._folder = folder
        self._boot_id = boot_id

    def running(self) -> list[Running]:
        """Return the engines that ran when this was last written."""
        engines = self._read("running.json").get("engines")
        found = (_running(item) for item in engines) if isinstance(engines, list) else ()
        return [engine for engine in found if engine is not None]

    def write_running(self, engines: list[Running]) -> None:
        """Write down what runs."""
        self._write("running.json", {"engines": [asdict(engine) for engine in engines]})

    def begin_load(self, model: str) -> None:
        """Write down, to the disk itself, that a model is about to be loaded."""
        self._write("loading.json", {"model": model, "boot": self._boot()})
        os.sync()  # a frozen host must find it

    def end_load(self) -> None:
        """Forget it: the load has ended, in whatever way."""
        try:
            (self._folder / "loading.json").unlink(missing_ok=True)
        except OSError as error:
            _log.error("journal.not_written", file="loading.json", reason=str(error))

    def unfinished_load(self) -> str | None:
        """Return the model that was being loaded when the machine stopped; None where it ended in order."""
        document = self._read("loading.json")
        model = document.get("model")
        stopped = document.get("boot") != self._boot()
        return model if isinstance(model, str) and stopped else None

    def _boot(self) -> str:
        try:
            return self._boot_id.read_text(encoding="ascii").strip()
        except OSError:  # no Linux
            return ""

    def _read(self, name: str) -> dict[str, Any]:
        return read_json(self._folder / name)

    def _write(self, name: str, document: Any) -> None:
        try:
            write_json(self._folder / name, document)
        except OSError as error:  # a full disk: what runs goes on, the next start knows less
            _log.error("journal.not_written", file=name, reason=str(error))


def _running(item: Any) -> Running | None:
    try:
        engine = Running(**item)
    except TypeError:
        return None
    texts = (engine.model, engine.instance, engine.engine, engine.api_key, engine.digest)
    known = all(isinstance(text, str) for text in texts) and isinstance(engine.on_gpu, bool | None)
    return engine if known and isinstance(engine.port, int) and isinstance(engine.taken, int) else None
