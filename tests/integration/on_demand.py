"""A gateway in front of the scripted engines service, with one model to be loaded on demand."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from services.gateway.demands import LeaseTimes
from tests.integration.gateways import Gateway, gateway
from tests.testkit.fake_engines_service import FakeEnginesService, FakeModel, fake_engines
from tests.testkit.server import eventually

QUICK = LeaseTimes(renew_s=0.2, idle_s=0.15, tick_s=0.03, reconnect_s=2.0)


class OnDemand(NamedTuple):
    """What a test works with."""

    engines: FakeEnginesService
    front: Gateway
    model: FakeModel

    def demands(self) -> list[dict[str, Any]]:
        """Return the bodies of all requests for a lease."""
        return [call.body for call in self.engines.calls("POST", "/leases") if call.path == "/leases"]

    async def held(self, count: int = 1) -> None:
        """Wait until so many requests wait for a model."""
        leases = self.front.door.leases
        assert leases is not None
        await eventually(lambda: leases.held() == count)


@contextlib.asynccontextmanager
async def on_demand(settings: Mapping[str, Any] | None = None, **fields: Any) -> AsyncIterator[OnDemand]:
    """Run both; `fields` are those of the model, whose id is `small`, `settings` the gateway's."""
    async with fake_engines() as engines:
        model = await engines.add("small", **fields)
        given = {"engines_url": engines.url, "engines_key": engines.key, "times": QUICK, **(settings or {})}
        async with gateway(**given) as front:
            yield OnDemand(engines, front, model)
