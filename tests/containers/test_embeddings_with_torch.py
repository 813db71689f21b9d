"""The embeddings image as a GPU has it: on a base that brings its own torch; here a torch for the CPU stands in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.containers.boxes import CLOSED
from tests.containers.dockerfiles import IMAGES, ROOT

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]

BASE, TAG = "sparkstack-test/torch-base", "sparkstack-test/embeddings:torch"
TESTS = "services/embeddings/tests"
WHERE = "import json, numpy, torch; print(json.dumps([torch.__file__, numpy.__file__]))"


def wheels() -> Path | None:
    """Return a folder that has a torch for the CPU, where pip is told of one."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import installer
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    places = installer.ensure_uv(ROOT).variables.get("UV_FIND_LINKS", "").split(",")
    return next((Path(place) for place in places if place and list(Path(place).glob("torch-*cpu*.whl"))), None)


@pytest.fixture(scope="module")
def image(engine, tell, tmp_path_factory):
    folder = wheels()
    if folder is None:
        tell("the embeddings image with torch: left out, pip knows no folder (find-links) with a torch for the CPU")
        pytest.skip("optional: there is no folder with a torch for the CPU")

    def build(*arguments):
        done = subprocess.run(
            ["docker", "build", "--quiet", *arguments],
            env=engine.environment,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == 0, done.stderr[-6000:]

    base = ROOT / "tests/containers/torch_base.Dockerfile"
    empty = tmp_path_factory.mktemp("context")
    tell("the base image nvcr.io/nvidia/pytorch of embeddings on a GPU: a torch for the CPU on the usual base")
    try:
        build("--build-context", f"wheels={folder}", "--file", base, "--tag", BASE, empty)
        dockerfile = IMAGES["embeddings"].dockerfile
        build("--build-arg", f"BASE={BASE}", "--build-arg", "WITH=torch", "--file", dockerfile, "--tag", TAG, ROOT)
        yield TAG
    finally:
        engine.docker("image", "rm", "--force", TAG, BASE, check=False)


def test_torch_is_the_bases_and_all_else_the_locks(boxes, image):
    torch, numpy = json.loads(boxes.once(image, "-c", WHERE, user="10001:10001", entrypoint="python"))
    assert torch.startswith("/usr/local/")
    assert numpy.startswith("/opt/sparkstack/")


def test_models_by_torch_are_loaded_and_compute(engine, image):
    mounted = ("--volume", f"{ROOT / TESTS}:/srv/sparkstack/{TESTS}:ro", "--entrypoint", "python")
    said = engine.docker(
        "run",
        "--rm",
        "--network",
        "none",
        *CLOSED,
        *mounted,
        image,
        "-m",
        "services.embeddings.tests.torch_models",
        "/tmp",
    )
    found = json.loads(said.partition("FOUND")[2])
    assert found["embeddings"]["shape"] == [4, 32]
    assert found["cross_encoder"]["scores"] == pytest.approx(found["cross_encoder"]["expected"], abs=1e-5)


def test_the_default_model_is_served_by_it_too(boxes, image):
    container = boxes.run("embeddings", image, EMBEDDINGS_API_KEY="sk-test")
    boxes.wait_until_healthy(container, timeout_s=300)
