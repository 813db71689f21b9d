"""The Dockerfiles as they are written: ordinary, linted, of one mind with the table of services and the locks."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.stack import SERVICES
from tests.containers.dockerfiles import IMAGES, ROOT, images, instructions, last, locks_of

EACH = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
EACH_SERVICE = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)

# Those of the tests, too.
EVERY = [*(image.dockerfile for image in IMAGES.values()), *sorted(ROOT.glob("tests/containers/**/*Dockerfile"))]


def hadolint() -> str:
    beside = Path(sys.executable).parent / "hadolint"
    found = str(beside) if beside.is_file() else shutil.which("hadolint")
    assert found, "hadolint is missing: `python3 scripts/bootstrap.py test` installs it"
    return found


@pytest.mark.parametrize("path", EVERY, ids=lambda path: str(path.relative_to(ROOT)))
def test_hadolint_has_nothing_to_say(path):
    done = subprocess.run([hadolint(), "--no-color", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@EACH
def test_the_base_is_the_pinned_one_unless_told_otherwise(image):
    first, *others = [each.rest for each in instructions(image.dockerfile) if each.name in ("ARG", "FROM")]
    assert first == f"BASE={images.BASE}"
    stages = {"${BASE}"}
    for line in others:
        words = line.split()
        if len(words) >= 3 and words[-2] == "AS":
            # Of stages that are chosen by an argument, each is a stage of this file.
            assert words[0] in stages or "${WITH}" in words[0]
            stages.add(words[-1])
    assert [line for line in others if line.startswith("${BASE}")]


@EACH
def test_nothing_is_bound_to_one_architecture(image):
    text = image.dockerfile.read_text(encoding="utf-8")
    assert re.findall(r"--platform|TARGETARCH|x86[_-]64|amd64|aarch64|arm64", text) == []


@EACH
def test_packages_come_from_locks_by_their_hashes_as_wheels(image):
    runs = [each.rest for each in instructions(image.dockerfile) if each.name == "RUN"]
    installs = [run for run in runs if re.search(r"\bpip\b.* install ", run)]
    for run in installs:
        for option in ("--require-hashes", "--no-deps", "--only-binary :all:", "--no-compile"):
            assert option in run, option
    assert [name for name in locks_of(image.dockerfile) if not (ROOT / f"requirements/{name}.lock").is_file()] == []
    assert bool(installs) == bool(locks_of(image.dockerfile))


@EACH
def test_an_image_runs_as_a_user_without_rights(image):
    assert last(image.dockerfile, "USER").rest == "10001:10001"


@EACH
def test_an_image_names_what_it_is(image):
    label = last(image.dockerfile, "LABEL").rest
    assert f'org.opencontainers.image.title="sparkstack {image.name}"' in label
    assert 'org.opencontainers.image.version="${VERSION}"' in label
    assert 'org.opencontainers.image.licenses="Apache-2.0"' in label
    assert re.search(r'org\.opencontainers\.image\.description="[^"]{10,}"', label)


@EACH
def test_an_image_has_a_health_check_that_is_quick_at_the_start(image):
    check = last(image.dockerfile, "HEALTHCHECK")
    assert "--start-interval=1s" in check.rest
    assert check.words[0] == "python"


@EACH
def test_what_changes_most_comes_last(image):
    final = [each.rest for each in stage(image)]
    places = [next((i for i, rest in enumerate(final) if folder in rest), None) for folder in images.PARTS.values()]
    packages, models, code = places
    assert code is not None
    assert all(place < code for place in (packages, models) if place is not None)
    # The version changes with each release: what follows it would be made anew.
    version = next(i for i, rest in enumerate(final) if rest.startswith("VERSION="))
    assert all(each.name == "LABEL" for each in stage(image)[version + 1 :])


def stage(image):
    """The instructions of the last stage: those of the image itself."""
    every = instructions(image.dockerfile)
    start = max(i for i, each in enumerate(every) if each.name == "FROM")
    return every[start:]


@EACH_SERVICE
def test_each_service_has_an_image_that_runs_its_command_where_the_table_says(service):
    path = IMAGES[service.name].dockerfile
    assert last(path, "ENTRYPOINT").words == ["sparkstack"]
    assert tuple(last(path, "CMD").words) == service.command
    assert last(path, "EXPOSE").rest == str(service.port)
    assert last(path, "HEALTHCHECK").words == ["python", "-m", "services.cli.healthcheck", service.name]
    host = service.port_variable.removesuffix("PORT") + "HOST"
    assert f"{host}=0.0.0.0" in last(path, "ENV").rest


@EACH_SERVICE
def test_the_image_of_a_service_holds_its_code_and_no_other(service):
    copies = [each.rest.split() for each in instructions(IMAGES[service.name].dockerfile) if each.name == "COPY"]
    folders = {source.split("/")[1] for source, *_ in copies if re.fullmatch(r"services/[a-z_]+", source)}
    assert folders == {"cli", "kit", *service.code}


def test_the_context_is_a_list_of_what_is_let_in():
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line]
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    assert [rule for rule in rules if rule.startswith("!")] == ["!requirements/*.lock", "!scripts/image", "!services"]
    assert {"**/tests", "**/__pycache__"} <= set(rules)


def test_the_table_of_sizes_has_all_images_within_their_limits():
    text = images.DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z-]+) \| (\d+) \| (\d+|–) \|", text, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(IMAGES)
    limits = {name: int(limit) for name, _, limit in rows if limit != "–"}
    assert limits == images.LIMITS_MB
    assert [name for name, size, _ in rows if int(size) > limits.get(name, sys.maxsize)] == []
