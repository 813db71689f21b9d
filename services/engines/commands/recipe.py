"""`sparkstack recipe`: first drafts of recipes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from services.engines.commands.known import model_store, pick, recipe_folders, state_folder

if TYPE_CHECKING:
    from services.engines.recipes import Recipe
    from services.engines.rendering import Target

_TARGETS = ("process", "compose", "kubernetes", "sagemaker", "vertex")


@click.group(short_help="show a recipe, draft one, or say how its engine is started")
def recipe() -> None:
    """Look at recipes, and write them: one file a model and format.

    The stack's own are in services/engines/models, yours in .state/recipes, where one of the same id wins.
    """


@recipe.command(short_help="print a recipe")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="one JSON document, with what the file leaves to defaults")
def show(model: str, as_json: bool) -> None:
    """Print the recipe of MODEL, an id or alias.

    Its first line says where the file is. A copy of it in .state/recipes, with the same name, is used in its place.
    """
    found = pick(model)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    paths = [folder / f"{found.id}.yaml" for folder in recipe_folders(state_folder())]
    path = next(path for path in reversed(paths) if path.is_file())
    click.echo(f"# {path}")
    click.echo(path.read_text(encoding="utf-8"), nl=False)


@recipe.command(short_help="print how an engine is started for it")
@click.argument("model", metavar="MODEL[@ENGINE]")
@click.option("--target", type=click.Choice(_TARGETS), required=True, help="where the engine is to run")
@click.option("--port", type=click.IntRange(1, 65535), help="where it listens  [default: the engine's own]")
@click.option("--context", type=click.IntRange(256), help="tokens of one request  [default: the recipe's]")
@click.option("--sequences", type=click.IntRange(1, 1024), help="requests at a time  [default: the recipe's]")
@click.option("--json", "as_json", is_flag=True, help="one JSON document instead of lines")
def render(
    model: str, target: str, port: int | None, context: int | None, sequences: int | None, as_json: bool
) -> None:
    """Print how the engine of MODEL is started: image, command line, environment, files.

    Nothing is started. A container's command follows the image's own entrypoint, a process's follows the Python of the
    engine's environment.

    \b
    sparkstack recipe render qwen3.6-35b --target compose
    sparkstack recipe render llama-3.1-8b@vllm --target kubernetes --context 8192
    """
    from services.engines.recipes import RecipeError, pick_engine
    from services.engines.rendering import RenderError, port_at
    from services.engines.rendering import render as render_recipe
    from services.engines.rendering.text import in_lines

    found, where = pick(model), cast("Target", target)
    try:
        engine = pick_engine(model, found)
        rendered = render_recipe(
            found,
            engine,
            where,
            port=port or port_at(where, engine),
            model=_what_is_loaded(found, where),
            context_tokens=context,
            sequences=sequences,
        )
    except (RecipeError, RenderError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(json.dumps(asdict(rendered), indent=1) if as_json else in_lines(rendered), nl=as_json)


@recipe.command(short_help="print a compose file that makes containers for it")
@click.argument("models", metavar="MODEL[@ENGINE]...", nargs=-1, required=True)
def compose(models: tuple[str, ...]) -> None:
    """Print what is laid over compose/compose.yaml so that engines of MODELs, your own recipes, have containers.

    The stack's own recipes have theirs already. The service `engines` is shown your recipes' folder, .state/recipes.

    \b
    sparkstack recipe compose my-model > .state/own-engines.yaml
    COMPOSE_EXTRA=.state/own-engines.yaml make up
    """
    from services.engines.recipes import RecipeError, pick_engine
    from services.engines.rendering import RenderError
    from services.engines.rendering.compose import compose_engine, own_compose_text

    try:
        found = [(each, pick(each)) for each in models]
        engines = [compose_engine(own, pick_engine(name, own)) for name, own in found]
    except (RecipeError, RenderError) as error:
        raise click.ClickException(str(error)) from None
    if any(engine.files for engine in engines):
        raise click.ClickException(
            "TensorRT-LLM takes a file beside the compose file: put the recipe into services/engines/models, and run "
            "`python -m compose.engines`"
        )
    click.echo(own_compose_text(engines, state_folder() / "recipes"), nl=False)


def _what_is_loaded(found: "Recipe", target: "Target") -> str:
    from services.engines.recipes import OllamaSource
    from services.engines.rendering import model_in_container

    if target != "process" or isinstance(found.source, OllamaSource):
        return model_in_container(found)
    return str(model_store().path_of(found))


@recipe.command(short_help="draft one from a model's own files")
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
    click.echo(
        f'wrote {output}: look at each line that says "check", then put it into {state_folder() / "recipes"}, named by '
        "its id; `sparkstack plan` and the others know it there"
    )
