"""What is in the images, once they are built."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from services import __version__
from tests.containers.boxes import Boxes
from tests.containers.conftest import build
from tests.containers.dockerfiles import IMAGES, ROOT, images, locks_of

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

EACH = pytest.mark.parametrize("name", IMAGES)
# Folders that a container's user may write to where the root isn't read-only: for all, and the state of some.
WRITABLE = {"/tmp", "/var/tmp", "/run/lock", "/var/lib/sparkstack", "/models"}
# What a build leaves behind, beside what the base image has.
LEFT_BEHIND = (
    "for tool in gcc cc c++ g++ clang ld as strip make cmake cargo rustc go git curl wget; do command -v $tool; done; "
    "find / -xdev '(' -name '*.whl' -o -name '*.deb' -o -path '/var/lib/apt/lists/*' -o -path '/root/.cache/*' "
    "-o -path '/tmp/?*' -o -path '*/.git/*' -o -name '.env' -o -path '/srv/*/test*' -o -path '/srv/*/conftest.py' ')' "
    "-print; true"
)
WRITABLE_BY_ME = (
    "echo $(id -u) $(id -g); "
    "find / -xdev '(' -path /proc -o -path /dev ')' -prune -o -type d -writable -print 2>/dev/null; "
    "find /opt /srv /etc /usr -xdev -type f -writable 2>/dev/null; true"
)
WITHOUT_BYTECODE = """
import importlib.util, pathlib
for path in pathlib.Path("/srv").rglob("*.py"):
    if not pathlib.Path(importlib.util.cache_from_source(path)).is_file():
        print(path)
"""
# Each file below the folders that are ours: mode, owner, and what is in it.
LISTING = """
import hashlib, json, os, sys
found = {}
for top in ("/opt", "/srv", "/models", "/var/lib/sparkstack", "/etc/passwd", "/etc/group"):
    paths = [top] if os.path.isfile(top) else [os.path.join(d, n) for d, ds, fs in os.walk(top) for n in ds + fs]
    for path in paths:
        about = os.lstat(path)
        link = os.path.islink(path)
        content = os.readlink(path) if link else ""
        if not link and os.path.isfile(path):
            content = hashlib.sha256(open(path, "rb").read()).hexdigest()
        found[path] = [oct(about.st_mode), about.st_uid, about.st_gid, content]
print(json.dumps(found))
"""


def config(engine, tag):
    return json.loads(engine.docker("image", "inspect", "--format", "{{json .Config}}", tag))


@pytest.fixture(scope="module")
def left_in_base(engine):
    boxes = Boxes(engine, "")
    return set(boxes.once(images.base(), "-c", LEFT_BEHIND).splitlines())


@EACH
def test_it_runs_as_a_user_who_can_write_nowhere_but_in_its_state(boxes, built, name):
    who, _, found = boxes.once(built[name], "-c", WRITABLE_BY_ME, user="10001:10001").partition("\n")
    assert who == "10001 10001"
    assert set(found.split()) <= WRITABLE


@EACH
def test_no_compiler_cache_or_test_is_left(boxes, built, left_in_base, name):
    found = set(boxes.once(built[name], "-c", LEFT_BEHIND).splitlines())
    assert sorted(found - left_in_base) == []


@EACH
def test_all_code_comes_with_its_bytecode(boxes, built, name):
    # On a root that nobody can write to, each start would compile what has none.
    assert boxes.once(built[name], "-c", WITHOUT_BYTECODE, entrypoint="python3") == ""


@EACH
def test_it_says_what_it_is_and_of_which_version(engine, built, name):
    labels = config(engine, built[name])["Labels"]
    assert labels["org.opencontainers.image.title"] == f"sparkstack {name}"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


@EACH
def test_no_variable_of_an_image_is_a_key(engine, built, name):
    names = {entry.partition("=")[0] for entry in config(engine, built[name])["Env"]}
    assert [each for each in names if re.search(r"KEY|SECRET|TOKEN|PASSWORD", each)] == []


def test_an_image_is_of_the_machines_own_platform(engine, built):
    machine = engine.docker("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}")
    template = "{{.Os}}/{{.Architecture}}"
    assert {engine.docker("image", "inspect", "--format", template, tag) for tag in built.values()} == {machine}


@pytest.fixture(scope="module")
def uv():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import installer
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return installer.ensure_uv(ROOT)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("lock", sorted({name for image in IMAGES.values() for name in locks_of(image.dockerfile)}))
def test_every_package_of_an_image_has_a_wheel_for_both_architectures(uv, tmp_path, lock, machine):
    text = (ROOT / f"requirements/{lock}.lock").read_text(encoding="utf-8")
    wanted = tmp_path / "packages.txt"
    wanted.write_text(re.sub(r"^torch==.*\n", "", text, flags=re.MULTILINE), encoding="utf-8")  # the base's
    command = ["pip", "sync", "--dry-run", "--only-binary", ":all:", "--require-hashes", "--python-version", "3.11"]
    # bookworm's C library
    command += ["--target", str(tmp_path / "nowhere"), "--python-platform", f"{machine}-manylinux_2_36"]
    done = subprocess.run(
        [str(uv.path), *command, str(wanted)], env=uv.variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


def test_no_image_weighs_more_than_it_may_nor_than_the_document_says(engine, built, monkeypatch):
    for variable, value in engine.environment.items():
        monkeypatch.setenv(variable, value)
    found = {each.name: images.megabytes(each.above) for each in images.sizes()}
    assert {name: found[name] for name, limit in images.LIMITS_MB.items() if found[name] > limit} == {}
    rows = re.findall(r"^\| ([a-z-]+) \| (\d+) \|", images.DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    written = {name: int(size) for name, size in rows}
    different = {name: size for name, size in found.items() if abs(size - written[name]) > 3 + 0.05 * size}
    assert different == {}, "`make images-sizes` writes the document"


@pytest.mark.parametrize("name", ["gateway", "docker-proxy"])
def test_two_builds_make_the_same_files(engine, boxes, built, tmp_path, name):
    def listing():
        return json.loads(boxes.once(built[name], "-c", LISTING, entrypoint="python3"))

    # Of a copy, which nobody edits meanwhile.
    for part in ("services", "scripts", "requirements"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    build(engine, name, root=tmp_path)
    first = listing()
    build(engine, "--no-cache", name, root=tmp_path)
    second = listing()
    assert sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path)) == []
