"""Pulls from a hub: resumed, checked, pinned, refused before they begin, and gentle with a hub that is not well."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.engines.files import checksums, downloads, fetching
from services.engines.files.download_plan import DownloadPlan
from services.engines.files.getting import Declined
from services.engines.files.hub import PullError
from services.engines.files.transfer import Patience
from services.engines.recipes import RecipeError
from tests.integration.pulling import FILES, QUICK, REPOSITORY, WEIGHTS, Place, recipe
from tests.testkit.fake_hub import FakeHub, digest_of

pytestmark = pytest.mark.slow


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def place(hub: FakeHub, tmp_path: Path) -> Place:
    return Place(hub, tmp_path)


def test_a_pull_gets_every_file_once_and_engines_find_it(hub: FakeHub, place: Place) -> None:
    commit = hub.add(REPOSITORY, FILES)
    tiny = recipe()
    assert not place.store.is_present(tiny)
    with pytest.raises(RecipeError, match="sparkstack pull tiny"):
        place.store.path_of(tiny)

    assert place.pull(tiny) is True

    assert place.files(tiny) == FILES
    assert place.store.path_of(tiny).name == commit
    assert place.store.is_present(tiny)
    assert place.store.size_of(tiny) == sum(map(len, FILES.values()))
    assert hub.served == {name: len(data) for name, data in FILES.items()}
    assert place.partials() == []
    done = place.progress[-1]
    assert (done.all_done, done.all_total) == (place.store.size_of(tiny),) * 2


def test_a_second_pull_asks_nothing_of_the_hub(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    place.pull(recipe())
    hub.requests.clear()
    assert place.pull(recipe()) is False
    assert hub.requests == []


def test_only_the_files_that_the_recipe_names_are_fetched(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, {**FILES, "tiny-Q4.gguf": WEIGHTS[:9000], "tiny-Q8.gguf": WEIGHTS[9000:]})
    q4 = recipe(files=("*Q4.gguf",))
    place.pull(q4)
    assert hub.served == {"tiny-Q4.gguf": 9000}
    assert place.store.path_of(q4).read_bytes() == WEIGHTS[:9000]


def test_patterns_that_match_nothing_are_named(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    with pytest.raises(PullError, match=r"no file like \*\.gguf; correct source\.files"):
        place.pull(recipe(files=("*.gguf",)))


# --- going on where it was left ---------------------------------------------------------------------------------


def test_a_dropped_connection_is_resumed_from_the_byte_where_it_broke(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    for _ in range(3):
        hub.fail("model.safetensors", drop_after=100_000)
    place.pull(recipe())
    assert place.files(recipe()) == FILES
    assert hub.served["model.safetensors"] == len(WEIGHTS)
    ranges = [headers.get("range") for _, path, headers in hub.requests if path.startswith("/store/")]
    assert ranges == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]


def test_what_an_earlier_process_left_is_not_fetched_again(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", drop_after=400_000)
    with pytest.raises(
        PullError, match=r"gave up on model\.safetensors at 400,000 of 600,000 bytes.*goes on from here"
    ):
        place.pull(recipe(), patience=Patience(total_s=0.0, first_wait_s=0.01))
    assert not place.store.is_present(recipe())
    with pytest.raises(RecipeError, match="is not whole yet"):
        place.store.path_of(recipe())

    place.pull(recipe())

    assert place.files(recipe()) == FILES
    assert hub.served["model.safetensors"] == len(WEIGHTS)


def test_a_pull_that_was_begun_stays_on_its_commit_though_the_branch_moves(hub: FakeHub, place: Place) -> None:
    commit = hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", drop_after=1000)
    with pytest.raises(PullError):
        place.pull(recipe(), patience=Patience(total_s=0.0))
    hub.add(REPOSITORY, {**FILES, "model.safetensors": WEIGHTS[::-1]})
    place.pull(recipe())
    assert place.store.path_of(recipe()).name == commit
    assert place.files(recipe()) == FILES


def test_a_hub_without_ranges_sends_the_file_again_and_it_is_right(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", drop_after=50_000)
    hub.fail("model.safetensors", no_ranges=True)
    place.pull(recipe())
    assert place.files(recipe()) == FILES


def test_a_damaged_beginning_is_thrown_away_and_fetched_anew(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", drop_after=50_000)
    with pytest.raises(PullError):
        place.pull(recipe(), patience=Patience(total_s=0.0))
    (partial,) = [path for path in place.partials() if path.stat().st_size == 50_000]
    partial.write_bytes(b"\0" * 50_000)
    place.pull(recipe())
    assert place.files(recipe()) == FILES


def test_a_file_that_is_damaged_on_its_way_never_gets_its_name(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", corrupt=True)
    with pytest.raises(
        PullError, match=r"model\.safetensors has the digest .* it was damaged on its way and is deleted"
    ):
        place.pull(recipe())
    assert not place.store.is_present(recipe())
    assert [path.name for path in (place.folder / "hf").rglob(f"*{digest_of(WEIGHTS)}*")] == []
    place.pull(recipe())
    assert place.files(recipe()) == FILES


# --- checksums --------------------------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the names of the files that are read for their checksums."""
    read: list[str] = []
    original = checksums.hash_file

    def counting(path: Path, *arguments: object, **options: object) -> str:
        read.append(path.name)
        return original(path, *arguments, **options)  # type: ignore[arg-type]

    for module in (downloads, fetching):
        monkeypatch.setattr(module, "hash_file", counting)
    return read


