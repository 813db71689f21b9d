"""`sparkstack key`, and .env: made on the first start, with a key in it."""

import os
import re
import secrets
from pathlib import Path

import click
from dotenv import dotenv_values

from services.cli.home import Home, load_file
from services.kit.files import write_private
from services.kit.keys import first_key

VARIABLE = "SPARKSTACK_API_KEY"
_LINE = re.compile(rf"^[ \t]*(?:export[ \t]+)?{VARIABLE}[ \t]*(?:=.*)?$", re.M)
_MINIMAL = f"# Variables of the stack; the environment wins.\n{VARIABLE}=\n"


@click.command()
def key() -> None:
    """Print the API key that clients send (`Authorization: Bearer KEY`)."""
    found = first_key(os.environ.get(VARIABLE, ""))
    if not found:
        raise click.ClickException(f"there is no {VARIABLE} in the environment or in .env yet; `make up` makes one")
    click.echo(found)


def ensure_env_file(home: Home) -> list[str]:
    """Make .env where there is none, put a new key into it where it has none, and load it.

    A key that the environment holds already is left to the environment.

    Returns:
        What was done, a sentence each.

    Raises:
        click.ClickException: when the file can't be read or written.
    """
    if not os.environ.get(VARIABLE, "").strip():
        os.environ.pop(VARIABLE, None)  # empty is as good as not set: .env decides
    path = home.env_file.resolve()  # it may be a link to a file that is kept elsewhere
    try:
        done = _ensure(path, home)
    except OSError as error:
        raise click.ClickException(
            f"{path} can't be made or changed: {error.strerror}; make it writable, or name another folder for it: "
            "SPARKSTACK_HOME=/path"
        ) from None
    load_file(path)
    return done


def _ensure(path: Path, home: Home) -> list[str]:
    done = []
    if not path.exists():
        example = next((e for e in (home.root, home.code) if (e / ".env.example").is_file()), None)
        text = (example / ".env.example").read_text(encoding="utf-8") if example else _MINIMAL
        write_private(path, text)
        done.append(f"made {path}, readable by you alone")
    has_key = (dotenv_values(path).get(VARIABLE) or "").strip()
    if not has_key and VARIABLE not in os.environ:
        write_private(path, _with_key(path.read_text(encoding="utf-8"), f"sk-spark-{secrets.token_urlsafe(24)}"))
        done.append(f"put a new {VARIABLE} into {path}")
    elif has_key and path.stat().st_mode & 0o077:
        path.chmod(0o600)
        done.append(f"{path} holds a key and could be read by others: it is now readable by you alone (mode 600)")
    return done


def _with_key(text: str, new_key: str) -> str:
    """Return the file's text with the key set: in the place of the last empty line for it, or at the end."""
    line = f"{VARIABLE}={new_key}"
    places = list(_LINE.finditer(text))
    if not places:
        return f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n"
    return text[: places[-1].start()] + line + text[places[-1].end() :]
