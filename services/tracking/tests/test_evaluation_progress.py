"""The bar of verbs that evaluate: written over on a terminal, seldom and never twice elsewhere."""

import pytest

from services.tracking.commands import progress
from services.tracking.commands.progress import Bar


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_in_a_file_there_is_a_line_now_and_then_and_one_at_the_end(clock, capsys):
    bar = Bar("smollm2 on basics")
    for done in range(41):
        bar.show(done, 40, 0.5)
        clock.now += 1
    bar.show(40, 40, 0.5)
    bar.end()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[4].rstrip(",") for line in lines] == [f"{done}/40" for done in range(0, 41, 5)]
    assert lines[0].endswith(" 0/40")
    assert lines[1].endswith("5/40, score 0.500, 35 s left")
    assert lines[-1].endswith("40/40, score 0.500")


def test_on_a_terminal_one_line_is_written_over_and_left_at_the_end(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    bar = Bar("a judge")
    bar.show(0, 2)
    bar.show(2, 2)
    bar.end()
    bar.end()
    written = capsys.readouterr().err
    assert written.count("\r\x1b[2K") == 2
    assert written.endswith("\n")
    assert written.count("\n") == 1
    assert all(len(part) <= 30 for part in written.split("\r\x1b[2K"))
