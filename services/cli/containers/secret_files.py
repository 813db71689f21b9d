"""The files that containers get their secrets from: made before the start, one a secret.

The folder is for its owner alone; the files in it can be read by everybody, because a container's user is another one
than the user who runs compose, and sees the file alone, not its folder.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

SHARED = "internal_key"
"""The key that the stack's own services show each other; any other secret is known to its two sides alone."""

# The user's, or none: they are not ours to make up.
_GIVEN = frozenset({"sparkstack_api_key", "hf_token"})
_BYTES = 32


def folder_of(state: Path) -> Path:
    """Return the folder of the secrets of a stack."""
    return state / "secrets"


def ensure_secrets(paths: Mapping[str, Path], state: Path, shared: str, variables: Mapping[str, str]) -> str:
    """Write each secret that compose will read, and return a digest of all of them.

    A variable of the secret's name, in capitals, wins over what is made here; what was made is kept.

    Args:
        paths: where compose reads each secret, by its name. Files outside the stack's own folder are the user's.
        shared: the key that the stack's services show each other.

    Raises:
        click.ClickException: a file can't be written, or the user's own is not there.
    """
    folder = folder_of(state)
    digest = hashlib.sha256()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, path in sorted(paths.items()):
            if path.parent == folder:
                text = _text_of(name, path, shared, variables)
                _write(path, text)
            elif not path.is_file():
                raise click.ClickException(f"the secret {name} is to be in {path}, and there is no such file")
            digest.update(name.encode() + path.read_bytes())
    except OSError as error:
        raise click.ClickException(f"{error.filename} can't be written: {error.strerror}") from None
    return digest.hexdigest()[:16]


def forget_unknown(paths: Iterable[Path], state: Path) -> None:
    """Remove secrets of earlier versions that nothing reads any more."""
    known = set(paths)
    for path in folder_of(state).glob("*"):
        if path not in known and path.is_file():
            path.unlink()


def _text_of(name: str, path: Path, shared: str, variables: Mapping[str, str]) -> str:
    if name == SHARED:
        return shared
    given = variables.get(name.upper(), "").strip()
    if given or name in _GIVEN:
        return given
    try:
        kept = path.read_text(encoding="ascii").strip()
    except OSError:
        kept = ""
    return kept or secrets.token_urlsafe(_BYTES)


def _write(path: Path, text: str) -> None:
    """Write a secret in place: a file that is replaced would leave running containers with the old one."""
    content = f"{text}\n".encode()
    if path.is_file() and path.read_bytes() == content:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    path.chmod(0o644)
