"""Files that are written whole or not at all, for this user alone where nothing else is said."""

import json
import os
import threading
from pathlib import Path
from typing import Any


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file at once, with its mode from its first byte on."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
    unfinished.replace(path)


def write_json(path: Path, document: Any, mode: int = 0o600) -> None:
    """Replace a file by a document; its folder is made where there is none."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n", mode)


def read_json(path: Path) -> dict[str, Any]:
    """Return a document's object; {} where there is none, or it is broken."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
