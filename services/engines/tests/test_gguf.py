import os
import struct

import pytest

from services.engines.files.packaged import locate
from services.engines.gguf import GgufError, read_gguf
from services.engines.recipes import find_recipe, load_recipes
from services.engines.tests.gguf_files import DEFAULT_METADATA, F32, header, write

TENSOR_TYPE_OF_TOMORROW = 99


def refusal(path):
    with pytest.raises(GgufError) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_the_default_models_header_agrees_with_its_recipe():
    recipe = find_recipe("smollm2", load_recipes())
    file = read_gguf(locate(recipe.source))
    assert (file.parameters, file.quantization, file.architecture, file.context_length) == (
        recipe.parameters, recipe.quantization, recipe.family, recipe.context_tokens,
    )  # fmt: skip
    assert file.chat_template
    assert file.version == 3
    assert file.tensor_count == 272


def test_a_whole_file_is_read(tmp_path):
    file = read_gguf(write(tmp_path / "tiny.gguf"))
    assert (file.name, file.architecture, file.context_length, file.quantization, file.licence) == (
        "Tiny", "llama", 2048, "Q4_0", "mit",
    )  # fmt: skip
    assert file.parameters == 4 * 2 + 32 * 3
    assert file.metadata["tokenizer.ggml.tokens"] == 3, "of arrays the length is kept"


def test_arrays_of_arrays_and_version_2_are_read(tmp_path):
    nested = {**DEFAULT_METADATA, "x.nested": [[1, 2], [3, 4]], "x.words": [["a"], ["b"]], "x.flag": True}
    file = read_gguf(write(tmp_path / "nested.gguf", nested, version=2))
    assert file.metadata["x.nested"] == 2
    assert file.metadata["x.flag"] is True


def test_what_a_file_does_not_say_is_unknown(tmp_path):
    file = read_gguf(write(tmp_path / "bare.gguf", {"general.architecture": "llama", "general.file_type": 999}))
    assert file.name == "bare"
    assert (file.context_length, file.quantization, file.licence, file.chat_template) == (None, None, None, "")


def test_a_guessed_file_type_is_named_all_the_same(tmp_path):
    assert read_gguf(write(tmp_path / "g.gguf", {"general.file_type": 1024 + 15})).quantization == "Q4_K_M"


def test_no_such_file(tmp_path):
    assert "there is no file" in refusal(tmp_path / "nothing.gguf")


def test_a_folder_names_the_models_in_it(tmp_path):
    assert "without a .gguf file in it" in refusal(tmp_path)
    write(tmp_path / "inside.gguf")
    assert "inside.gguf" in refusal(tmp_path)


def test_a_device_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not a regular file" in refusal(tmp_path / "pipe.gguf")


def test_a_folder_in_the_place_of_a_folder(tmp_path):
    write(tmp_path / "model.gguf")
    assert "Not a directory" in refusal(tmp_path / "model.gguf" / "model.gguf")


def test_an_unreadable_file(tmp_path, monkeypatch):
    path = write(tmp_path / "secret.gguf")

    def refuse(*_args, **_kwargs):  # the tests may run as root, who may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    assert "permission denied" in refusal(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"some text", "it starts with b'some'"),
        (b"GGU", "it starts with b'GGU'"),
        (b"PK\x03\x04....", "PyTorch"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"tjgg...."[::-1], "it starts with"),
        (b"ggjt\x03\x00\x00\x00", "before GGUF"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, told):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert told in refusal(path)


def test_every_cut_of_a_file_is_found(tmp_path):
    whole = write(tmp_path / "tiny.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in range(4, len(whole)):
        cut.write_bytes(whole[:length])
        assert "truncated" in refusal(cut), f"{length} of {len(whole)} bytes"
    cut.write_bytes(whole)
    assert read_gguf(cut).parameters == 104


def test_a_tensor_type_that_is_newer_than_the_reader_is_checked_by_its_offset(tmp_path):
    path = tmp_path / "new.gguf"
    head, _ = header(tensors=((F32, (8,)), (TENSOR_TYPE_OF_TOMORROW, (8,))))
    path.write_bytes(head + bytes(33))
    assert read_gguf(path).parameters == 16
    path.write_bytes(head + bytes(32))
    assert "truncated" in refusal(path)


def test_one_part_of_several_says_how_to_merge(tmp_path):
    path = write(tmp_path / "m-00001-of-00003.gguf", {**DEFAULT_METADATA, "split.count": 3, "split.no": 0})
    assert "one of 3 parts" in refusal(path)


def test_other_versions_and_byte_orders(tmp_path):
    assert "version 4" in refusal(write(tmp_path / "v4.gguf", version=4))
    assert "version 1" in refusal(write(tmp_path / "v1.gguf", version=1))
    assert "big-endian" in refusal(write(tmp_path / "be.gguf", version=3 << 24))


@pytest.mark.parametrize(
    ("after_version", "told"),
    [
        (struct.pack("<QQ", 2**63, 0), "claims 9,223,372,036,854,775,808 tensors"),
        (struct.pack("<QQ", 0, 2**40), "metadata entries"),
        (struct.pack("<QQQ", 0, 1, 2**62), "truncated"),
        (struct.pack("<QQQ", 0, 1, 1) + b"k" + struct.pack("<I", 77), "a value of type 77"),
        (struct.pack("<QQQ", 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 0, 2**60), "truncated"),
        (struct.pack("<QQQ", 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 8, 2**60) + bytes(64), "truncated"),
        (struct.pack("<QQQ", 1, 0, 1) + b"t" + struct.pack("<I", 1000), "1000 dimensions"),
        (struct.pack("<QQQ", 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 9, 1) * 1 + struct.pack("<IQ", 9, 1) * 9,
         "a value of type 9"),
    ],
)  # fmt: skip
def test_a_hostile_header_ends_in_a_sentence(tmp_path, after_version, told):
    path = tmp_path / "hostile.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + after_version)
    assert told in refusal(path)
