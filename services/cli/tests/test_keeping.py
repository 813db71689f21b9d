import contextlib
import json
import socket
import tarfile

import pytest
from click.testing import CliRunner

from services.cli.containers.docker import Docker
from services.cli.keeping import restore as restoring
from services.cli.keeping.backup import any_image, make_backup
from services.cli.keeping.backup_folder import MANIFEST, BackupError, BackupWriter, read_manifest, verify
from services.cli.keeping.folders import kept_entries, read_tar, write_tar
from services.cli.keeping.pausing import containers_stopped
from services.cli.keeping.volumes import Volume, find_volumes, put_back, save
from services.cli.main import cli
from services.cli.tests.fake_docker import FakeDocker, container
from services.kit.files import read_json, write_json, write_private


@pytest.fixture(autouse=True)
def as_processes(monkeypatch, home):
    monkeypatch.setenv("MODE", "embedded")


@pytest.fixture
def filled(home):
    """A stack's state with something in it, which does not run."""
    for name, text in {
        "rag/registry.db": "documents",
        "engines/receipts.jsonl": "{}",
        "internal.key": "key",
        "models/converted/model.safetensors": "large",
        "logs/gateway.log": "lines",
        "verified.json": "{}",
        "backups/old/manifest.json": "{}",
    }.items():
        path = home.state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_private(home.env_file, "SPARKSTACK_API_KEY=sk-1\n")
    return home


def test_what_cannot_be_got_again_is_kept(filled):
    assert sorted(path.name for path in kept_entries(filled)) == [".env", "engines", "internal.key", "names", "rag"]


def test_a_backup_comes_back_whole(filled, tmp_path):
    folder = tmp_path / "kept"
    reply = CliRunner().invoke(cli, ["backup", "--to", str(folder)])
    assert reply.exit_code == 0, reply.output
    assert f"kept 5 parts, 0 MB, in {folder}" in reply.output
    assert "left out: converted models" in reply.output
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}

    (filled.state / "rag/registry.db").write_text("ruined")
    (filled.state / "rag/more.db").write_text("new")
    (filled.state / "engines/receipts.jsonl").unlink()
    filled.env_file.write_text("SPARKSTACK_API_KEY=sk-2\n")
    reply = CliRunner().invoke(cli, ["restore", str(folder), "--yes"])
    assert reply.exit_code == 0, reply.output
    assert (filled.state / "rag/registry.db").read_text() == "documents"
    assert not (filled.state / "rag/more.db").exists()
    assert (filled.state / "engines/receipts.jsonl").read_text() == "{}"
    assert "sk-2" in filled.env_file.read_text(), "the user's own file stays where there is one"
    (safety,) = (filled.state / "backups").glob("before-restore-*")
    assert {part.name for part in read_manifest(safety).parts} == {"rag", "engines", "internal.key", "names", ".env"}


def test_names_of_promotions_from_before_they_had_a_folder_are_taken_along(home):
    (home.state / "aliases.json").write_text("old")
    home.make_folders()
    assert home.aliases.read_text() == "old"
    assert not (home.state / "aliases.json").exists()
    (home.state / "aliases.json").write_text("of an old backup")
    home.make_folders()
    assert home.aliases.read_text() == "old", "what is there stays"


def test_env_comes_back_where_there_is_none(filled, tmp_path):
    CliRunner().invoke(cli, ["backup", "--to", str(tmp_path / "kept")])
    filled.env_file.unlink()
    CliRunner().invoke(cli, ["restore", str(tmp_path / "kept"), "--yes", "--no-safety"])
    assert filled.env_file.read_text() == "SPARKSTACK_API_KEY=sk-1\n"
    assert filled.env_file.stat().st_mode & 0o777 == 0o600


def test_nothing_is_replaced_without_a_yes(filled, tmp_path):
    CliRunner().invoke(cli, ["backup", "--to", str(tmp_path / "kept")])
    (filled.state / "rag/registry.db").write_text("newer")
    reply = CliRunner().invoke(cli, ["restore", str(tmp_path / "kept")])
    assert reply.exit_code == 2
    assert "--yes says that you want it" in reply.output
    assert (filled.state / "rag/registry.db").read_text() == "newer"


