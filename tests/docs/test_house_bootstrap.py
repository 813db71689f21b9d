"""The bootstrap: which Python it takes, when it has nothing to do, what it hands from pip to uv, what it says."""

import ast
import errno
import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Scripts(NamedTuple):
    """The modules under scripts/, which are not a package."""

    bootstrap: ModuleType
    environments: ModuleType
    failures: ModuleType
    installer: ModuleType
    pip_settings: ModuleType


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        yield Scripts(*(importlib.import_module(name) for name in Scripts._fields))
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def fake_python(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    return path


# --- which Python


def test_the_entry_parses_on_python_3_6() -> None:
    ast.parse((ROOT / "scripts/bootstrap.py").read_text(), feature_version=(3, 6))


def test_an_old_or_broken_python_on_path_is_passed_over(
    scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_python(tmp_path, "python3.13", "echo 'command not found' >&2; exit 127")
    fake_python(tmp_path, "python3", "echo 3 9")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert scripts.bootstrap.find_python() == ""
    good = fake_python(tmp_path, "python3.12", "echo 3 12")
    assert scripts.bootstrap.find_python() == str(good)


def test_a_python_that_is_too_old_or_too_new_gets_a_sentence(
    scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for version in ((3, 9, 2), (3, 15, 0)):
        monkeypatch.setattr(sys, "version_info", version)
        assert scripts.bootstrap.main() == 1
        said = capsys.readouterr().err
        assert "needs Python 3.11 to 3.14" in said
        assert "apt-get install" in said


# --- what is up to date


@pytest.fixture
def place(scripts: Scripts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project's root with two locks and an environment that looks made."""
    (tmp_path / "requirements").mkdir()
    for name in ("embedded", "models"):
        (tmp_path / f"requirements/{name}.lock").write_text("click==8.5.1\n")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(scripts.environments, "ROOT", tmp_path)
    # `lock_files` reads ROOT when it is called
    binaries = tmp_path / ".venv/bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(sys.executable)
    scripts.environments._write_stamp(tmp_path / ".venv", scripts.environments.ENVIRONMENTS["embedded"])
    return tmp_path


def test_an_environment_with_a_fitting_stamp_is_up_to_date(scripts: Scripts, place: Path) -> None:
    assert scripts.environments.what_is_wrong(scripts.environments.ENVIRONMENTS["embedded"]) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda place: shutil.rmtree(place / ".venv"), "does not exist"),
        (lambda place: (place / ".venv/.sparkstack-stamp").unlink(), "half made"),
        (lambda place: (place / ".venv/.sparkstack-stamp").write_text('{"root": '), "half made"),
        (lambda place: (place / "requirements/models.lock").write_text("x==1\n"), "locks or commands have changed"),
        (lambda place: (place / ".venv/bin/python").unlink(), "is gone or another"),
    ],
)
def test_what_is_wrong_with_an_environment_is_told(scripts: Scripts, place: Path, change: object, reason: str) -> None:
    change(place)  # type: ignore[operator]
    assert reason in scripts.environments.what_is_wrong(scripts.environments.ENVIRONMENTS["embedded"])


def test_an_environment_that_was_moved_is_made_anew(
    scripts: Scripts, place: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "clone"
    shutil.copytree(place, elsewhere, symlinks=True)
    monkeypatch.setattr(scripts.environments, "ROOT", elsewhere)
    reason = scripts.environments.what_is_wrong(scripts.environments.ENVIRONMENTS["embedded"])
    assert reason == f"it was made in {place}"


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    scripts: Scripts, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / ".venv/.sparkstack-stamp").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, int(3e8)))
    assert scripts.environments.main(["embedded"]) == 1
    assert ".venv needs 1.6 GB" in capsys.readouterr().err


# --- pip's configuration in uv's words


def test_the_listing_of_pip_is_read_with_the_stronger_section_winning(scripts: Scripts) -> None:
    listing = (
        ":env:.cert='/env/ca.pem'\n:env:.find-links='/wheels'\nglobal.cert='/etc/ca.pem'\n"
        "global.index-url='https://mirror.example/simple'\ninstall.index-url='https://install.example/simple'\n"
        "download.index-url='https://other.example/simple'\nnot a setting\n"
    )
    assert scripts.pip_settings.parse_pip_options(listing) == {
        "cert": "/env/ca.pem",
        "find-links": "/wheels",
        "index-url": "https://install.example/simple",
    }


