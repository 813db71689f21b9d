"""docs/spark.md traces every flag, image and setting of the engines on a GPU: none is missing, none is made up."""

import re
from pathlib import Path

import pytest

from tests.compose.files import engines

PAGE = (Path(__file__).parents[2] / "docs" / "spark.md").read_text(encoding="utf-8")
ON_GPU = {name: service for name, service in engines().items() if "deploy" in service}
HEADS = {"vllm": "vLLM", "llamacpp": "llama.cpp", "sglang": "SGLang", "trtllm": "TensorRT-LLM", "ollama": "Ollama"}
EVERY_ENGINE = {"DO_NOT_TRACK", "HF_HUB_OFFLINE", "HF_HUB_CACHE"}
ON_THE_CPU = {"OMP_WAIT_POLICY"}


def section(head: str) -> str:
    """Return the part of the page under a heading of the third level."""
    return PAGE.split(f"### {head}\n")[1].split("\n##")[0]


def table(head: str) -> str:
    """Return the rows of a part's table."""
    return "\n".join(line for line in section(head).splitlines() if line.startswith("|"))


def of(engine: str) -> list[dict]:
    return [service for name, service in ON_GPU.items() if name.startswith(f"{engine}-")]


@pytest.mark.parametrize("engine", HEADS)
def test_every_flag_of_an_engine_is_traced_and_none_is_made_up(engine):
    used = {word for service in of(engine) for word in service["command"] if word.startswith("--")}
    named = set(re.findall(r"`(--[a-zA-Z_-]+)`", table(HEADS[engine])))
    assert named == used


@pytest.mark.parametrize("engine", HEADS)
def test_every_variable_of_an_engine_is_traced_and_none_is_made_up(engine):
    used = {name for service in of(engine) for name in service["environment"]} - EVERY_ENGINE
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)(?:=[^`]*)?`", table(HEADS[engine]))) - EVERY_ENGINE - ON_THE_CPU
    assert named == used


def test_every_row_says_where_it_is_from():
    for head in ("The containers", *HEADS.values(), "The images"):
        for row in table(head).splitlines()[2:]:
            assert re.match(r"[NRS](, [NRS])*\b", row.rstrip(" |").rpartition("|")[2].strip()), row


def test_every_image_of_an_engine_is_listed():
    used = {service["image"] for service in engines().values()}
    named = set(re.findall(r"`([\w./-]+/[\w.-]+:[\w.-]+)`", table("The images")))
    assert used == named


def test_what_the_containers_have_is_traced():
    rows = table("The containers")
    for service in ON_GPU.values():
        for setting in ("ipc", "shm_size", "ulimits", "cap_add"):
            assert setting not in service or f"`{setting}" in rows
    assert {capability for service in ON_GPU.values() for capability in service.get("cap_add", ())} == {"SYS_NICE"}
    assert {service.get("shm_size", 16 << 30) for service in ON_GPU.values()} == {16 << 30}


def test_the_profiles_of_the_page_are_there():
    known = {profile for service in engines().values() for profile in service["profiles"]}
    rows = PAGE.split("| you want |")[1].split("\n\n")[0]
    named = set(re.findall(r"\| `([\w.-]+)` \|", rows))
    assert named <= known
    assert {"spark", "sglang", "trtllm", "llamacpp", "ollama"} <= named


def test_the_page_says_what_was_not_run():
    assert PAGE.count("**not run**") >= 2
    assert "not run" in PAGE.split("## 1.")[0], "before anything else"
