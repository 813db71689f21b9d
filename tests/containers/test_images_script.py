"""`scripts/images.py`, with a `docker` command that says what it is told to."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from services import __version__
from tests.containers.dockerfiles import IMAGES, images

# Answers by the beginning of the arguments; what was asked is kept.
FAKE = """#!{python}
import json, sys
from pathlib import Path
folder = Path(__file__).parent
line = " ".join(sys.argv[1:])
with (folder / "asked").open("a") as file:
    file.write(line + "\\n")
if not sys.stdin.isatty() and "--file -" in line:
    (folder / "given").write_text(sys.stdin.read())
for beginning, (status, said) in json.loads((folder / "answers").read_text()).items():
    if line.startswith(beginning):
        print(said)
        sys.exit(status)
sys.exit(f"fake docker: {{line}}")
"""

PRUNE = "image prune --force --filter label=sparkstack.image"
BUILT = {"buildx bake": (0, ""), PRUNE: (0, "")}
HISTORY = """\
0 LABEL org.opencontainers.image.title=x
1500000 COPY /srv/sparkstack /srv/sparkstack # buildkit
300 COPY /opt/sparkstack/bin/sparkstack /opt/sparkstack/bin/sparkstack # buildkit
38000000 COPY /opt/sparkstack /opt/sparkstack # buildkit
2000 RUN /bin/sh -c echo x # buildkit"""