def test_bytes_are_hashed_as_they_come_and_no_file_is_read_again(hub: FakeHub, place: Place, hashed: list[str]) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", drop_after=100_000)
    place.pull(recipe())
    place.pull(recipe())
    assert hashed == []


def test_a_file_that_came_in_two_parts_is_read_once(hub: FakeHub, place: Place, hashed: list[str]) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", drop_after=100_000)
    with pytest.raises(PullError):
        place.pull(recipe(), patience=Patience(total_s=0.0))
    place.pull(recipe())
    place.pull(recipe())
    assert hashed == [f"{digest_of(WEIGHTS)}.sparkstack.incomplete"]
    assert "verifying sha256 digest" in place.said()


def test_verify_reads_everything_and_deletes_what_is_damaged(hub: FakeHub, place: Place, hashed: list[str]) -> None:
    hub.add(REPOSITORY, FILES)
    place.pull(recipe())
    place.pull(recipe(), verify=True)
    assert sorted(hashed) == sorted(FILES)
    blob = (place.store.path_of(recipe()) / "model.safetensors").resolve()
    blob.write_bytes(WEIGHTS[:-1] + b"\0")
    with pytest.raises(PullError, match=r"model\.safetensors of tiny was damaged and is deleted"):
        place.pull(recipe(), verify=True)
    assert not place.store.is_present(recipe())
    place.pull(recipe())
    assert place.files(recipe()) == FILES


# --- revisions --------------------------------------------------------------------------------------------------


def test_a_branch_is_pinned_until_an_upgrade(hub: FakeHub, place: Place) -> None:
    first = hub.add(REPOSITORY, FILES)
    place.pull(recipe())
    second = hub.add(REPOSITORY, {**FILES, "model.safetensors": WEIGHTS[::-1]})

    place.remove(recipe())
    place.pull(recipe())
    assert place.store.path_of(recipe()).name == first

    place.pull(recipe(), upgrade=True)
    assert place.store.path_of(recipe()).name == second
    assert place.files(recipe())["model.safetensors"] == WEIGHTS[::-1]
    assert place.store.pins.former("tiny", recipe().source) == [first]  # type: ignore[arg-type]

    assert place.remove(recipe(), former_only=True) == len(WEIGHTS)
    assert place.files(recipe())["model.safetensors"] == WEIGHTS[::-1]


def test_an_upgrade_that_fails_leaves_the_old_revision_in_use(hub: FakeHub, place: Place) -> None:
    first = hub.add(REPOSITORY, FILES)
    place.pull(recipe())
    hub.add(REPOSITORY, {**FILES, "model.safetensors": WEIGHTS[::-1]})
    hub.fail("model.safetensors", drop_after=5000)
    with pytest.raises(PullError):
        place.pull(recipe(), upgrade=True, patience=Patience(total_s=0.0))
    assert place.store.path_of(recipe()).name == first


