"""Names of files that came from elsewhere: made safe to store, to show and to compare."""

import re
import unicodedata

from services.rag.loading.limits import LoadError

MAX_NAME_CHARACTERS = 512
# Control and format characters (a right-to-left override makes `exe.pdf` of `fdp.exe`), surrogates, unassigned.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Co"})
_DRIVE = re.compile(r"^[A-Za-z]:")


def clean_name(name: str) -> str:
    """Return the name with `/` between its parts, safe to show and to store, the same for the same file.

    A folder's own parts stay (`guide/setup.md`). What would lead out of the folder, a drive, a root, `.` and `..`,
    is left out, as are control characters and those that change the direction of writing.

    Raises:
        LoadError: code `bad_name`, where nothing is left or it is too long.
    """
    visible = "".join(each for each in name if unicodedata.category(each) not in _HIDDEN)
    plain = unicodedata.normalize("NFC", visible).replace("\\", "/")
    parts = [" ".join(part.split()) for part in _DRIVE.sub("", plain).split("/")]
    cleaned = "/".join(part for part in parts if part.strip(". "))
    if not cleaned:
        raise LoadError("bad_name", f"{name[:80]!r} is no name for a file: give one such as 'guide/setup.md'")
    if len(cleaned) > MAX_NAME_CHARACTERS:
        raise LoadError(
            "bad_name",
            f"the name {cleaned[:40]!r}… has {len(cleaned):,} characters, more than {MAX_NAME_CHARACTERS}; shorten it",
        )
    return cleaned


def suffix(name: str) -> str:
    """Return the extension in lower case with its dot, or nothing."""
    last = name.rpartition("/")[2]
    stem, dot, extension = last.rpartition(".")
    return f".{extension.lower()}" if dot and stem else ""


def stem(name: str) -> str:
    """Return the file's name without folders and extension."""
    last = name.rpartition("/")[2]
    return last.rpartition(".")[0] or last
