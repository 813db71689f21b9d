"""A gateway in front of an engine and of the stack's own services, as `up` puts them together."""

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.gateways import Gateway, gateway
from tests.testkit.engine import FakeEngine
from tests.testkit.fake_services import FakeRag, FakeService, fake_embeddings, fake_rag
from tests.testkit.server import fake_engine

KEY = "sk-internal-0123456789"


@dataclass
class Stack:
    """What runs."""

    front: Gateway
    engine: FakeEngine
    embeddings: FakeService
    rag: FakeRag


@contextlib.asynccontextmanager
async def stack(folder: Path, **settings: Any) -> AsyncIterator[Stack]:
    """Run all of it; `settings` are the gateway's, `engine_paths` those that the engine's backend claims."""
    engine_paths = settings.pop("engine_paths", [])
    async with (
        fake_engine(models=("fake-chat",), embedding_models=()) as engine,
        fake_embeddings(key=KEY) as embeddings,
        fake_rag(key=KEY) as rag,
    ):
        chat = {"name": "engine", "url": engine.url, "engine": "llamacpp", "paths": engine_paths}
        # The engine comes last: nothing may depend on the order.
        document = {"backends": [rag.listed(), embeddings.listed(), chat]}
        catalogue = folder / "catalogue.json"
        catalogue.write_text(json.dumps(document))
        given = {"catalogue": catalogue, "internal_key": KEY, "discovery_interval_s": 60, **settings}
        async with gateway(**given) as front:
            rag.gateway = ""
            yield Stack(front, engine, embeddings, rag)
