"""How a rendered recipe is written down to be read by people and compared by tests."""

from pathlib import Path

from services.engines.recipes import EngineName, Recipe
from services.engines.rendering import Rendered, model_in_container, port_at, render, targets
from services.engines.threads import Threads

FOLDER = Path(__file__).with_name("golden")


def golden_text(recipe: Recipe, engine: EngineName) -> str:
    """Return how a recipe is rendered for an engine at each target that makes sense."""
    sections = []
    for target in targets(recipe, engine):
        rendered = render(
            recipe,
            engine,
            target,
            port=port_at(target, engine),
            model=model_in_container(recipe),
            threads=Threads(1, 2) if engine == "llamacpp" else None,
        )
        sections.append(f"== {target}\n{_section(rendered)}")
    return "\n".join(sections)


def _section(rendered: Rendered) -> str:
    facts = [
        ("image", rendered.image or ""),
        ("gpu", "yes" if rendered.gpu else "no"),
        ("shm", f"{rendered.shm_bytes >> 30} GiB" if rendered.shm_bytes else ""),
        ("ipc", "host" if rendered.ipc_host else ""),
        ("ulimits", " ".join(f"{name}={value}" for name, value in rendered.ulimits.items())),
        ("capabilities", " ".join(rendered.cap_add)),
        ("port", str(rendered.port)),
        ("health", f"{rendered.health_path}, within {rendered.start_period_s} s"),
        ("invoke", rendered.invoke_path or ""),
    ]
    lines = [f"{name}: {value}" for name, value in facts if value]
    lines += ["command:", *_command(rendered.command)]
    lines += ["environment:", *(f"  {name}={value}" for name, value in sorted(rendered.environment.items()))]
    lines += [f"volume {name}: {folder}" for name, folder in sorted(rendered.volumes.items())]
    for path, text in rendered.files.items():
        lines += [f"file {path}:", *(f"  {line}" for line in text.splitlines())]
    return "\n".join(lines) + "\n"


def _command(words: tuple[str, ...]) -> list[str]:
    """Return a line for each option, with its values."""
    lines: list[str] = []
    for word in words:
        if word.startswith("-") or not lines or not lines[-1].lstrip().startswith("-"):
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}"
    return lines
