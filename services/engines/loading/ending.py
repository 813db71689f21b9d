"""How engines are ended: one whose runtime can't be reached is ended as soon as it can be."""

import structlog

from services.engines.runtimes import EngineStopError, Runtime, RuntimeUnreachableError

_log = structlog.get_logger("engines")


class Ending:
    """Ends engines by a runtime, and remembers those that may still run."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._left: set[str] = set()

    async def end(self, instance: str, *, grace_s: float) -> None:
        """End one. Where that fails admission looks at the memory that is free."""
        try:
            await self._runtime.stop(instance, grace_s=grace_s)
        except EngineStopError as error:  # stuck in a driver: trying again would only take another minute
            _log.error("engine.not_ended", instance=instance, reason=str(error))
        except RuntimeUnreachableError as error:
            self._left.add(instance)
            _log.error("engine.not_ended", instance=instance, reason=str(error), doing="trying again")
        else:
            self._left.discard(instance)

    async def try_again(self) -> None:
        """End those that could not be ended before. Nothing may be started meanwhile: it could have the same name."""
        for instance in sorted(self._left):
            await self.end(instance, grace_s=0)
