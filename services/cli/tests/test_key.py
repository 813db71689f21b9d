import os
import stat

import click
import pytest

from services.cli.home import Home
from services.cli.key import VARIABLE, ensure_env_file


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Variables that the code under test sets are taken back."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


def value(home):
    lines = [line for line in home.env_file.read_text().splitlines() if line.startswith(f"{VARIABLE}=")]
    assert len(lines) == 1
    return lines[0].partition("=")[2]


def test_env_is_made_from_the_example_with_a_key(home):
    (home.root / ".env.example").write_text(f"# says why\n{VARIABLE}=\n#GATEWAY_PORT=8000\n")
    told = ensure_env_file(home)
    assert len(told) == 2
    assert value(home).startswith("sk-spark-")
    assert value(home) not in " ".join(told)
    assert home.env_file.read_text().startswith("# says why\n")
    assert home.env_file.read_text().endswith("\n#GATEWAY_PORT=8000\n")
    assert stat.S_IMODE(home.env_file.stat().st_mode) == 0o600
    assert os.environ[VARIABLE] == value(home)


def test_a_folder_without_an_example_takes_the_codes(home, tmp_path):
    ensure_env_file(home)
    assert "GATEWAY_PORT" in home.env_file.read_text()
    root = tmp_path / "elsewhere"
    root.mkdir()
    os.environ.pop(VARIABLE)
    nowhere = Home(tmp_path / "no code", root, root / ".state")
    ensure_env_file(nowhere)
    assert value(nowhere).startswith("sk-spark-")


def test_a_key_is_kept_for_ever(home):
    ensure_env_file(home)
    first = home.env_file.read_text()
    os.environ.pop(VARIABLE)
    assert ensure_env_file(home) == []
    assert home.env_file.read_text() == first


@pytest.mark.parametrize(
    "text",
    ["", "A=1", f"{VARIABLE}=", f"export {VARIABLE}=", f'A=1\n{VARIABLE}=""  # none yet\nB=2\n', f"{VARIABLE}\nB=2\n"],
)
def test_a_file_without_a_key_gets_one_and_keeps_the_rest(home, text):
    home.env_file.write_text(text)
    ensure_env_file(home)
    assert os.environ[VARIABLE] == value(home)
    assert value(home).startswith("sk-spark-")
    for kept in ("A=1", "B=2"):
        assert (kept in text) == (kept in home.env_file.read_text().splitlines())


def test_an_empty_variable_in_the_environment_is_as_good_as_none(home):
    os.environ[VARIABLE] = ""
    ensure_env_file(home)
    assert os.environ[VARIABLE] == value(home) != ""


def test_a_key_of_the_environment_is_not_written_down(home):
    os.environ[VARIABLE] = "of-the-environment"
    (home.root / ".env.example").write_text(f"{VARIABLE}=\n")
    ensure_env_file(home)
    assert home.env_file.read_text() == f"{VARIABLE}=\n"
    assert os.environ[VARIABLE] == "of-the-environment"


def test_a_key_that_others_can_read_is_closed(home):
    home.env_file.write_text(f"{VARIABLE}=mine\n")
    home.env_file.chmod(0o644)
    (told,) = ensure_env_file(home)
    assert "mode 600" in told
    assert stat.S_IMODE(home.env_file.stat().st_mode) == 0o600


def test_a_link_to_a_file_elsewhere_stays_a_link(home, tmp_path):
    real = tmp_path / "kept elsewhere"
    real.write_text("A=1\n")
    home.env_file.symlink_to(real)
    ensure_env_file(home)
    assert home.env_file.is_symlink()
    assert VARIABLE in real.read_text()


def test_a_file_that_cannot_be_written_is_a_sentence(home):
    home.env_file.mkdir()
    with pytest.raises(click.ClickException, match="can't be made or changed"):
        ensure_env_file(home)