def test_a_damaged_backup_replaces_nothing(filled, tmp_path):
    CliRunner().invoke(cli, ["backup", "--to", str(tmp_path / "kept")])
    damaged = tmp_path / "kept" / "folder-rag.tar.gz"
    content = bytearray(damaged.read_bytes())
    content[-9] ^= 1
    damaged.write_bytes(content)
    (filled.state / "rag/registry.db").write_text("newer")
    reply = CliRunner().invoke(cli, ["restore", str(tmp_path / "kept"), "--yes"])
    assert reply.exit_code == 1
    assert "folder-rag.tar.gz is damaged" in reply.output
    assert (filled.state / "rag/registry.db").read_text() == "newer"


def test_a_part_that_cannot_be_put_back_brings_everything_back(filled, tmp_path, monkeypatch):
    CliRunner().invoke(cli, ["backup", "--to", str(tmp_path / "kept")])
    for name in ("rag/registry.db", "engines/receipts.jsonl"):
        (filled.state / name).write_text("newer")
    real = restoring.read_tar

    def full_disk(entry, archive):
        if entry.name == "rag" and archive.is_relative_to(tmp_path / "kept"):
            raise OSError(28, "No space left on device")
        real(entry, archive)

    monkeypatch.setattr(restoring, "read_tar", full_disk)
    reply = CliRunner().invoke(cli, ["restore", str(tmp_path / "kept"), "--yes"])
    assert reply.exit_code == 1
    assert "No space left on device; everything is as it was before" in reply.output
    assert (filled.state / "engines/receipts.jsonl").read_text() == "newer"
    assert (filled.state / "rag/registry.db").read_text() == "newer"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"mode": "compose"}, "is of the mode compose, the stack here is embedded"),
        ({"version": "99.0.0"}, "is of version 99.0.0, this is"),
        ({"format": 2}, "has the format 2; this version reads 1"),
        ({"parts": [{"kind": "folder"}]}, "is damaged"),
    ],
)
def test_a_backup_that_does_not_fit_is_refused(filled, tmp_path, changed, told):
    CliRunner().invoke(cli, ["backup", "--to", str(tmp_path / "kept")])
    manifest = tmp_path / "kept" / MANIFEST
    manifest.write_text(json.dumps({**read_json(manifest), **changed}))
    reply = CliRunner().invoke(cli, ["restore", str(tmp_path / "kept"), "--yes"])
    assert reply.exit_code == 1
    assert told in reply.output


def test_a_folder_without_a_backup_is_named(filled, tmp_path):
    reply = CliRunner().invoke(cli, ["restore", str(tmp_path), "--yes"])
    assert "there is no backup in" in reply.output
    reply = CliRunner().invoke(cli, ["backup", "--to", str(tmp_path)])
    assert "is there already; name another folder" in reply.output


def test_a_backup_that_failed_leaves_nothing_behind(filled, tmp_path):
    writer = BackupWriter(tmp_path / "kept")

    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(BackupError, match=r"rag can't be kept in .*: No space left on device"):
        writer.add("folder", "rag", full)
    with pytest.raises(BackupError, match="it was not finished"):
        read_manifest(tmp_path / "kept.unfinished")
    writer.give_up()
    assert list(tmp_path.glob("kept*")) == []


