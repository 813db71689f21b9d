"""`sparkstack engine llama-server`: llama.cpp in a container, by the option line of llama.cpp's own `llama-server`.

A recipe is rendered to that line, whichever image serves it. This knows the options that a recipe for a CPU comes to,
and refuses all others, so that nothing is asked for in vain.
Source: tools/server/README.md of llama.cpp
"""

from pathlib import Path

import click


@click.command("llama-server", short_help="serve a GGUF file in a container, by llama-server's own options")
@click.option("-m", "--model", required=True, type=click.Path(path_type=Path), help="the GGUF file")
@click.option("-a", "--alias", default="", help="the model's name in the API  [default: from the file's name]")
@click.option("--host", default="127.0.0.1", show_default=True, help="address to listen on")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("-np", "--parallel", default=1, show_default=True, type=click.IntRange(1, 256), help="requests at a time")
@click.option(
    "-c", "--ctx-size", default=4096, show_default=True, type=click.IntRange(256), help="tokens, all together"
)
@click.option("-t", "--threads", type=click.IntRange(1), help="that generate tokens  [default: half of the cores]")
@click.option("-tb", "--threads-batch", type=click.IntRange(1), help="that read prompts  [default: all cores]")
@click.option("--threads-http", default=128, show_default=True, type=click.IntRange(1), help="that hold connections")
@click.option(
    "--cache-ram", default=512, show_default=True, type=click.IntRange(0), help="MiB of prompts that are kept"
)
@click.option("--temp", type=click.FloatRange(0), help="for requests that name none")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="for requests that name none")
@click.option("--jinja", is_flag=True, expose_value=False, help="the model's own template; always so")
@click.option("--metrics", is_flag=True, expose_value=False, help="Prometheus figures; always there")
@click.option("--no-webui", is_flag=True, expose_value=False, help="no page; always so")
@click.option(
    "--api-key",
    envvar=["LLAMA_API_KEY", "ENGINE_API_KEY"],
    default="",
    help="that requests must show; not on the command line, where all users of the machine see it [LLAMA_API_KEY]",
)
def llama_server(
    model: Path,
    alias: str,
    host: str,
    port: int,
    parallel: int,
    ctx_size: int,
    threads: int | None,
    threads_batch: int | None,
    threads_http: int,
    cache_ram: int,
    temp: float | None,
    top_p: float | None,
    api_key: str,
) -> None:
    """Serve a GGUF file with llama.cpp, by the options that its own `llama-server` has.

    Outside of containers use `sparkstack engine llamacpp`.
    """
    from services.engines.gguf import GgufError
    from services.engines.llamacpp import EngineError, LlamaCppOptions, serve
    from services.engines.own_file import id_of
    from services.engines.threads import Threads, default_threads

    default = default_threads()
    options = LlamaCppOptions(
        model=model,
        model_id=alias or id_of(model),
        port=port,
        slots=parallel,
        context_tokens=ctx_size // parallel,
        threads=Threads(threads or default.decode, threads_batch or default.batch),
        temperature=temp,
        top_p=top_p,
        api_key=api_key,
        host=host,
        http_threads=threads_http,
        prompt_cache_mib=cache_ram,
    )
    try:
        serve(options)
    except (GgufError, EngineError) as error:
        raise click.ClickException(str(error)) from None
