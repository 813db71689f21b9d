"""A fake engine: OpenAI-compatible, deterministic, cheap, and failing exactly as a test scripts it.

    python -m tests.testkit.fake_engine --port 0 --ttft-ms 20 --tokens-per-s 100 --seed 1

It prints `{"url": "http://127.0.0.1:…"}` when it listens and ends on SIGTERM. README.md has the ways to script it.
"""

import argparse
import asyncio
import json
import signal
from collections.abc import Sequence

from tests.testkit.engine import FakeEngine
from tests.testkit.settings import FakeEngineSettings

__all__ = ["FakeEngine", "FakeEngineSettings", "create_fake_engine"]


def create_fake_engine(settings: FakeEngineSettings) -> FakeEngine:
    """Return an engine that does not listen yet: `await engine.start()`."""
    return FakeEngine(settings)


def read_arguments(arguments: Sequence[str] | None = None) -> FakeEngineSettings:
    """Return the settings of a command line."""
    default = FakeEngineSettings()
    parser = argparse.ArgumentParser(prog="fake_engine", description="An OpenAI-compatible engine for tests.")
    parser.add_argument("--host", default=default.host)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--ttft-ms", type=float, default=default.ttft_ms)
    parser.add_argument("--tokens-per-s", type=float, default=default.tokens_per_s, help="0: as fast as possible")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--answer-tokens", type=int, default=default.answer_tokens)
    parser.add_argument("--n-ctx", type=int, default=default.n_ctx)
    parser.add_argument("--embedding-dimensions", type=int, default=default.embedding_dimensions)
    parser.add_argument("--model", action="append", dest="models", metavar="NAME")
    parser.add_argument("--embedding-model", action="append", dest="embedding_models", metavar="NAME")
    parser.add_argument("--no-usage", action="store_false", dest="usage", help="report no usage")
    parser.add_argument("--any-model", action="store_true", help="answer unknown model names")
    given = vars(parser.parse_args(arguments))
    return FakeEngineSettings(**{name: value for name, value in given.items() if value is not None})


async def serve(settings: FakeEngineSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    engine = create_fake_engine(settings)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await engine.start()
    print(json.dumps({"url": engine.url}), flush=True)
    await ended.wait()
    await engine.stop()


def main() -> None:
    """Run the engine, on uvloop where it is installed."""
    settings = read_arguments()
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve(settings))
    else:
        uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