def test_a_revision_can_be_asked_for_and_stays(hub: FakeHub, place: Place) -> None:
    other = hub.add(REPOSITORY, {**FILES, "README.md": b"# another"}, branch="v2")
    hub.add(REPOSITORY, FILES)
    place.pull(recipe(), revision="v2")
    assert place.store.path_of(recipe()).name == other
    place.pull(recipe())
    assert place.store.path_of(recipe()).name == other


def test_a_revision_that_does_not_exist_is_named(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    with pytest.raises(PullError, match="has no such revision"):
        place.pull(recipe(), revision="v9")


def test_a_recipe_that_names_a_commit_never_asks_what_a_branch_is(hub: FakeHub, place: Place) -> None:
    commit = hub.add(REPOSITORY, FILES)
    hub.add(REPOSITORY, {**FILES, "README.md": b"# newer"})
    place.pull(recipe(revision=commit))
    assert place.files(recipe(revision=commit)) == FILES
    assert hub.count("GET", "/revision/") == 0


def test_tools_without_a_network_find_the_branch_by_its_name(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    place.pull(recipe())
    script = f"import huggingface_hub as h; print(h.snapshot_download({REPOSITORY!r}, revision='main'))"
    environment = {**os.environ, **place.variables, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == place.store.path_of(recipe())


def test_what_another_tool_has_fetched_is_found_without_a_pull(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    script = f"import huggingface_hub as h; h.snapshot_download({REPOSITORY!r})"
    environment = {**os.environ, **place.variables, "HF_HUB_DISABLE_TELEMETRY": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    assert place.store.is_present(recipe())
    hub.requests.clear()
    assert place.pull(recipe()) is False
    assert hub.requests == []


# --- refused before the first byte ------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_found_before_the_first_byte(
    hub: FakeHub, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPOSITORY, FILES)
    monkeypatch.setattr(downloads, "free_bytes", lambda _folder: 1_000_000_000)
    with pytest.raises(
        PullError, match=r"tiny needs 600\.0 kB at .*/hf/hub.*1\.0 GB are free.*HF_HOME=/path"
    ) as refused:
        place.pull(recipe())
    assert refused.value.code == "no_space"
    assert hub.served == {}


def test_what_is_here_already_needs_no_room(hub: FakeHub, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", drop_after=500_000)
    with pytest.raises(PullError):
        place.pull(recipe(), patience=Patience(total_s=0.0))
    monkeypatch.setattr(downloads, "free_bytes", lambda _folder: 1_000_150_000)
    place.pull(recipe())
    assert place.files(recipe()) == FILES


def test_the_plan_is_shown_before_the_first_byte_and_no_means_no(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    plans: list[DownloadPlan] = []
    with pytest.raises(Declined):
        place.pull(recipe(), confirm=lambda plan: plans.append(plan) or False)  # type: ignore[func-returns-value]
    assert plans[0].needed_bytes == sum(map(len, FILES.values()))
    assert hub.served == {}


@pytest.mark.parametrize("variable", ["OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_is_respected_with_a_sentence(hub: FakeHub, place: Place, variable: str) -> None:
    hub.add(REPOSITORY, FILES)
    place.more[variable] = "1"
    with pytest.raises(PullError, match=f"tiny is not whole here, and {variable}=1 forbids the network; unset it"):
        place.pull(recipe())
    assert hub.requests == []


def test_offline_does_not_matter_to_what_is_here(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    place.pull(recipe())
    place.more["OFFLINE"] = "1"
    assert place.pull(recipe()) is False


# --- keys -------------------------------------------------------------------------------------------------------


def test_a_gated_model_without_a_token_says_where_the_licence_is_and_what_to_set(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.gated[REPOSITORY] = "hf_good"
    expected = rf"gated: accept its licence at {hub.url}/{REPOSITORY}.*HF_TOKEN=hf_"
    with pytest.raises(PullError, match=expected) as refused:
        place.pull(recipe(gated=True))
    assert refused.value.code == "gated"
    assert hub.served == {}


def test_a_token_whose_account_has_not_accepted_is_told_so(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.gated[REPOSITORY] = "hf_good"
    hub.token_of_account = place.more["HF_TOKEN"] = "hf_stranger"
    with pytest.raises(PullError, match="the account of your HF_TOKEN has no access: accept its licence"):
        place.pull(recipe(gated=True))


def test_a_model_that_became_gated_says_the_same(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.gated[REPOSITORY] = "hf_good"
    with pytest.raises(PullError, match="is gated"):
        place.pull(recipe())


def test_the_token_goes_to_the_hub_and_not_to_the_store_of_large_files(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.gated[REPOSITORY] = place.more["HF_TOKEN"] = "hf_good"
    place.pull(recipe(gated=True))
    assert place.files(recipe(gated=True)) == FILES
    sent = {path.startswith("/store/"): set() for _, path, _ in hub.requests}
    for _, path, headers in hub.requests:
        sent[path.startswith("/store/")].add(headers.get("authorization"))
    assert sent == {True: {None}, False: {"Bearer hf_good"}}


# --- a hub that is not well -------------------------------------------------------------------------------------


def test_a_repository_that_does_not_exist_is_named(place: Place) -> None:
    with pytest.raises(PullError, match=f"{REPOSITORY}"):
        place.pull(recipe())


def test_a_hub_that_is_busy_is_asked_again_when_it_says(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", status=429, headers={"Retry-After": "0"})
    hub.fail("/api/revision", status=503)
    place.pull(recipe())
    assert place.files(recipe()) == FILES
    assert "answers 429" in place.said()
    assert "answers 503" in place.said()


def test_a_hub_that_stays_broken_is_given_up(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    for _ in range(3):
        hub.fail("/api/revision", status=500)
    with pytest.raises(PullError, match="answers 500") as failed:
        place.pull(recipe())
    assert failed.value.code == "unreachable"


def test_no_hub_at_all_is_said_in_a_sentence(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    place.more["HF_ENDPOINT"] = "http://127.0.0.1:9"
    with pytest.raises(PullError, match=r"http://127\.0\.0\.1:9 can't be reached"):
        place.pull(recipe())


@pytest.mark.parametrize("size", [len(WEIGHTS) - 1, len(WEIGHTS) + 1])
def test_a_hub_that_sends_another_size_than_it_lists_is_not_believed(hub: FakeHub, place: Place, size: int) -> None:
    hub.add(REPOSITORY, FILES)
    hub.fail("model.safetensors", size=size)
    with pytest.raises(PullError, match=rf"lists model\.safetensors with 600,000 bytes and sends {size:,}"):
        place.pull(recipe())


def test_a_file_above_the_hubs_limit_is_fetched_by_its_library(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    place.pull(recipe(), plain_limit_bytes=100_000)
    assert place.files(recipe()) == FILES
    assert hub.served["model.safetensors"] == len(WEIGHTS)
    assert max(each.all_done or 0 for each in place.progress) == sum(map(len, FILES.values()))


def test_equal_contents_under_two_names_are_fetched_once(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, {"a.safetensors": WEIGHTS, "b.safetensors": WEIGHTS, "config.json": b"{}"})
    place.pull(recipe(), patience=QUICK)
    assert sum(hub.served[name] for name in ("a.safetensors", "b.safetensors")) == len(WEIGHTS)
    assert place.files(recipe())["b.safetensors"] == WEIGHTS


def test_the_hub_is_told_nothing_about_this_machine(hub: FakeHub, place: Place) -> None:
    hub.add(REPOSITORY, FILES)
    place.pull(recipe())
    agents = {headers["user-agent"] for _, _, headers in hub.requests}
    assert {path for _, path, _ in hub.requests if "telemetry" in path or "harness" in path} == set()
    assert not [agent for agent in agents if "torch/" in agent or "agent/" in agent]
    assert hashlib.sha256(WEIGHTS).hexdigest() == digest_of(WEIGHTS)