def test_sockets_are_left_out_and_links_are_not_followed_outside(tmp_path):
    folder = tmp_path / "rag"
    folder.mkdir()
    (folder / "link").symlink_to("real")
    (folder / "real").write_text("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        with (tmp_path / "out.tar").open("wb") as file:
            write_tar(folder, file)
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert sorted(tar.getnames()) == ["rag", "rag/link", "rag/real"]
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        outside = tarfile.TarInfo("rag/../../outside")
        tar.addfile(outside)
    with pytest.raises(tarfile.TarError):
        read_tar(folder, tmp_path / "bad.tar")
    assert (folder / "real").read_text() == "x", "as it was"
    assert not (tmp_path.parent / "outside").exists()
    assert not list(tmp_path.glob(".*.restored")), "nothing is left of the attempt"


# --- containers


@pytest.fixture
def fake(tmp_path):
    return FakeDocker(tmp_path / "bin")


def volumes(fake, **labels):
    fake.answer("volume", "ls", stdout="p_rag\np_models\n")
    project = {"com.docker.compose.project": "p"}
    fake.answer(
        "volume",
        "inspect",
        stdout=[
            {"Name": "p_rag", "Labels": {**project, "com.docker.compose.volume": "rag"}},
            {"Name": "p_models", "Labels": {**project, "com.docker.compose.volume": "models", **labels}},
        ],
    )


def test_caches_are_told_by_their_label(fake):
    volumes(fake, **{"sparkstack.volume": "cache"})
    found = find_volumes(Docker.find(fake.variables), "p")
    assert [(volume.key, volume.is_cache) for volume in found] == [("models", True), ("rag", False)]


def test_a_volume_is_read_through_a_container_that_never_runs(fake, tmp_path):
    fake.answer("create", stdout="c1\n")
    fake.answer("cp", stdout="a tar file")
    fake.answer("rm")
    docker = Docker.find(fake.variables)
    with (tmp_path / "out").open("wb") as file:
        save(docker, Volume("p_rag", "rag", {}), "sparkstack/rag:1", file)
    assert (tmp_path / "out").read_text() == "a tar file"
    assert [words[0] for words in fake.asked] == ["create", "cp", "rm"], "nothing is started"
    assert "type=volume,source=p_rag,target=/volume,volume-nocopy,readonly" in fake.asked[0]
    fake.answer("cp", stderr="no such volume", status=1)
    with pytest.raises(BackupError, match="p_rag can't be read: no such volume"), (tmp_path / "x").open("wb") as file:
        save(docker, Volume("p_rag", "rag", {}), "sparkstack/rag:1", file)
    assert fake.asked[-1][0] == "rm", "the container is removed all the same"


def test_a_volume_is_made_anew_with_its_labels(fake, tmp_path):
    for words in (("volume", "rm"), ("volume", "create"), ("cp",), ("rm",)):
        fake.answer(*words)
    fake.answer("create", "--mount", stdout="c1\n")
    archive = tmp_path / "a.tar"
    archive.write_bytes(b"tar")
    docker = Docker.find(fake.variables)
    put_back(docker, Volume("p_rag", "rag", {"com.docker.compose.volume": "rag"}), "i:1", archive)
    removed, created, *_ = fake.asked
    assert removed == ["volume", "rm", "--force", "p_rag"]
    assert created == ["volume", "create", "--label", "com.docker.compose.volume=rag", "p_rag"]
    fake.answer("volume", "rm", stderr="volume is in use", status=1)
    with pytest.raises(BackupError, match=r"can't be replaced: .*volume is in use"):
        put_back(docker, Volume("p_rag", "rag", {}), "i:1", archive)


def test_services_that_use_no_volume_run_on_and_others_come_back_whatever_happens(fake, home, monkeypatch):
    mount = [{"Type": "volume", "Name": "p_rag", "Destination": "/var/lib/sparkstack"}]
    documents = [container("rag", "p", Mounts=mount), container("gateway", "p")]
    fake.answer("ps", stdout="\n".join(document["Id"] for document in documents))
    fake.answer("inspect", stdout=documents)
    fake.answer("stop")
    fake.answer("start")
    write_json(home.stack_file, {"mode": "compose", "project": "p", "services": {}})
    docker = Docker.find(fake.variables)
    monkeypatch.setenv("PATH", fake.variables["PATH"])
    with contextlib.suppress(RuntimeError), containers_stopped(home, docker, "p", ["p_rag"]) as names:
        assert names == ["rag"]
        raise RuntimeError
    verbs = [words for words in fake.asked if words[0] in ("stop", "start")]
    assert [words[0] for words in verbs] == ["stop", "start"]
    assert all(words[-1] == documents[0]["Id"] for words in verbs)


def test_any_of_the_stacks_images_will_do(fake):
    docker = Docker.find(fake.variables)
    fake.answer("image", "ls", stdout="sparkstack/rag:<none>\nsparkstack/gateway:0.1.0\n")
    assert any_image(docker) == "sparkstack/gateway:0.1.0"
    fake.answer("image", "ls", stdout="")
    with pytest.raises(BackupError, match="none of the stack's images is here"):
        any_image(docker)


def test_verifying_names_what_is_gone(filled, tmp_path):
    make_backup(filled, "embedded", None, tmp_path / "kept")
    manifest = read_manifest(tmp_path / "kept")
    verify(tmp_path / "kept", manifest, 0)
    (tmp_path / "kept" / "folder-rag.tar.gz").unlink()
    with pytest.raises(BackupError, match="can't be read: No such file"):
        verify(tmp_path / "kept", manifest, 0)
