"""`aliases.json`: names that `sparkstack promote` gives to models, read from the background whenever it changes.

    {"aliases": {"production": "<model id>"}, …}

What else stands in it is the verb's own. A name of the settings (GATEWAY_ALIASES) wins over one of the file.
"""

import asyncio
import contextlib
import json
from pathlib import Path

import structlog

from services.gateway.catalogue import Catalogue
from services.gateway.metrics import GatewayMetrics

_log = structlog.get_logger("aliases")
_INTERVAL_S = 1.0
_MOST_BYTES = 16_000_000

_Signature = tuple[int, int, int]


class AliasFile:
    """Keeps the catalogue's promoted names as the file has them.

    A file that can't be read, or is none, leaves the names as they were, is logged and counted once for each state of
    it. Where there is no file there are no names. No request ever waits for it.
    """

    def __init__(
        self, path: Path, catalogue: Catalogue, metrics: GatewayMetrics, *, interval_s: float = _INTERVAL_S
    ) -> None:
        self._path = path
        self._catalogue = catalogue
        self._metrics = metrics
        self._interval_s = interval_s
        self._seen: _Signature | str | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the file, and look at it from now on."""
        await self.look()
        self._task = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def look(self) -> None:
        """Take over the file's names where it is another than at the last look."""
        try:
            signature = await asyncio.to_thread(_signature, self._path)
            if signature == self._seen:
                return
            names = await asyncio.to_thread(_names, self._path) if signature is not None else {}
        except (OSError, ValueError) as error:
            self._refuse(error)
            return
        self._seen = signature
        if self._catalogue.set_aliases(names):
            _log.info("aliases.changed", path=str(self._path), aliases=names)

    def _refuse(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        # Looked at each second, told once: the same trouble again is no news.
        if self._seen != reason:
            self._seen = reason
            self._metrics.alias_file_errors.inc()
            _log.error("aliases.unreadable", path=str(self._path), reason=reason, kept=dict(self._catalogue.promoted))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.look()


def _signature(path: Path) -> _Signature | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _names(path: Path) -> dict[str, str]:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"larger than {_MOST_BYTES} bytes")
    document = json.loads(path.read_text(encoding="utf-8"))
    names = document.get("aliases") if isinstance(document, dict) else None
    if not isinstance(names, dict):
        raise ValueError('it is not {"aliases": {"name": "model"}}')
    for name, model in names.items():
        if not (name and isinstance(model, str) and model):
            raise ValueError(f"{name!r} stands for {model!r}, which is no model's name")
    return names
