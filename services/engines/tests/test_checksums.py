"""Checksums: the right digests, at no more than a rate, and no file twice."""

import hashlib
import os
import threading
from pathlib import Path

import pytest

from services.engines.files.checksums import Interrupted, Throttle, Verified, hash_file, label, new_hash

DATA = os.urandom(9_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
UNLIMITED = Throttle(0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(DATA)
    return path


def test_a_long_digest_is_a_sha256_and_a_short_one_is_gits(file: Path) -> None:
    git = hashlib.sha1(b"blob 9000000\x00" + DATA).hexdigest()
    assert hash_file(file, SHA256, UNLIMITED) == SHA256
    assert hash_file(file, git, UNLIMITED) == git
    assert (label(SHA256), label(git)) == (f"sha256:{SHA256}", f"sha1:{git}")


def test_gits_name_of_an_empty_file_is_the_known_one() -> None:
    assert new_hash("0" * 40, 0).hexdigest() == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_reading_is_told_piece_by_piece(file: Path) -> None:
    told: list[int] = []
    hash_file(file, SHA256, UNLIMITED, on_bytes=told.append)
    assert told == sorted(told)
    assert told[-1] == len(DATA)
    assert len(told) > 1


def test_a_throttle_gives_all_threads_one_rate() -> None:
    now = 100.0
    throttle = Throttle(10, clock=lambda: now)
    assert throttle.delay_s(5_000_000) == pytest.approx(0.5)
    assert throttle.delay_s(5_000_000) == pytest.approx(1.0)
    now = 102.0
    assert throttle.delay_s(1_000_000) == pytest.approx(0.1)


def test_time_that_nobody_used_is_not_saved_up() -> None:
    now = 0.0
    throttle = Throttle(1, clock=lambda: now)
    now = 1000.0
    assert throttle.delay_s(1_000_000) == pytest.approx(1.0)


def test_without_a_limit_nobody_waits() -> None:
    assert Throttle(0).delay_s(10**12) == 0


def test_hashing_pauses_between_pieces_and_can_be_stopped_in_a_pause(file: Path) -> None:
    stop = threading.Event()
    told: list[int] = []

    def stop_after_the_first(count: int) -> None:
        told.append(count)
        stop.set()

    with pytest.raises(Interrupted):
        hash_file(file, SHA256, Throttle(0.001), stop=stop, on_bytes=stop_after_the_first)
    assert len(told) == 1


def test_a_checked_file_is_known_until_it_changes(file: Path, tmp_path: Path) -> None:
    verified = Verified(tmp_path / "state" / "verified.json")
    assert not verified.knows(file, SHA256)
    verified.add(file, SHA256)
    assert Verified(tmp_path / "state" / "verified.json").knows(file, SHA256)
    assert not verified.knows(file, "0" * 64)
    file.write_bytes(DATA[:-1])
    assert not verified.knows(file, SHA256)


def test_what_is_forgotten_is_not_known_and_the_rest_stays(file: Path, tmp_path: Path) -> None:
    verified = Verified(tmp_path / "verified.json")
    other = tmp_path / "other"
    other.write_bytes(b"")
    verified.add(file, SHA256)
    verified.add(other, "0" * 64)
    verified.forget(file)
    assert not verified.knows(file, SHA256)
    assert verified.knows(other, "0" * 64)


def test_the_record_has_the_form_that_up_reads(file: Path, tmp_path: Path) -> None:
    from services.kit.files import read_json

    verified = Verified(tmp_path / "verified.json")
    verified.add(file, SHA256)
    found = file.stat()
    assert read_json(tmp_path / "verified.json") == {str(file): [SHA256, found.st_size, found.st_mtime_ns]}
