"""Convert a GGUF file to a folder as Hugging Face's libraries write it: what vLLM and SGLang read.

    python -m services.engines.files.convert MODEL.gguf FOLDER

It needs torch and transformers and so runs in the environment of an engine that has them (`.venvs/vllm-cpu`); the
rest of this module needs neither. The weights are unpacked to bfloat16, four times a 4-bit file's size.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.engines.gguf import GgufError, read_gguf

CARD = "sparkstack.json"
"""Written last: what a folder was made from. A folder without it is not whole."""
_BYTES_A_PARAMETER = 2
_NEEDED = ("torch", "transformers", "accelerate", "gguf")


class ConversionError(Exception):
    """The file can't be converted; the message says why and what to do."""


def is_converted(source: Path, folder: Path) -> bool:
    """Say whether the folder holds this file, converted, and whole."""
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        size = source.stat().st_size
        files: dict[str, int] = card["files"]
        return bool(card["source"] == {"file": source.name, "size_bytes": size}) and all(
            (folder / name).stat().st_size == size_bytes for name, size_bytes in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def convert(source: Path, folder: Path) -> bool:
    """Write the model and its tokenizer to a folder, whole or not at all; False where it was there already.

    It is written beside the folder and renamed, so that one that is killed leaves nothing that looks finished, and
    two at once do not mix their files.

    Raises:
        GgufError: the file is not a whole GGUF file.
        ConversionError: packages are missing, the disk is too small, transformers doesn't know the architecture, or
            the folder holds something else.
    """
    if is_converted(source, folder):
        return False
    if folder.exists() and any(folder.iterdir()) and not (folder / CARD).exists():
        raise ConversionError(f"{folder} holds something that was not made by a conversion; name another folder")
    header = read_gguf(source)
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = header.parameters * _BYTES_A_PARAMETER
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise ConversionError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, {source.name} becomes {needed / 1e9:.1f} GB; "
            "free some space, or name a folder on a larger disk"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as unfinished:
        made = Path(unfinished) / "model"
        made.mkdir(mode=0o755)
        _write_model(source, made)
        _write_card(source, made)
        _put(made, folder, source)
    return True


def _write_model(source: Path, folder: Path) -> None:
    """Have transformers read the GGUF file and write what it read."""
    try:
        import accelerate  # noqa: F401  what transformers reads GGUF files with, found missing only half-way
        import gguf  # noqa: F401
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise ConversionError(
            f"the package {error.name} is missing in {sys.executable}: a conversion needs {', '.join(_NEEDED)}. "
            "`python3 scripts/bootstrap.py vllm-cpu` makes an environment that has them: "
            "run .venvs/vllm-cpu/bin/python -m services.engines.files.convert"
        ) from None
    where: dict[str, Any] = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        unpacked = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16, quantization_config=unpacked)
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        raise ConversionError(f"transformers can't read {source}: {error}; is its architecture known there?") from None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _write_card(source: Path, folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o644)  # containers read it as another user
    card = {
        "source": {"file": source.name, "size_bytes": source.stat().st_size},
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _put(made: Path, folder: Path, source: Path) -> None:
    """Rename the finished folder to its place; another that was quicker has won."""
    if folder.exists():
        outdated = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
        with contextlib.suppress(FileNotFoundError):
            folder.replace(outdated)
        shutil.rmtree(outdated, ignore_errors=True)
    try:
        made.replace(folder)
    except OSError:
        if not is_converted(source, folder):
            raise


def main(arguments: Sequence[str]) -> int:
    """Convert; return 0 when the folder is there, 1 when it can't be made, 2 for a wrong call."""
    if len(arguments) != 2:
        print((__doc__ or "").strip(), file=sys.stderr)  # noqa: T201
        return 2
    source, folder = (Path(argument).expanduser().absolute() for argument in arguments)
    try:
        made = convert(source, folder)
    except (GgufError, ConversionError) as error:
        print(f"convert: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as error:
        print(f"convert: {error.filename or folder}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"convert: {folder} {'is made' if made else 'was there already'}")  # noqa: T201
    return 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed is in the file
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    sys.exit(main(sys.argv[1:]))
