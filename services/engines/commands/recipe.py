"""`sparkstack recipe`: first drafts of recipes."""

from pathlib import Path

import click


@click.group(short_help="draft a recipe from a model's own files")
def recipe() -> None:
    """Write recipes: one file a model and format, in services/engines/models."""


@recipe.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--engine", default="", metavar="ENGINE", help="llamacpp, vllm, sglang or trtllm  [default: by the files' format]"
)
@click.option("--output", type=click.Path(path_type=Path), help="file to write; it must not exist  [default: print]")
def new(model: str, engine: str, output: Path | None) -> None:
    """Draft a recipe for MODEL: a folder, a GGUF file, or an owner/name that the Hugging Face cache has.

    Its memory facts are read from config.json and the headers of the weights; nothing is fetched. Lines that end in
    "check" are for you.

    \b
    sparkstack recipe new ~/models/Qwen3-8B.Q4_K_M.gguf
    sparkstack recipe new nvidia/Qwen3.6-35B-A3B-NVFP4 --output qwen3.6-35b-a3b-nvfp4.yaml
    """
    from services.engines.drafting.draft import draft_recipe
    from services.engines.drafting.facts import DraftError

    try:
        text = draft_recipe(model, engine)
        if output is None:
            click.echo(text, nl=False)
            return
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except DraftError as error:
        raise click.ClickException(str(error)) from None
    except FileExistsError:
        raise click.ClickException(f"{output} is there already; remove it, or name another file") from None
    except OSError as error:
        raise click.ClickException(f"{output} can't be written: {error.strerror}") from None
    click.echo(f'wrote {output}: look at each line that says "check"')
