"""`make upgrade`: a new version that answers stays; one that doesn't goes, and everything is as it was."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VERSION = '__version__ = "{}"\n'
# The stack of these tests: `up` fails in a version that says so, and writes what a newer version's data looks like.
MAKEFILE = """\
up:
\t@grep -q broken services/__init__.py && { echo "it does not start"; exit 1; } || true
\t@cp services/__init__.py .state/started
\t@echo '{"mode": "embedded"}' > .state/stack.json
down:
\t@rm -f .state/stack.json
"""
SPARKSTACK = """\
#!/bin/sh
echo "sparkstack $*" >> "$LOG"
case $1 in
backup) mkdir -p "$3" && cp -r .state/data "$3/data" ;;
restore) rm -rf .state/data && cp -r "$2/data" .state/data ;;
esac
"""


@pytest.fixture
def git(tmp_path):
    def run(folder, *arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def upstream(tmp_path, git):
    """The project as it is published: one version so far."""
    folder = tmp_path / "upstream"
    (folder / "services").mkdir(parents=True)
    (folder / "scripts").mkdir()
    git(tmp_path, "init", "--quiet", str(folder))
    for name in ("upgrade.py", "failures.py"):
        shutil.copy(ROOT / "scripts" / name, folder / "scripts" / name)
    (folder / "scripts" / "bootstrap.py").write_text("")
    (folder / "Makefile").write_text(MAKEFILE)
    (folder / ".gitignore").write_text(".state/\n.venv/\n__pycache__/\n")
    publish(git, folder, "1.0")
    return folder


def publish(git, folder, version):
    (folder / "services" / "__init__.py").write_text(VERSION.format(version))
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", version)
    git(folder, "tag", f"v{version}")


@pytest.fixture
def clone(tmp_path, upstream, git):
    """A user's clone, whose stack runs and keeps data."""
    folder = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(upstream), str(folder))
    command = folder / ".venv" / "bin" / "sparkstack"
    command.parent.mkdir(parents=True)
    command.write_text(SPARKSTACK)
    command.chmod(0o755)
    (folder / ".state" / "data").mkdir(parents=True)
    (folder / ".state" / "data" / "documents").write_text("of 1.0")
    (folder / ".state" / "stack.json").write_text('{"mode": "embedded"}')
    return folder


