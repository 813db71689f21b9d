"""`sparkstack engine`: one engine in the foreground. Light: it is imported before it is started, not sooner."""

from pathlib import Path

import click

from services.engines.commands.llama_server import llama_server


@click.group(short_help="run one engine in the foreground")
def engine() -> None:
    """Run one engine in the foreground, on 127.0.0.1; Ctrl-C ends it.

    `sparkstack up` does this for you. Put the gateway in front of an engine that you run yourself with
    `sparkstack gateway --backend NAME=http://127.0.0.1:PORT`.
    """


@engine.command()
@click.option("--model", required=True, type=click.Path(path_type=Path), help="the GGUF file")
@click.option("--id", "model_id", default="", help="the model's name in the API  [default: from the file's name]")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(1, 65535))
@click.option("--slots", default=4, show_default=True, type=click.IntRange(1, 256), help="requests at a time")
@click.option("--context", default=4096, show_default=True, type=click.IntRange(256), help="tokens a slot")
@click.option("--threads", type=click.IntRange(1), help="that generate tokens  [default: half of the cores]")
@click.option("--threads-batch", type=click.IntRange(1), help="that read prompts  [default: all cores]")
@click.option("--temperature", type=click.FloatRange(0), help="for requests that name none")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="for requests that name none")
@click.option(
    "--api-key",
    envvar="ENGINE_API_KEY",
    default="",
    help="that requests must show; not on the command line, where all users of the machine see it [ENGINE_API_KEY]",
)
def llamacpp(
    model: Path,
    model_id: str,
    port: int,
    slots: int,
    context: int,
    threads: int | None,
    threads_batch: int | None,
    temperature: float | None,
    top_p: float | None,
    api_key: str,
) -> None:
    """Serve a GGUF file with llama.cpp."""
    from services.engines.gguf import GgufError
    from services.engines.llamacpp import EngineError, LlamaCppOptions, serve
    from services.engines.own_file import id_of
    from services.engines.threads import Threads, default_threads

    default = default_threads()
    options = LlamaCppOptions(
        model=model,
        model_id=model_id or id_of(model),
        port=port,
        slots=slots,
        context_tokens=context,
        threads=Threads(threads or default.decode, threads_batch or default.batch),
        temperature=temperature,
        top_p=top_p,
        api_key=api_key,
    )
    try:
        serve(options)
    except (GgufError, EngineError) as error:
        raise click.ClickException(str(error)) from None


engine.add_command(llama_server)
