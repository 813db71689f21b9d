import json
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engines.drafting.safetensors import INDEX, SafetensorsError, read_safetensors
from services.engines.tests.safetensors_files import encode, llama, write, write_parts


def refusal(path):
    with pytest.raises(SafetensorsError) as caught:
        read_safetensors(path)
    return str(caught.value)


def raw(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_the_tensors_agree_with_the_files_size_within_2_percent(tmp_path):
    file = read_safetensors(write(tmp_path / "model.safetensors", llama(hidden=128, vocabulary=4096)))
    assert file.size_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert file.weight_bytes == pytest.approx(file.size_bytes, rel=0.02)
    assert file.weight_bytes < file.size_bytes
    assert file.dtypes == {"BF16": file.weight_bytes}


def test_parts_are_one_model(tmp_path):
    tensors = list(llama(hidden=128).items())
    whole = read_safetensors(write(tmp_path / "whole.safetensors", dict(tensors)))
    folder = tmp_path / "parts"
    folder.mkdir()
    parts = read_safetensors(write_parts(folder, dict(tensors[:5]), dict(tensors[5:])))
    assert parts.weight_bytes == whole.weight_bytes
    assert {tensor.name for tensor in parts.tensors} == {tensor.name for tensor in whole.tensors}
    assert len(parts.files) == 2
    assert parts.size_bytes == sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def test_a_folder_without_an_index_is_its_files(tmp_path):
    write(tmp_path / "model.safetensors", llama())
    assert len(read_safetensors(tmp_path).files) == 1


def test_types_are_counted_by_their_bytes(tmp_path):
    tensors = {"a": ("U8", (10,)), "b": ("F8_E4M3", (3, 2)), "c": ("F32", (2,)), "scalar": ("BF16", ())}
    file = read_safetensors(write(tmp_path / "x.safetensors", tensors, metadata=False))
    assert file.dtypes == {"U8": 10, "F32": 8, "F8_E4M3": 6, "BF16": 2}


def test_four_bit_values_share_bytes(tmp_path):
    entry = {"dtype": "F4", "shape": [3, 2], "data_offsets": [0, 3]}
    assert read_safetensors(raw(tmp_path / "x.safetensors", {"a": entry}, bytes(3))).weight_bytes == 3


def test_every_cut_of_a_file_is_found(tmp_path):
    data = encode({"a": ("F32", (2, 3)), "b": ("U8", (5,))})
    cut = tmp_path / "cut.safetensors"
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        assert "truncated" in refusal(cut), f"{length} of {len(data)} bytes"
    cut.write_bytes(data + b"x")
    assert "1 bytes behind its last tensor" in refusal(cut)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ([1], "is no object"),
        ({}, "the type 'None'"),
        ({"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}, "the type 'F9'"),
        ({"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}, "the shape 1"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "the shape [-1]"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "the shape [True]"),
        ({"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}, "the shape [1, 1"),
        ({"dtype": "F32", "shape": [1 << 64], "data_offsets": [0, 4]}, "the shape"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0]}, "the offsets [0]"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}, "has -4 bytes"),
        ({"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}, "shape and type make"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "begins at 4, where 0 is due"),
        ({"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}, "truncated"),
    ],
)
def test_a_hostile_header_ends_in_a_sentence(tmp_path, entry, told):
    path = raw(tmp_path / "x.safetensors", {"tensor": entry}, bytes(4))
    assert told in refusal(path)
    assert str(path) in refusal(path)


def test_tensors_do_not_overlap(tmp_path):
    same = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    assert "begins at 0, where 4 is due" in refusal(raw(tmp_path / "x.safetensors", {"a": same, "b": same}, bytes(4)))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (struct.pack("<Q", 1 << 60) + bytes(50), "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (struct.pack("<Q", 2) + b"[]", "its JSON is no object"),
        (struct.pack("<Q", 2) + b"\xff\xff", "is not; download it again"),
        (struct.pack("<Q", 6000) + b"[" * 6000, "is not; download it again"),
    ],
)
def test_other_files_are_told_apart(tmp_path, content, told):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert told in refusal(path)


def test_what_is_not_there_or_no_file(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.safetensors")
    assert "has no .safetensors file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "not a regular file" in refusal(tmp_path / "pipe.safetensors")


@pytest.mark.parametrize(
    ("weight_map", "told"),
    [
        (None, "no weight_map"),
        ({}, "no weight_map"),
        ({"a": 1}, "no weight_map"),
        ({"a": "../../etc/passwd"}, "no file beside it"),
        ({"a": "/etc/passwd.safetensors"}, "no file beside it"),
        ({"a": "gone.safetensors"}, "gone.safetensors, which is not there"),
        ({"b": "here.safetensors"}, "names the tensor 'b', which no part has"),
    ],
)
def test_a_hostile_index_ends_in_a_sentence(tmp_path, weight_map, told):
    write(tmp_path / "here.safetensors", {"a": ("F32", (1,))})
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    assert told in refusal(tmp_path)


def test_two_parts_cannot_have_one_tensor(tmp_path):
    write(tmp_path / "one.safetensors", {"a": ("F32", (1,))})
    write(tmp_path / "two.safetensors", {"a": ("F32", (1,))})
    assert "which another part has too" in refusal(tmp_path)


WHOLE = encode({"a": ("F32", (2, 3)), "b": ("U8", (5,)), "c": ("BF16", ())})


@settings(deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8))
def test_no_damage_ends_in_anything_but_a_sentence(tmp_path_factory, at, damage):
    path = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    path.write_bytes(WHOLE[:at] + damage + WHOLE[at + len(damage) :])
    try:
        file = read_safetensors(path)
    except SafetensorsError:
        return
    assert file.weight_bytes < file.size_bytes
