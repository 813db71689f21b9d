import json

import pytest
from click.testing import CliRunner

from services.cli.bundling import bundle as bundling
from services.cli.bundling.bundle import Bundle, machine
from services.cli.main import cli
from services.cli.tests.conftest import CODE
from services.cli.tests.fake_docker import FakeDocker, container
from services.kit.files import read_json, write_json


@pytest.fixture
def fake(tmp_path, home, monkeypatch):
    """A docker that the command line finds."""
    fake = FakeDocker(tmp_path / "bin")
    monkeypatch.setenv("PATH", fake.variables["PATH"])
    monkeypatch.setenv("MODE", "compose")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "p")
    fake.answer("load")
    fake.answer("ps", stdout="")
    fake.answer("image", "ls", stdout="sparkstack/gateway:0.1.0\n")
    fake.answer("volume", "ls", stdout="")
    fake.answer("volume", "rm")
    fake.answer("volume", "create")
    fake.answer("create", "--mount", stdout="c1\n")
    fake.answer("cp")
    fake.answer("rm")
    return fake


@pytest.fixture
def whole(tmp_path):
    """A bundle of containers: an archive of images, and a volume of models."""
    made = Bundle(tmp_path / "bundle")
    made.folder.mkdir()
    made.add("images.tar", lambda file: file.write(b"images"))
    made.add("volumes/models.tar", lambda file: file.write(b"models"), volume="models", labels={"a": "b"})
    document = {"format": 1, "machine": machine(), "mode": "compose", "environments": ["embedded"]}
    write_json(made.folder / "bundle.json", {**document, "images": ["sparkstack/gateway:0.1.0"], "files": made.files})
    return made.folder


def unbundle(folder, *arguments, code=0):
    reply = CliRunner().invoke(cli, ["unbundle", str(folder), *arguments])
    assert reply.exit_code == code, reply.output
    return reply.output


def verbs(fake):
    return [words[0] for words in fake.asked]


def test_images_are_loaded_and_models_get_a_volume_of_the_projects(fake, whole):
    said = unbundle(whole)
    assert "filled the volume p_models" in said
    assert "OFFLINE=1 make up" in said
    assert "images" in fake.stdins[verbs(fake).index("load")]
    (created,) = [words for words in fake.asked if words[:2] == ["volume", "create"]]
    assert created[-1] == "p_models"
    assert "com.docker.compose.project=p" in created
    assert "com.docker.compose.volume=models" in created
    assert "a=b" in created


def test_models_that_are_here_are_left_as_they_are_unless_told_otherwise(fake, whole):
    labels = {"com.docker.compose.project": "p", "com.docker.compose.volume": "models"}
    fake.answer("volume", "ls", stdout="p_models\n")
    fake.answer("volume", "inspect", stdout=[{"Name": "p_models", "Labels": labels}])
    assert "left as it is: the volume p_models" in unbundle(whole)
    assert "cp" not in verbs(fake)
    assert "filled the volume p_models" in unbundle(whole, "--replace")


def test_a_volume_in_use_is_not_replaced(fake, whole):
    labels = {"com.docker.compose.project": "p", "com.docker.compose.volume": "models"}
    fake.answer("volume", "ls", stdout="p_models\n")
    fake.answer("volume", "inspect", stdout=[{"Name": "p_models", "Labels": labels}])
    user = container("engines", "p", Mounts=[{"Type": "volume", "Name": "p_models", "Destination": "/models"}])
    fake.answer("ps", stdout=user["Id"])
    fake.answer("inspect", "--type", stdout=[user])
    assert "used by engines; `make down` first" in unbundle(whole, "--replace", code=1)


def test_a_damaged_bundle_loads_nothing(fake, whole):
    (whole / "images.tar").write_bytes(b"imagex")
    assert "images.tar is missing or damaged; copy the bundle again" in unbundle(whole, code=1)
    (whole / "images.tar").unlink()
    assert "missing or damaged" in unbundle(whole, code=1)
    assert "load" not in verbs(fake)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"machine": "Linux riscv64 Python 3.11"}, "is for Linux riscv64 Python 3.11, this is"),
        ({"format": 9}, "format 9"),
    ],
)
def test_a_bundle_for_another_machine_is_refused(fake, whole, changed, told):
    path = whole / "bundle.json"
    path.write_text(json.dumps({**read_json(path), **changed}))
    assert told in unbundle(whole, code=1)
    assert "load" not in verbs(fake)


def test_a_bundle_of_processes_brings_packages_alone(fake, whole):
    path = whole / "bundle.json"
    path.write_text(json.dumps({**read_json(path), "mode": "embedded"}))
    assert "nothing more to do" in unbundle(whole)
    assert fake.asked == []


def test_a_folder_without_a_bundle_is_named(fake, tmp_path):
    assert "there is no bundle in" in unbundle(tmp_path, code=1)


def test_a_rate_that_is_none_is_named(fake, whole, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_CHECKSUM_MB_PER_S", "fast")
    assert "must be a number of MB" in unbundle(whole, code=1)


@pytest.fixture
def without_wheels(monkeypatch):
    """Packages that need no download."""

    def add(home, made, mode):
        (made.folder / "wheels").mkdir()
        (made.folder / "wheels" / "a.whl").write_bytes(b"wheel")
        made.note(made.folder / "wheels" / "a.whl", 0)
        return ["embedded"]

    monkeypatch.setattr(bundling, "add_wheels", add)


@pytest.mark.skipif(not (CODE / ".git").exists(), reason="not a git checkout: the project's files are had from git")
def test_a_bundle_of_processes_is_the_project_and_its_packages(home, tmp_path, monkeypatch, without_wheels):
    monkeypatch.setenv("MODE", "embedded")
    reply = CliRunner().invoke(cli, ["bundle", "--to", str(tmp_path / "bundle")])
    assert reply.exit_code == 0, reply.output
    manifest = read_json(tmp_path / "bundle" / "bundle.json")
    assert [entry["path"] for entry in manifest["files"]] == ["wheels/a.whl", "source.tar.gz"]
    assert manifest["machine"] == machine()
    assert "make unbundle BUNDLE=/this/folder" in reply.output
    again = CliRunner().invoke(cli, ["bundle", "--to", str(tmp_path / "bundle")])
    assert "is not empty" in again.output


def test_a_bundle_is_made_where_there_is_a_network(home, tmp_path, monkeypatch):
    monkeypatch.setenv("OFFLINE", "1")
    reply = CliRunner().invoke(cli, ["bundle", "--to", str(tmp_path / "bundle")])
    assert reply.exit_code == 1
    assert "a bundle is made where there is a network" in reply.output
    assert not (tmp_path / "bundle").exists()
