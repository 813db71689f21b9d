"""The conversion of a GGUF file: what it says before it has begun, and when it has nothing to do.

The conversion itself needs torch: tests/conformance makes the model that vLLM serves by it.
"""

import json
import sys
from pathlib import Path

import pytest

from services.engines.files.convert import CARD, ConversionError, convert, is_converted, main
from services.engines.gguf import GgufError
from services.engines.tests.gguf_files import write


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "model.gguf")


def made(folder: Path, source: Path) -> Path:
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    card = {
        "source": {"file": source.name, "size_bytes": source.stat().st_size},
        "files": {"model.safetensors": len(b"weights")},
    }
    (folder / CARD).write_text(json.dumps(card))
    return folder


def test_a_whole_folder_of_the_same_file_is_left_alone(source: Path, tmp_path: Path) -> None:
    folder = made(tmp_path / "converted", source)
    assert is_converted(source, folder)
    assert convert(source, folder) is False


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder, source: (folder / CARD).unlink(),
        lambda folder, source: (folder / CARD).write_text("{"),
        lambda folder, source: (folder / CARD).write_text("[]"),
        lambda folder, source: (folder / "model.safetensors").unlink(),
        lambda folder, source: (folder / "model.safetensors").write_bytes(b"weig"),
        lambda folder, source: source.write_bytes(source.read_bytes() + b"more"),
        lambda folder, source: source.unlink(),
    ],
)
def test_what_is_not_whole_or_of_another_file_is_seen(source: Path, tmp_path: Path, spoil: object) -> None:
    folder = made(tmp_path / "converted", source)
    spoil(folder, source)  # type: ignore[operator]
    assert not is_converted(source, folder)


def test_a_folder_with_something_else_is_not_written_over(source: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear …")
    with pytest.raises(ConversionError, match="name another folder"):
        convert(source, tmp_path / "letters")


def test_a_file_that_is_no_gguf_is_told_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"<!DOCTYPE html>" + b" " * 100)
    with pytest.raises(GgufError, match="web page"):
        convert(tmp_path / "model.gguf", tmp_path / "models" / "converted")
    assert not (tmp_path / "models").exists()


def test_where_packages_are_missing_the_environment_that_has_them_is_named(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert main([str(source), str(tmp_path / "converted")]) == 1
    said = capsys.readouterr().err
    assert "accelerate is missing" in said
    assert "scripts/bootstrap.py vllm-cpu" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_disk_that_is_too_small_is_told(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 3})())
    with pytest.raises(ConversionError, match="free some space"):
        convert(source, tmp_path / "converted")


def test_a_wrong_call_shows_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one.gguf"]) == 2
    assert "python -m services.engines.files.convert MODEL.gguf FOLDER" in capsys.readouterr().err