def test_mirror_certificate_proxy_and_folders_are_handed_to_uv(scripts: Scripts, tmp_path: Path) -> None:
    options = {
        "index-url": "https://mirror.example/simple",
        "extra-index-url": f"\nfile://{tmp_path}\nfile:///not/there\nhttps://more.example/simple",
        "find-links": f"{tmp_path} /not/there",
        "cert": "/etc/ca.pem",
        "proxy": "http://proxy.example:3128",
        "trusted-host": "mirror.example more.example",
        "timeout": "60",
    }
    assert scripts.pip_settings.uv_variables(options, {}) == {
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_INDEX": f"file://{tmp_path} https://more.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": str(tmp_path),
        "SSL_CERT_FILE": "/etc/ca.pem",
        "HTTPS_PROXY": "http://proxy.example:3128",
        "HTTP_PROXY": "http://proxy.example:3128",
        "UV_INSECURE_HOST": "mirror.example more.example",
        "UV_HTTP_TIMEOUT": "60",
        "UV_SYSTEM_CERTS": "1",
    }


def test_what_is_set_for_uv_already_wins_over_pips_configuration(scripts: Scripts) -> None:
    environ = {"UV_DEFAULT_INDEX": "https://own.example/simple", "https_proxy": "http://own:1", "UV_SYSTEM_CERTS": "0"}
    options = {"index-url": "https://a.example", "extra-index-url": "https://b.example", "proxy": "http://c:1"}
    assert scripts.pip_settings.uv_variables(options, environ) == {"HTTP_PROXY": "http://c:1"}


# --- torch


def test_torch_comes_from_a_folder_of_wheels_where_there_is_one_else_from_its_makers(
    scripts: Scripts, tmp_path: Path
) -> None:
    def source(variables: dict[str, str]) -> tuple[str, ...]:
        result: tuple[str, ...] = scripts.environments._torch_source(scripts.installer.Uv(tmp_path / "uv", variables))
        return result

    assert source({}) == source({"UV_FIND_LINKS": f"/not/there,{tmp_path}"}) == ("--torch-backend", "cpu")
    assert source({"UV_TORCH_BACKEND": "cu130"}) == ()
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    assert source({"UV_FIND_LINKS": f"/not/there,{tmp_path}"}) == ()


# --- what is said


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("error: Failed to fetch: `…`\n  Caused by: dns error: failed to lookup address", "HTTPS_PROXY"),
        ("ERROR: Could not find a version that satisfies uv==1 (from versions: none)", "can't be reached"),
        ("invalid peer certificate: UnknownIssuer", "pip config set global.cert"),
        ("error: failed to write: No space left on device (os error 28)", "disk is full"),
        ("error: Hash mismatch for `click==8.5.1`", "mirror"),
        ("Because there is no version of x==1: No solution found", "lacks a pinned version"),
        ("something new", "installer's message is above"),
    ],
)
def test_a_failure_of_the_installer_ends_in_a_sentence(scripts: Scripts, said: str, advice: str) -> None:
    assert advice in scripts.failures.explain(said, offline=False)


def test_offline_a_missing_package_is_no_network_trouble(scripts: Scripts) -> None:
    assert scripts.failures.explain("dns error", offline=True).startswith("OFFLINE=1 is set")


def test_a_file_operation_that_fails_names_the_file(scripts: Scripts) -> None:
    said = scripts.failures.explain_os_error(PermissionError(errno.EACCES, "Permission denied", "/clone/.venv/x"))
    assert said.startswith("/clone/.venv/x: Permission denied. ")
    assert "sudo" in said


# --- the real thing


@pytest.mark.slow
def test_a_copy_of_the_tree_is_set_up_once_and_again_after_it_was_cut_short(tmp_path: Path) -> None:
    clone = tmp_path / "a clone"  # with a space, as on many a desktop
    for name in ("scripts", "requirements", "services"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", clone)
    if (ROOT / ".venvs/uv").exists():
        shutil.copytree(ROOT / ".venvs/uv", clone / ".venvs/uv")

    def bootstrap(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "scripts/bootstrap.py", "embedded", *arguments]
        return subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=110)

    first = bootstrap()
    assert first.returncode == 0, first.stdout + first.stderr
    assert ".venv is ready" in first.stdout
    version = subprocess.run(
        [clone / ".venv/bin/sparkstack", "--version"], capture_output=True, text=True, cwd=tmp_path
    )
    assert version.returncode == 0, version.stderr

    started = time.monotonic()
    environment = {**os.environ, "OFFLINE": "1", "HTTPS_PROXY": "http://127.0.0.1:9"}
    second = subprocess.run(
        [sys.executable, "scripts/bootstrap.py", "embedded"], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert (second.returncode, second.stdout) == (0, "")
    assert time.monotonic() - started < 2

    (clone / ".venv/.sparkstack-stamp").unlink()
    assert bootstrap("--check").returncode == 1
    again = bootstrap()
    assert again.returncode == 0
    assert "it is half made" in again.stdout
