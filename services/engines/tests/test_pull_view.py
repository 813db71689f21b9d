"""What a pull shows: a bar on a terminal, lines elsewhere; rate and time left from the last seconds."""

import io

import pytest

from services.engines.files.download_plan import Progress, gigabytes
from services.engines.files.pull_view import Meter, PullView, duration

GB = 1_000_000_000


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def at(done: int, total: int = 10 * GB, status: str = "pulling model.safetensors") -> Progress:
    return Progress(status, "sha256:0", total, done, total, done)


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = Meter()
    meter.add(0, 0)
    assert meter.bytes_per_s is None
    for second in range(1, 41):
        meter.add(second, second * 10 if second <= 20 else 200 + (second - 20) * 100)
    assert meter.bytes_per_s == pytest.approx(100)
    assert meter.left_s(2200 + 500) == pytest.approx(5)


def test_a_rate_is_not_promised_where_nothing_comes() -> None:
    meter = Meter()
    meter.add(0, 5)
    meter.add(10, 5)
    assert meter.bytes_per_s is None
    assert meter.left_s(100) is None


def test_lines_come_every_few_seconds_where_nobody_watches() -> None:
    stream, clock = io.StringIO(), Clock()
    view = PullView(stream, clock)
    for tenth in range(121):
        clock.now = tenth / 10
        view.show(at(tenth * GB // 12))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "  pulling   0%  0 bytes of 10.0 GB"
    assert lines[1] == "  pulling  42%  4.2 GB of 10.0 GB  833.3 MB/s  0:07 left"
    assert len(lines) == 4


def test_on_a_terminal_one_line_changes() -> None:
    stream, clock = Terminal(), Clock()
    view = PullView(stream, clock)
    view.show(at(0))
    clock.now = 1
    view.show(at(5 * GB))
    assert "\n" not in stream.getvalue()
    assert "██████████░░░░░░░░░░ pulling  50%" in stream.getvalue()
    view.clear()
    assert stream.getvalue().endswith("\r\x1b[2K")


def test_a_sentence_is_said_once_and_stays() -> None:
    stream = io.StringIO()
    view = PullView(stream, Clock())
    for _ in range(3):
        view.show(Progress("the hub broke off; trying again in 2 s"))
    assert stream.getvalue() == "  the hub broke off; trying again in 2 s\n"


def test_the_check_after_the_download_starts_a_bar_of_its_own() -> None:
    stream, clock = io.StringIO(), Clock()
    view = PullView(stream, clock)
    view.show(at(10 * GB))
    clock.now = 0.5
    view.show(at(GB, status="verifying sha256 digest of model.safetensors"))
    assert stream.getvalue().splitlines()[-1] == "  verifying  10%  1.0 GB of 10.0 GB"


@pytest.mark.parametrize(("seconds", "text"), [(5, "0:05"), (125, "2:05"), (3800, "1:03:20")])
def test_times_are_said_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1500, "1.5 kB"), (98_362_432, "98.4 MB"), (22e9, "22.0 GB"), (1.1e12, "1.1 TB")],
)
def test_sizes_are_said_as_people_do(count: float, text: str) -> None:
    assert gigabytes(count) == text
