"""The llama.cpp that is installed here knows every option of the table, and those that the image gets as variables."""

from importlib import metadata
from pathlib import Path

import pytest

from services.engines.rendering.options import table


@pytest.fixture(scope="module")
def library():
    """Return the bytes of the compiled server: its options stand in it as C strings."""
    files = metadata.files("xllamacpp") or []
    names = [file for file in files if file.name.endswith(".so")]
    return max((Path(str(file.locate())).read_bytes() for file in names), key=len)


def test_llamacpp_has_every_option_of_the_table(library):
    missing = [name for name in table("llamacpp") if f"--{name}\0".encode() not in library]
    assert missing == []


def test_the_way_to_load_a_file_is_a_variable_because_its_option_has_changed(library):
    assert b"LLAMA_ARG_LOAD_MODE\0" in library
    assert b"--no-mmap\0" not in library, "it is back: the option can be used again"
