"""A rendered recipe, written down to be read by people and compared by tests."""

from services.engines.rendering.order import Rendered


def in_lines(rendered: Rendered) -> str:
    """Return what is started, a fact or an option a line."""
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
