"""Promoted names: the file is followed, and a broken one changes nothing."""

import json

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.gateway.alias_file import AliasFile
from services.gateway.catalogue import Catalogue, ModelFacts
from services.gateway.metrics import GatewayMetrics
from services.kit.errors import ModelNotFound
from tests.testkit.server import eventually


@pytest.fixture
def catalogue():
    found = Catalogue({"fixed": "small"})
    found.add_backend("a", [ModelFacts("small"), ModelFacts("large"), ModelFacts("absent", missing=True)])
    return found


@pytest.fixture
def file(tmp_path, catalogue):
    return AliasFile(tmp_path / "aliases.json", catalogue, GatewayMetrics(CollectorRegistry()), interval_s=0.01)


def write(file, **aliases):
    # Replaced, as the verb does it: a file that is written over may keep its time and its size.
    unfinished = file._path.with_suffix(".new")
    unfinished.write_text(json.dumps({"aliases": aliases, "log": ["of no concern"]}))
    unfinished.replace(file._path)


def errors(file):
    return file._metrics.alias_file_errors._value.get()


async def test_names_come_change_and_go_with_the_file(file, catalogue):
    await file.look()
    assert catalogue.promoted_entries() == ()
    write(file, production="small")
    await file.look()
    assert catalogue.resolve("production").upstream_id == "small"
    write(file, production="large", canary="small")
    await file.look()
    assert catalogue.resolve("production").upstream_id == "large"
    assert [(name, entry.target.public_id) for name, entry in catalogue.promoted_entries()] == [
        ("production", "large"),
        ("canary", "small"),
    ]
    assert "production" in catalogue.entries()[1].aliases
    file._path.unlink()
    await file.look()
    with pytest.raises(ModelNotFound, match="there is no model 'production'"):
        catalogue.resolve("production")
    assert errors(file) == 0


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"aliases": []}', '{"aliases": {"production": 7}}', '{"aliases": {"": "small"}}', "\udcff"],
)
async def test_a_broken_file_keeps_the_names_and_is_told_once(file, catalogue, content):
    write(file, production="small")
    await file.look()
    file._path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with capture_logs() as logs:
        for _ in range(3):
            await file.look()
    assert catalogue.resolve("production").upstream_id == "small"
    assert [line["event"] for line in logs] == ["aliases.unreadable"]
    assert logs[0]["kept"] == {"production": "small"}
    assert errors(file) == 1
    write(file, production="large")
    await file.look()
    assert catalogue.resolve("production").upstream_id == "large"


async def test_a_file_that_becomes_whole_as_it_was_is_taken_over_again(file, catalogue):
    write(file, production="small")
    await file.look()
    whole = file._path.read_bytes()
    file._path.write_text("{")
    await file.look()
    file._path.write_bytes(whole)
    await file.look()
    file._path.write_text("{")
    await file.look()
    assert errors(file) == 2


async def test_it_is_followed_from_the_background_and_let_go(file, catalogue):
    await file.start()
    write(file, production="large")
    await eventually(lambda: "production" in catalogue.promoted)
    await file.stop()
    assert file._task is not None
    assert file._task.cancelled()


def test_a_name_of_the_settings_wins_and_default_may_stand_for_a_promoted_one(catalogue):
    assert catalogue.set_aliases({"fixed": "large", "production": "large"})
    assert not catalogue.set_aliases({"fixed": "large", "production": "large"})
    assert catalogue.resolve("fixed").upstream_id == "small"
    catalogue.set_default("production")
    assert catalogue.resolve("default").upstream_id == "large"


def test_a_name_whose_model_is_not_here_says_so_and_is_not_listed(catalogue):
    catalogue.set_aliases({"production": "gone", "next": "absent", "here": "large"})
    with pytest.raises(ModelNotFound, match=r"no model 'gone' here, for which 'production' stands; .*small, large"):
        catalogue.resolve("production")
    assert [name for name, _ in catalogue.promoted_entries()] == ["here"]


def test_no_id_is_listed_twice_where_a_name_is_also_a_models_own(catalogue):
    catalogue.set_aliases({"small": "large"})
    assert catalogue.promoted_entries() == ()
