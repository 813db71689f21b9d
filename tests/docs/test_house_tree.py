"""What the tree promises a stranger: the README's length, the licence, the verbs, where to add what."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Written in pieces, so that this file doesn't hold what it looks for.
NOT_IN_THE_TREE = {
    "a package index": (
        "py" + "pi.org",
        "python" + "hosted.org",
        "npm" + "js.org",
        "deb." + "debian.org",
        "proxy." + "golang.org",
    ),
    "a path of one machine": (
        "/work/" + "main",
        "/work/" + "shared",
        "/tmp/" + "dev/",
        "/opt/" + "pypi",
        "/opt/" + "wheels",
    ),
}


def tracked_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout: there is no list of the tree's files")
    return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def make_verbs() -> set[str]:
    # Inside `make test` the outer make's variables would have this one print its folder, too.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    listing = subprocess.run(["make", "help"], cwd=ROOT, env=plain, capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listing.stdout.splitlines() if line.strip()}


def test_the_readme_has_at_most_150_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_licence_is_the_whole_apache_licence() -> None:
    text = " ".join((ROOT / "LICENSE").read_text().split())
    assert text.startswith("Apache License Version 2.0, January 2004")
    for part in ("3. Grant of Patent License.", "9. Accepting Warranty", "APPENDIX: How to apply the Apache License"):
        assert part in text


def test_make_help_lists_the_verbs() -> None:
    promised = "help up down restart status logs doctor test test-fast test-slow check fmt lock lock-check bench"
    assert set(promised.split()) | {"bench-peers", "clean", "distclean"} <= make_verbs()


def test_every_verb_of_the_makefile_is_in_its_help() -> None:
    rules = re.findall(r"^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(rules) == make_verbs()


def test_documents_name_only_verbs_that_exist() -> None:
    named = set()
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        named |= set(re.findall(r"`(?:[A-Z]+=\S+ )*make ([a-z-]+)", path.read_text()))
    assert named <= make_verbs()


def test_no_file_of_the_tree_names_a_package_index_or_a_path_of_one_machine() -> None:
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", errors="ignore")
        for what, words in NOT_IN_THE_TREE.items():
            found += [f"{path.relative_to(ROOT)}: {what}: {word}" for word in words if word in text]
    assert found == []


def where_to_add() -> list[str]:
    """Return the paths in backticks of the table under the heading "Where to add"."""
    document = (ROOT / "docs/architecture.md").read_text()
    section = re.search(r"^#+ +Where to add\b[^\n]*\n(?P<body>.*?)(?=^#|\Z)", document, re.M | re.S | re.I)
    assert section, "docs/architecture.md has no heading 'Where to add'"
    rows = [line for line in section["body"].splitlines() if line.startswith("|")]
    words = [word for row in rows for word in re.findall(r"`([^`]+)`", row)]
    return [word for word in words if "/" in word and " " not in word and not word.startswith(("/", "http"))]


def test_every_path_of_the_table_where_to_add_exists() -> None:
    paths = where_to_add()
    assert len(paths) >= 5
    assert [path for path in paths if not list(ROOT.glob(re.sub(r"<[^>]+>", "*", path).rstrip("/")))] == []


def test_the_shell_scripts_parse() -> None:
    bash = shutil.which("bash")
    assert bash
    scripts = [ROOT / ".ci/run", *ROOT.glob("scripts/*.sh")]
    for path in scripts:
        done = subprocess.run([bash, "-n", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
