"""A runtime whose engines are fake ones in this process: for tests of what starts, watches and ends engines.

runtime = FakeRuntime(); runtime.script("model-a", load_s=0.2)          # /health answers after that
runtime.script("model-b", dies=9)                                       # killed by signal 9 while it loads
runtime.kill("model-a"); runtime.engines["model-a"].script(...)         # crash; a fault of the fake engine
"""

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import Any

from services.engines.runtimes import EngineStartError, Instance, LaunchSpec, RuntimeUnreachableError
from tests.testkit.engine import FakeEngine
from tests.testkit.settings import FakeEngineSettings


@dataclass
class Script:
    """How the engine of a model behaves.

    Args:
        load_s: from its start until it listens.
        dies: the signal by which it is killed instead of coming to listen; 0 for none.
        refused: why it can't even be started.
        ends_s: how long it takes to end where it is given that time.
    """

    load_s: float = 0.0
    dies: int = 0
    refused: str = ""
    ends_s: float = 0.0


class FakeRuntime:
    """Fulfils `services.engines.runtimes.Runtime`."""

    def __init__(self, **settings: Any) -> None:
        self.engines: dict[str, FakeEngine] = {}
        self.starts: list[str] = []
        self.stops: list[str] = []
        self.most_at_a_time = 0
        self.unreachable = ""
        """Why every call fails, as when supervisord or Docker starts anew; the engines run on."""
        self._settings = settings
        self._scripts: dict[str, Script] = {}
        self._instances: dict[str, Instance] = {}
        self._models: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def script(self, model: str, **script: Any) -> None:
        """Say how a model's engine behaves from its next start on."""
        self._scripts[model] = Script(**script)

    async def kill(self, model: str) -> None:
        """Have a model's engine die as by SIGKILL."""
        name = next(name for name, known in self._models.items() if known == model)
        await self._end(name)
        self._instances[name] = Instance(name, "exited", exit_status=-9)

    async def start(self, spec: LaunchSpec) -> None:
        """Start one."""
        self._reach()
        script = self._scripts.get(spec.model_id, Script())
        if script.refused:
            raise EngineStartError(script.refused)
        self.starts.append(spec.model_id)
        self._models[spec.name] = spec.model_id
        self._instances[spec.name] = Instance(spec.name, "running", pids=(os.getpid(),))
        self.most_at_a_time = max(self.most_at_a_time, len(self._instances))
        self._tasks[spec.name] = asyncio.create_task(self._run(spec, script))

    async def _run(self, spec: LaunchSpec, script: Script) -> None:
        await asyncio.sleep(script.load_s)
        if script.dies:
            self._instances[spec.name] = Instance(spec.name, "exited", exit_status=-script.dies)
            return
        engine = FakeEngine(FakeEngineSettings(port=spec.port, models=(spec.model_id,), **self._settings))
        await engine.start()
        self.engines[spec.model_id] = engine

    async def stop(self, name: str, *, grace_s: float) -> None:
        """End one."""
        self._reach()
        await asyncio.sleep(min(grace_s, self._scripts.get(self._models.get(name, ""), Script()).ends_s))
        if name in self._instances:
            self.stops.append(self._models[name])
        await self._end(name)
        self._instances.pop(name, None)

    async def _end(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        engine = self.engines.pop(self._models.get(name, ""), None)
        if engine is not None:
            await engine.stop()

    async def instances(self) -> dict[str, Instance]:
        """Return them."""
        self._reach()
        return dict(self._instances)

    async def logs(self, name: str, lines: int) -> str:
        """Return a line."""
        self._reach()
        return f"the last words of {name}"

    def _reach(self) -> None:
        if self.unreachable:
            raise RuntimeUnreachableError(self.unreachable)

    async def close(self) -> None:
        """Nothing is to be let go."""

    async def end_all(self) -> None:
        """End every engine; for the end of a test."""
        self.unreachable = ""
        for name in list(self._instances):
            await self.stop(name, grace_s=0)
