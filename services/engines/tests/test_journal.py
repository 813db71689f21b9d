import pytest

from services.engines.loading.journal import Journal, Running

ENGINE = Running("m", "llamacpp-m", "llamacpp", 8080, "k", 5, "abc")


@pytest.fixture
def boot(tmp_path):
    path = tmp_path / "boot_id"
    path.write_text("first\n")
    return path


def test_what_runs_is_known_to_the_next_service(tmp_path, boot):
    Journal(tmp_path / "engines", boot).write_running([ENGINE])
    assert Journal(tmp_path / "engines", boot).running() == [ENGINE]
    assert (tmp_path / "engines" / "running.json").stat().st_mode & 0o077 == 0, "it holds keys"


def test_a_load_that_the_machines_stop_cut_off_is_known_after_it(tmp_path, boot):
    journal = Journal(tmp_path, boot)
    journal.begin_load("big")
    assert journal.unfinished_load() is None, "the machine runs on: the service alone has ended"
    boot.write_text("second\n")
    assert journal.unfinished_load() == "big"
    journal.end_load()
    assert journal.unfinished_load() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"engines": [{"model": 1}]}', '{"model": 5, "boot": "x"}'])
def test_a_broken_file_counts_as_not_written(tmp_path, boot, content):
    journal = Journal(tmp_path, boot)
    for name in ("running.json", "loading.json"):
        (tmp_path / name).write_text(content)
    assert journal.running() == []
    assert journal.unfinished_load() is None
