"""What a machine without a network does with a bundle, before anything is installed on it."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MACHINE = f"{platform.system()} {platform.machine()} Python {sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def project(tmp_path):
    """What of the project runs before there is an environment."""
    folder = tmp_path / "project"
    for name in ("scripts", "requirements", "services/kit"):
        (folder / name).mkdir(parents=True)
    for path in (*ROOT.glob("scripts/*.py"), *ROOT.glob("requirements/uv.*"), ROOT / "services/kit/digests.py"):
        shutil.copy(path, folder / path.relative_to(ROOT))
    for name in ("services/__init__.py", "services/kit/__init__.py"):
        (folder / name).write_text("")
    return folder


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "wheels").mkdir(parents=True)
    (folder / "wheels" / "a-1-py3-none-any.whl").write_bytes(b"a wheel")
    files = [{"path": "wheels/a-1-py3-none-any.whl", "sha256": hashlib.sha256(b"a wheel").hexdigest()}]
    write(folder, format=1, machine=MACHINE, environments=[], files=[*files, {"path": "images.tar", "sha256": "0"}])
    return folder


def write(folder, **document):
    path = folder / "bundle.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **document}))


def python(project, *arguments, code=0, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_", "BUNDLE"))}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env={**environment, **variables}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def take(project, folder, code=0, **variables):
    return python(project, "scripts/bundle.py", "take", *([str(folder)] if folder else []), code=code, **variables)


def test_wheels_are_checked_and_kept(project, bundle):
    said = take(project, bundle)
    assert "checking 1 wheels" in said
    assert (project / ".bundle/wheels/a-1-py3-none-any.whl").read_bytes() == b"a wheel"
    assert take(project, None, BUNDLE=str(bundle)), "or by the variable, as make gives it"
    assert [path.name for path in (project / ".bundle").iterdir()] == ["wheels"], (
        "a second time takes the first's place"
    )


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"machine": "Linux riscv64 Python 3.11"}, "was made on a machine of the kind Linux riscv64 Python 3.11"),
        ({"format": 2}, "has the format 2; this version reads 1"),
    ],
)
def test_a_bundle_for_another_machine_is_refused(project, bundle, changed, told):
    write(bundle, **changed)
    assert told in take(project, bundle, code=1)
    assert not (project / ".bundle").exists()


def test_a_damaged_wheel_is_refused(project, bundle):
    take(project, bundle)
    (bundle / "wheels" / "a-1-py3-none-any.whl").write_bytes(b"another")
    assert "is missing or damaged; copy the bundle again" in take(project, bundle, code=1)
    assert (project / ".bundle/wheels/a-1-py3-none-any.whl").read_bytes() == b"a wheel", "as it was"


def test_what_is_no_bundle_is_named(project, tmp_path):
    assert "there is no bundle in" in take(project, tmp_path, code=1)
    assert "which bundle? make unbundle BUNDLE=/folder" in take(project, None, code=1)


LOOK = """
import contextlib, sys
sys.path.insert(0, "scripts")
from pathlib import Path
import installer
# An installer that is here, and a pip without a configuration.
installer.has_uv = lambda root: True
installer.pip = lambda root: contextlib.nullcontext(["false"])
uv = installer.ensure_uv(Path.cwd())
print(uv.no_index, uv.variables.get("UV_FIND_LINKS", "").split(",")[-1])
"""


def test_the_installer_looks_at_the_bundle_alone_where_there_is_no_network(project, bundle):
    before = python(project, "-c", LOOK, OFFLINE="1")
    assert before.split() == ["False"]
    take(project, bundle)
    place = str(project / ".bundle" / "wheels")
    assert python(project, "-c", LOOK, OFFLINE="1").split() == ["True", place]
    assert python(project, "-c", LOOK).split() == ["False", place], "it is one more place"
