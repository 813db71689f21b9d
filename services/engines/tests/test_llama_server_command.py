"""`sparkstack engine llama-server` understands what recipes are rendered to, and nothing that it would ignore."""

import click
import pytest

from services.engines import llamacpp
from services.engines.commands.llama_server import llama_server
from services.engines.recipes import find_recipe, load_recipes
from services.engines.rendering import model_in_container, render
from services.engines.threads import Threads

RECIPE = find_recipe("smollm2", load_recipes())


def served(monkeypatch: pytest.MonkeyPatch, line: list[str], **variables: str) -> llamacpp.LlamaCppOptions:
    """Return what would be served for an option line."""
    found = []
    monkeypatch.setattr(llamacpp, "serve", found.append)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    llama_server.main(line, standalone_mode=False)
    (options,) = found
    return options


def test_the_option_line_of_the_default_model_is_understood(monkeypatch):
    rendered = render(
        RECIPE, "llamacpp", "compose", port=8080, model=model_in_container(RECIPE), threads=Threads(decode=1, batch=2)
    )
    options = served(monkeypatch, list(rendered.command), ENGINE_API_KEY="sk-engine")
    assert options == llamacpp.LlamaCppOptions(
        model=options.model,
        model_id=RECIPE.id,
        port=8080,
        slots=4,
        context_tokens=4096,
        threads=Threads(1, 2),
        temperature=0.2,
        top_p=0.9,
        api_key="sk-engine",
        host="0.0.0.0",
    )
    assert str(options.model) == "/models/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_llama_servers_own_variable_for_the_key_wins(monkeypatch):
    options = served(monkeypatch, ["-m", "/m.gguf"], LLAMA_API_KEY="sk-llama", ENGINE_API_KEY="sk-engine")
    assert options.api_key == "sk-llama"
    assert "sk-llama" not in repr(options)


def test_threads_are_chosen_for_the_machine_where_none_are_named(monkeypatch):
    options = served(monkeypatch, ["-m", "/m.gguf", "-np", "2", "-c", "8192"])
    assert (options.slots, options.context_tokens) == (2, 4096)
    assert options.threads.batch >= options.threads.decode >= 1


@pytest.mark.parametrize("option", [["--n-gpu-layers", "99"], ["--cache-type-k", "q8_0"], ["--embeddings"]])
def test_what_would_be_ignored_is_refused(monkeypatch, option):
    with pytest.raises(click.NoSuchOption):
        served(monkeypatch, ["-m", "/m.gguf", *option])
