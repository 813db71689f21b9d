"""The engine process: llama.cpp's own HTTP server, from the xllamacpp package, on loopback unless told otherwise."""

import errno
import os
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from services.engines.gguf import read_gguf
from services.engines.threads import Threads

# An open stream holds one of the server's HTTP threads. With llama.cpp's own default (8 on small machines)
# the ninth client blocks everything else, `/health` too (measured at 40 streams: 7.6 s, 7 ms with these).
_HTTP_THREADS = 128
# Prompts' states kept in memory for the next request with the same beginning; llama.cpp's default is 8 GB. The memory
# plan counts them: requests fill them.
PROMPT_CACHE_BYTES = 512 << 20
HOST = "127.0.0.1"


class EngineError(Exception):
    """The engine can't start; the message says why and what to do."""


@dataclass(frozen=True)
class LlamaCppOptions:
    """What one llama.cpp process serves, and how.

    Args:
        context_tokens: of one slot; llama.cpp's `n_ctx` is this times `slots`.
        temperature: for requests that name none; None for llama.cpp's own default. So `top_p`.
        api_key: that requests must show; empty for none. `/health` is open.
        host: the address to listen on; beyond loopback in a container alone, whose network is its own.
    """

    model: Path
    model_id: str
    port: int
    slots: int
    context_tokens: int
    threads: Threads
    temperature: float | None = None
    top_p: float | None = None
    api_key: str = field(default="", repr=False)
    host: str = HOST
    http_threads: int = _HTTP_THREADS
    prompt_cache_mib: int = PROMPT_CACHE_BYTES >> 20


def serve(options: LlamaCppOptions) -> None:
    """Serve until SIGTERM or SIGINT, which end the process at once.

    Raises:
        GgufError: the model can't be served.
        EngineError: the port is taken, or llama.cpp refuses the model.
    """
    read_gguf(options.model)
    check_port(options.port, options.host)
    # Threads that wait for work must sleep, not spin: on few cores they would take the gateway's time.
    # OpenMP reads this when the library is loaded, so it stands before the import.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import xllamacpp

    # llama.cpp holds Python's lock while it loads, for minutes with large models: a handler of Python's would
    # wait for that. So the system's own action ends the process until the model is there.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(parameters(options, xllamacpp.CommonParams()))
    except RuntimeError:
        raise EngineError(
            f"llama.cpp could not serve {options.model}; its lines above say why. Too little memory? Try "
            "fewer slots or a shorter context: LLAMACPP_SLOTS=1 LLAMACPP_CONTEXT=2048"
        ) from None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    click.echo(f"engine: {options.model_id} on {server.listening_address}")
    while True:
        signal.pause()


def _leave(_number: int, _frame: Any) -> None:
    # Its destructors would first wait for requests in flight; the gateway has ended or answers for these.
    os._exit(0)


def parameters(options: LlamaCppOptions, params: Any) -> Any:
    """Return llama.cpp's `common_params`, filled in."""
    params.model.path = str(options.model)
    params.model_alias = {options.model_id}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_parallel = options.slots
    params.n_ctx = options.slots * options.context_tokens
    params.cpuparams.n_threads = options.threads.decode
    params.cpuparams_batch.n_threads = options.threads.batch
    params.n_threads_http = options.http_threads
    params.cache_ram_mib = options.prompt_cache_mib
    if options.api_key:
        params.api_keys = [options.api_key]
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.use_jinja = True
    params.warmup = True
    params.offline = True
    # No page of its own, and no other page may read its answers: browsers come through the gateway.
    params.ui = False
    params.cors_origins = ""
    params.cors_credentials = False
    if options.temperature is not None:
        params.sampling.temp = options.temperature
    if options.top_p is not None:
        params.sampling.top_p = options.top_p
    return params


def check_port(port: int, host: str = HOST) -> None:
    """Check that the port is free.

    Raises:
        EngineError: it is taken, or needs rights that we don't have.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise EngineError(f"port {port} is taken by another process; choose another with --port") from None
            raise EngineError(f"port {port} can't be used: {error.strerror}; choose another with --port") from None
