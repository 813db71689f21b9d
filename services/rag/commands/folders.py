"""Which files of a folder are documents, and what each is called."""

import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_NEVER = frozenset({"__pycache__", "node_modules", "venv", "dist", "build", "target", "site-packages"})
# Formats that are no text and are read all the same.
_READ = frozenset({".pdf", ".docx"})
_LOOKED_AT = 8192
_GIT_S = 60


@dataclass
class Found:
    """What is to be sent.

    Args:
        files: name in the collection and path, in the order of their names.
        prefixes: of the folders' names: what `--sync` removes documents under.
        skipped: how many files were left out, by reason.
    """

    files: list[tuple[str, Path]] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def summary(self) -> str:
        """What was left out, in a line; empty for nothing."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.skipped.items()))


def find_documents(paths: tuple[Path, ...]) -> Found:
    """Return the documents at these paths: files by their names, those of a folder by its name and their way in it.

    In a folder, what is hidden, what git ignores, links and binary files are left out; a file that is named is taken.
    """
    found = Found()
    for path in paths:
        whole = path.resolve()
        if whole.is_file():
            found.files.append((whole.name, whole))
            continue
        prefix = f"{whole.name}/" if whole.name else ""
        found.prefixes.append(prefix)
        ignored = _ignored_by_git(whole)
        for file in sorted(whole.rglob("*")):
            if file.is_dir() and not file.is_symlink():
                continue
            reason = _reason_to_skip(file, file.relative_to(whole), ignored)
            if reason:
                found.skipped[reason] += 1
            else:
                found.files.append((f"{prefix}{file.relative_to(whole).as_posix()}", file))
    return found


def _reason_to_skip(file: Path, inside: Path, ignored: frozenset[str]) -> str:
    if any(part.startswith(".") for part in inside.parts):
        return "hidden"
    if any(part in _NEVER for part in inside.parts[:-1]) or _is_ignored(inside, ignored):
        return "ignored"
    if file.is_symlink() or not file.is_file():
        return "links and special files"
    return "binary" if _is_binary(file) else ""


def _is_ignored(inside: Path, ignored: frozenset[str]) -> bool:
    return bool(ignored) and any(
        each in ignored for each in (inside.as_posix(), *(f"{parent.as_posix()}/" for parent in inside.parents))
    )


def _ignored_by_git(folder: Path) -> frozenset[str]:
    """Return what git ignores in a folder, folders with a slash at the end; nothing where there is no git."""
    git = shutil.which("git")
    if git is None:
        return frozenset()
    command = [git, "-C", str(folder), "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"]
    try:
        listed = subprocess.run(command, capture_output=True, timeout=_GIT_S, check=False)  # noqa: S603 - no shell
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    if listed.returncode:
        return frozenset()
    return frozenset(name.decode(errors="replace") for name in listed.stdout.split(b"\0") if name)


def _is_binary(file: Path) -> bool:
    if file.suffix.lower() in _READ:
        return False
    try:
        with file.open("rb") as opened:
            return b"\0" in opened.read(_LOOKED_AT)
    except OSError:
        return False  # sent all the same: the error is told by its name