class FakeDocker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "docker"
        program.write_text(FAKE.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        self.answers({})

    def answers(self, given: dict[str, tuple[int, str]]) -> None:
        (self.folder / "answers").write_text(json.dumps(given))

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    @property
    def given(self) -> dict:
        return json.loads((self.folder / "given").read_text())


@pytest.fixture
def docker(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("BASE", raising=False)
    return FakeDocker(tmp_path)


def test_images_are_built_in_one_go_with_the_projects_version(docker):
    docker.answers(BUILT)
    assert images.main(["build", "gateway", "mlflow"]) == 0
    assert docker.asked == ["buildx bake --file -", PRUNE]
    targets = docker.given["target"]
    assert docker.given["group"]["default"]["targets"] == list(targets) == ["gateway", "mlflow"]
    assert targets["mlflow"]["dockerfile"] == "services/tracking/mlflow.Dockerfile"
    assert targets["mlflow"]["tags"] == [f"sparkstack/mlflow:{__version__}"]
    assert targets["mlflow"]["labels"] == {"sparkstack.image": "mlflow"}
    assert targets["mlflow"]["args"] == {"VERSION": __version__, "BASE": images.BASE}


def test_all_images_are_built_where_none_is_named(docker, monkeypatch):
    docker.answers(BUILT)
    monkeypatch.setenv("BASE", "python:3.12-slim")
    assert images.main(["build", "--no-cache"]) == 0
    assert docker.asked == ["buildx bake --file - --no-cache", PRUNE]
    assert list(docker.given["target"]) == list(IMAGES)
    assert {target["args"]["BASE"] for target in docker.given["target"].values()} == {"python:3.12-slim"}


def test_a_build_that_fails_is_told(docker, capsys):
    docker.answers({"buildx bake": (1, "")})
    assert images.main(["build"]) == 1
    assert "could not be built" in capsys.readouterr().err


def test_an_unknown_image_is_named_with_those_that_there_are(docker, capsys):
    assert images.main(["build", "gatevay"]) == 1
    assert "there is no image 'gatevay'; there are docker-proxy, embeddings" in capsys.readouterr().err


def test_a_machine_without_docker_gets_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert images.main(["build"]) == 1
    assert "there is no `docker` command here" in capsys.readouterr().err


def sizes(docker, above_mb: int) -> None:
    docker.answers(
        {
            f"image inspect --format {{{{.Size}}}} {images.BASE}": (0, "100000000"),
            "image inspect --format {{.Size}} sparkstack/": (0, str(100_000_000 + above_mb * 1_000_000)),
            "history": (0, HISTORY),
        }
    )


def test_sizes_are_told_above_the_base_and_by_what_they_are_of(docker, capsys):
    sizes(docker, 40)
    assert images.main(["sizes"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "| gateway | 40 | 60 | 38.0 | – | 1.5 |" in rows
    assert "| engines | 40 | – | 38.0 | – | 1.5 |" in rows


def test_an_image_that_weighs_too_much_is_an_error(docker, capsys):
    sizes(docker, 61)
    assert images.main(["sizes"]) == 1
    assert capsys.readouterr().err == "images: gateway is 61 MB above its base\n"


def test_the_document_gets_its_table_again_and_again(docker, tmp_path, monkeypatch):
    document = tmp_path / "images.md"
    document.write_text(f"# Images\n\n{images.BEGIN}\nold\n{images.END}\nafter\n")
    monkeypatch.setattr(images, "DOCUMENT", document)
    monkeypatch.setattr(images, "ROOT", tmp_path.parent)
    monkeypatch.setattr(images, "images", lambda: [IMAGES["gateway"]])
    monkeypatch.setattr(images, "version", lambda: __version__)
    sizes(docker, 40)
    assert images.main(["sizes", "--write"]) == 0
    once = document.read_text()
    assert once.startswith("# Images\n\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert images.main(["sizes", "--write"]) == 0
    assert document.read_text() == once


def test_an_image_that_is_not_built_is_told_with_what_builds_it(docker, capsys):
    docker.answers({f"image inspect --format {{{{.Size}}}} {images.BASE}": (0, "100"), "image inspect": (1, "")})
    assert images.main(["sizes"]) == 1
    assert "`make images ARGS=docker-proxy` builds it" in capsys.readouterr().err


def listed(*platforms: str) -> str:
    """What a registry says of an image for several platforms, with an attestation."""
    named = [dict(zip(("os", "architecture"), platform.split("/"), strict=True)) for platform in platforms]
    return json.dumps(
        {"manifests": [{"platform": each} for each in (*named, {"os": "unknown", "architecture": "unknown"})]}
    )


def test_images_of_others_are_looked_up_for_their_platforms(docker, capsys):
    docker.answers(
        {
            "compose": (0, f"sparkstack/gateway:{__version__}\nqdrant/qdrant:v1\nnvidia/only:1\n"),
            "buildx imagetools inspect --raw qdrant/qdrant:v1": (0, listed("linux/arm64", "linux/amd64")),
            f"buildx imagetools inspect --raw {images.BASE}": (0, listed("linux/arm64")),
            "buildx imagetools inspect --raw nvcr.io/nvidia/pytorch": (0, listed("linux/arm64")),
            "buildx imagetools inspect --raw nvidia/only:1": (0, json.dumps({"config": {}})),
            "buildx imagetools inspect --format": (0, "linux/arm64"),
        }
    )
    assert images.main(["check"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert {"nvidia/only:1: linux/arm64", "qdrant/qdrant:v1: linux/amd64, linux/arm64"} <= set(told)
    assert not [line for line in told if line.startswith("sparkstack/")]


@pytest.mark.parametrize("answer", [(0, listed("linux/amd64")), (1, "")])
def test_an_image_that_is_not_there_for_arm64_is_an_error(docker, capsys, answer):
    docker.answers({"compose": (0, "some/image:1\n"), "buildx imagetools inspect": answer})
    assert images.main(["check"]) == 1
    said = capsys.readouterr().err
    assert "not there for linux/arm64: " in said
    assert "some/image:1" in said


def test_every_overlay_that_names_an_image_is_looked_through_and_so_are_the_bases(docker):
    docker.answers({"compose": (0, "another/image:1")})
    named = images.others()
    assert {"another/image:1", images.BASE, "nvcr.io/nvidia/pytorch:25.11-py3"} <= set(named)
    files = {Path(word).name for line in docker.asked for word in line.split() if word.endswith(".yaml")}
    texts = {path.name: path.read_text() for path in (images.ROOT / "compose").glob("*.yaml")}
    # engines.yaml is included by compose.yaml.
    assert files == {name for name, text in texts.items() if "image:" in text} - {"engines.yaml"}
