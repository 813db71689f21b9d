"""The lock files: whole, with hashes, without addresses, and agreeing with what asks for them."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


@pytest.fixture(scope="module")
def lock_script() -> ModuleType:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return importlib.import_module("lock")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_every_lock_file_is_known_to_the_script_and_the_other_way_round(lock_script: ModuleType) -> None:
    assert {path.stem for path in LOCKS} == {lock.name for lock in lock_script.LOCKS}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_names_no_address_and_no_index(path: Path) -> None:
    text = path.read_text()
    assert [
        word for word in ("://", "http:", "https:", "index-url", "find-links", "file:") if word in text.lower()
    ] == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_a_lock_is_made_of_exact_pins_and_hashes_alone(path: Path, lock_script: ModuleType) -> None:
    (lock,) = (lock for lock in lock_script.LOCKS if lock.name == path.stem)
    for line in path.read_text().splitlines():
        pin = lock_script.PIN.match(line)
        pinned = pin is not None and (line.endswith("\\") or pin["name"] in lock.unhashed)
        assert pinned or line.startswith("    --hash=sha256:"), line


def test_torch_alone_has_no_hash(lock_script: ModuleType) -> None:
    assert {name for lock in lock_script.LOCKS for name in lock.unhashed} == {"torch"}


def test_the_locks_hold_what_is_asked_for_in_versions_that_agree(lock_script: ModuleType) -> None:
    assert [problem for lock in lock_script.LOCKS for problem in lock_script.check(lock)] == []


def test_a_request_that_a_lock_does_not_meet_is_found(lock_script: ModuleType) -> None:
    pins = lock_script.read_pins("click==8.5.1 \\\n    --hash=sha256:00\nh11==0.1 ; python_version < '3'\n")
    assert pins == {"click": {"8.5.1": True}, "h11": {"0.1": False}}


def test_a_lock_that_lags_behind_its_request_is_named(
    lock_script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some.in").write_text("# why\nclick>=9\nnothing-like-it\n")
    (tmp_path / "some.lock").write_text("click==8.5.1 \\\n    --hash=sha256:00\nh11==0.1\n")
    monkeypatch.setattr(lock_script, "FOLDER", tmp_path)
    assert list(lock_script.check(lock_script.Lock("some"))) == [
        "some.lock: h11 has no hash",
        "some.lock has 8.5.1 for click>=9",
        "some.lock has nothing for nothing-like-it",
    ]