def upgrade(folder, code=0, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in ("TO", "OFFLINE") and not k.startswith("SPARKSTACK")}
    log = folder / ".state" / "log"
    done = subprocess.run(
        [sys.executable, "scripts/upgrade.py"], cwd=folder, env={**environment, "LOG": str(log), **variables},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def version(folder):
    return (folder / "services" / "__init__.py").read_text()


def test_a_new_version_that_answers_stays(clone, upstream, git):
    publish(git, upstream, "1.1")
    said = upgrade(clone)
    assert "from v1.0 to v1.1" in said
    assert "v1.1 is here and answers" in said
    assert version(clone) == VERSION.format("1.1") == (clone / ".state/started").read_text()
    assert git(clone, "symbolic-ref", "--short", "HEAD") == "main", "still on its branch"
    (snapshot,) = (clone / ".state/backups").iterdir()
    assert (snapshot / "data/documents").read_text() == "of 1.0"
    assert "nothing to do: v1.1 is here already" in upgrade(clone)
    assert len(list((clone / ".state/backups").iterdir())) == 1


def test_a_new_version_that_does_not_answer_goes_and_takes_nothing_with_it(clone, upstream, git):
    publish(git, upstream, "2.0-broken")
    old = git(clone, "rev-parse", "HEAD")
    (clone / ".env").write_text("KEY=1\n")
    said = upgrade(clone, code=3)
    assert "it does not start" in said
    assert "v1.0 is back and answers; nothing of yours is lost" in said
    assert git(clone, "rev-parse", "HEAD") == old
    assert git(clone, "symbolic-ref", "--short", "HEAD") == "main"
    assert version(clone) == (clone / ".state/started").read_text() == VERSION.format("1.0")
    assert (clone / ".state/data/documents").read_text() == "of 1.0"
    assert (clone / ".env").read_text() == "KEY=1\n"
    log = (clone / ".state/log").read_text().splitlines()
    assert [line.split()[1] for line in log] == ["backup", "restore"]


def test_data_that_the_new_version_has_changed_is_put_back(clone, upstream, git):
    (upstream / "Makefile").write_text(MAKEFILE.replace("up:\n", "up:\n\t@echo migrated > .state/data/documents\n"))
    publish(git, upstream, "2.0-broken")
    upgrade(clone, code=3)
    assert (clone / ".state/data/documents").read_text() == "of 1.0"


def test_a_version_that_is_named_is_checked_out(clone, upstream, git):
    publish(git, upstream, "1.1")
    publish(git, upstream, "1.2")
    assert "from v1.0 to v1.1" in upgrade(clone, TO="v1.1")
    assert version(clone) == VERSION.format("1.1")
    assert "from v1.1 to v1.0" in upgrade(clone, TO="v1.0"), "and back"
    assert "TO=v9: there is no such tag, branch or commit" in upgrade(clone, code=1, TO="v9")


def test_offline_only_what_is_here_can_be_had(clone, upstream, git):
    publish(git, upstream, "1.1")
    assert "nothing to do" in upgrade(clone, OFFLINE="1")
    assert "there is no such tag" in upgrade(clone, code=1, OFFLINE="1", TO="v1.1")


def test_a_stack_that_did_not_run_is_not_started(clone, upstream, git):
    (clone / ".state/stack.json").unlink()
    publish(git, upstream, "1.1")
    assert "v1.1 is here; `make up` starts it" in upgrade(clone)
    assert not (clone / ".state/started").exists()


def test_changed_files_are_not_touched(clone, upstream, git):
    publish(git, upstream, "1.1")
    (clone / "services" / "__init__.py").write_text("mine")
    assert "files of the project are changed here (services/__init__.py)" in upgrade(clone, code=1)
    assert version(clone) == "mine"


def test_commits_of_ones_own_are_not_lost(clone, upstream, git):
    (clone / "own").write_text("mine")
    git(clone, "add", "own")
    git(clone, "commit", "--quiet", "-m", "mine")
    publish(git, upstream, "1.1")
    assert "the branch may have commits of its own" in upgrade(clone, code=1)
    assert (clone / "own").read_text() == "mine"
    assert version(clone) == VERSION.format("1.0")


def test_a_snapshot_that_fails_changes_nothing(clone, upstream, git):
    publish(git, upstream, "1.1")
    (clone / ".venv/bin/sparkstack").write_text("#!/bin/sh\nexit 1\n")
    assert "can't be copied (above); nothing was changed" in upgrade(clone, code=1)
    assert version(clone) == VERSION.format("1.0")


def test_a_few_snapshots_are_kept(clone, upstream, git):
    for day in range(1, 6):
        (clone / ".state/backups" / f"before-upgrade-2026-01-0{day}").mkdir(parents=True)
    (clone / ".state/backups/of-the-user").mkdir()
    publish(git, upstream, "1.1")
    upgrade(clone)
    kept = sorted(path.name for path in (clone / ".state/backups").iterdir())
    assert kept[:2] == ["before-upgrade-2026-01-04", "before-upgrade-2026-01-05"]
    assert len(kept) == 4
    assert kept[-1] == "of-the-user"


def test_without_a_branch_to_follow_a_version_has_to_be_named(clone, git):
    git(clone, "checkout", "--quiet", "--detach", "HEAD")
    assert "name one: make upgrade TO=NAME" in upgrade(clone, code=1)
    shutil.rmtree(clone / ".git")
    assert "is no git checkout" in upgrade(clone, code=1)
