import pytest

from services.cli.logs import FollowedLog, last_lines


@pytest.fixture
def log(tmp_path):
    return tmp_path / "gateway.log"


def append(path, text):
    with path.open("a") as file:
        file.write(text)


def test_the_last_lines(log):
    assert last_lines(log, 3) == []
    log.write_text("".join(f"line {number}\n" for number in range(100_000)))
    assert last_lines(log, 2) == ["line 99998", "line 99999"]
    assert last_lines(log, 0) == []


def test_what_comes_is_followed_line_by_line(log):
    followed = FollowedLog(log)
    assert followed.new() == []
    append(log, "one\ntw")
    assert followed.new() == ["one"]
    append(log, "o\n")
    assert followed.new() == ["two"]
    assert followed.new() == []


def test_following_begins_behind_the_last_lines(log):
    log.write_text("old\n")
    followed = FollowedLog(log)
    assert followed.last(5) == ["old"]
    append(log, "new\n")
    assert followed.new() == ["new"]


def test_a_full_log_that_is_replaced_is_followed_on(log):
    log.write_text("a long line of the old file\n")
    followed = FollowedLog(log)
    followed.last(1)
    log.rename(log.with_suffix(".log.1"))
    log.write_text("first\n")
    assert followed.new() == ["first"]
    log.write_text("")
    assert followed.new() == []
    append(log, "second\n")
    assert followed.new() == ["second"]


def test_bytes_that_are_no_text_are_shown(log):
    log.write_bytes(b"caf\xe9\n")
    assert last_lines(log, 1) == ["caf\ufffd"]
