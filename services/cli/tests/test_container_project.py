import os
from dataclasses import replace
from pathlib import Path

import click
import pytest

from services.cli.containers import checks, images
from services.cli.containers.checks import (
    check_boot,
    check_disk,
    check_driver,
    check_engine,
    check_gpu,
    check_memory_plan,
    check_platforms,
    check_ports,
    check_toolkit,
    check_unified_memory,
)
from services.cli.containers.containers import Container
from services.cli.containers.docker import Docker, DockerError, Engine
from services.cli.containers.host import Host
from services.cli.containers.project import (
    Config,
    Project,
    choose_profile,
    choose_project,
    project_name,
    recorded_project,
)
from services.cli.containers.secret_files import ensure_secrets, folder_of, forget_unknown
from services.cli.containers.up import refuse_anothers
from services.cli.tests.fake_docker import FakeDocker
from services.kit.files import write_json
from tests.testkit.ports import free_listener, free_port

ENGINE = Engine("26.1.5", "2.26.1", "x86_64", Path("/"))
SPARK = replace(ENGINE, architecture="aarch64", runtimes=("runc", "nvidia"))
CONFIG = {
    "services": {
        "gateway": {
            "image": "sparkstack/gateway:0.1.0",
            "ports": [{"host_ip": "127.0.0.1", "target": 8000, "published": "8000", "protocol": "tcp"}],
        },
        "qdrant": {"image": "qdrant/qdrant:v1.19.0"},
        "llamacpp-smollm2": {
            "image": "sparkstack/llamacpp:0.1.0",
            "labels": {"sparkstack.instance": "llamacpp-smollm2"},
        },
    },
    "secrets": {"internal_key": {"file": "/s/internal_key"}, "outside": {"environment": "X"}},
    "volumes": {"rag": {"name": "sparkstack_rag"}, "models": None},
}


@pytest.fixture
def fake(tmp_path):
    return FakeDocker(tmp_path / "bin")


@pytest.fixture
def docker(fake):
    return Docker.find(fake.variables)


@pytest.fixture
def checkout(home, tmp_path):
    """A home whose compose files are this test's."""
    folder = tmp_path / "code" / "compose"
    folder.mkdir(parents=True)
    for name in ("compose", "cpu", "qdrant", "offline", "ollama-port", "models-folder", "sglang"):
        (folder / f"{name}.yaml").write_text("services: {}\n")
    return replace(home, code=tmp_path / "code")


def names(project):
    return [path.stem for path in project.files]


# --- which files and profiles


def test_the_core_is_one_file_and_an_overlay_of_the_profile(checkout, docker):
    project = choose_project(checkout, docker, "cpu", {})
    assert names(project) == ["compose", "cpu"]
    assert (project.name, project.profiles, project.engine_profiles) == ("sparkstack", (), ("cpu",))
    assert project.variables["ENGINES_PROFILES"] == "cpu"
    assert project.variables["SPARKSTACK_SECRETS"] == str(checkout.state / "secrets")


def test_more_profiles_bring_their_overlays_and_engines_replace_the_default_one(checkout, docker, tmp_path):
    extra = tmp_path / "extra.yaml"
    extra.write_text("services: {}\n")
    variables = {
        "PROFILES": "qdrant, sglang ui", "OFFLINE": "1", "COMPOSE_EXTRA": str(extra),
        "COMPOSE_PROJECT_NAME": "second", "SPARKSTACK_MODELS": "/data",
    }  # fmt: skip
    project = choose_project(checkout, docker, "spark", variables, ollama_port=11434)
    assert names(project) == ["compose", "qdrant", "sglang", "ollama-port", "models-folder", "offline", "extra"]
    assert project.profiles == ("qdrant", "ui")
    assert project.engine_profiles == ("sglang",)
    assert project.name == "second"
    assert project.variables["GATEWAY_OLLAMA_PORT"] == "11434"


def test_engines_are_named_to_compose_only_where_they_are_meant(checkout, docker):
    project = choose_project(checkout, docker, "cpu", {"PROFILES": "qdrant"})
    assert [word for word in project.words("up") if word in ("qdrant", "cpu")] == ["qdrant"]
    assert [word for word in project.words("create", engines=True) if word in ("qdrant", "cpu")] == ["qdrant", "cpu"]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"COMPOSE_EXTRA": "/none.yaml"}, "no compose file /none.yaml"),
        ({"COMPOSE_PROJECT_NAME": "A b"}, "small letters"),
    ],
)
def test_what_is_not_there_is_named(checkout, docker, variables, told):
    with pytest.raises(click.ClickException, match=told):
        choose_project(checkout, docker, "cpu", variables)


def test_what_was_recorded_calls_compose_in_the_same_way(checkout, docker):
    project = choose_project(checkout, docker, "cpu", {"PROFILES": "qdrant"})
    write_json(checkout.stack_file, {"mode": "compose", **project.record()})
    assert recorded_project(checkout, docker) == project
    checkout.stack_file.unlink()
    assert recorded_project(checkout, docker).name == "sparkstack"


def test_the_profile_follows_the_machine_and_the_user_wins():
    assert choose_profile({}, ENGINE) == ("cpu", "Docker has no NVIDIA runtime")
    assert choose_profile({}, SPARK) == ("spark", "Docker has the NVIDIA runtime")
    other = replace(SPARK, architecture="x86_64")
    assert choose_profile({}, other)[0] == "cpu"
    assert choose_profile({"PROFILE": "spark"}, other) == ("spark", "PROFILE says so")
    assert choose_profile({"PROFILE": "cpu"}, SPARK) == ("cpu", "PROFILE says so")
    with pytest.raises(click.ClickException, match="PROFILE=tpu: there is no such profile; there are: cpu, spark"):
        choose_profile({"PROFILE": "tpu"}, ENGINE)


def test_containers_of_another_folder_are_not_taken_over(home):
    own = {"gateway": Container("1", "g", "gateway", "running", folder=str(home.code / "compose"))}
    refuse_anothers(own, home, "sparkstack")
    with pytest.raises(
        click.ClickException, match=r"name sparkstack already, of /other/compose: .*COMPOSE_PROJECT_NAME="
    ):
        refuse_anothers({"rag": Container("1", "g", "rag", "exited", folder="/other/compose")}, home, "sparkstack")


def test_names_of_projects():
    assert project_name({}) == "sparkstack"
    assert project_name({"COMPOSE_PROJECT_NAME": "my-2nd_one"}) == "my-2nd_one"


def test_what_compose_makes_of_the_files():
    config = Config(CONFIG)
    assert config.engines == ["llamacpp-smollm2"]
    assert config.core == ["gateway", "qdrant"]
    assert config.published() == [("gateway", "127.0.0.1", 8000, 8000)]
    assert config.secret_files == {"internal_key": Path("/s/internal_key")}
    assert config.volumes["models"] == {}
    assert config.images(["gateway"]) == ["sparkstack/gateway:0.1.0"]


def test_compose_complaints_come_without_its_warnings(fake, docker):
    project = Project(docker, "sparkstack", (), ())
    noise = 'time="…" level=warning msg="The \\"X\\" variable is not set."\n'
    fake.answer("compose", "config", stderr=f"{noise}services.gateway.ports is wrong\n", status=15)
    with pytest.raises(DockerError) as caught:
        project.config()
    assert str(caught.value) == "`docker compose config` failed: services.gateway.ports is wrong"


# --- secrets


def test_each_secret_is_made_once_for_its_two_sides_alone(home):
    folder = folder_of(home.state)
    wanted = ("sparkstack_api_key", "internal_key", "hf_token", "postgres_password", "webui_secret_key")
    paths = {name: folder / name for name in wanted}
    digest = ensure_secrets(paths, home.state, "shared", {"SPARKSTACK_API_KEY": "sk-1", "INTERNAL_KEY": "not this"})
    found = {name: path.read_text().strip() for name, path in paths.items()}
    assert (found["sparkstack_api_key"], found["internal_key"], found["hf_token"]) == ("sk-1", "shared", "")
    assert len({found["postgres_password"], found["webui_secret_key"], "shared"}) == 3
    assert len(found["postgres_password"]) > 30
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in paths.values()} == {0o644}, "a container's user is another one"

    assert ensure_secrets(paths, home.state, "shared", {"SPARKSTACK_API_KEY": "sk-1"}) == digest
    assert paths["postgres_password"].read_text().strip() == found["postgres_password"]
    changed = ensure_secrets(paths, home.state, "shared", {"SPARKSTACK_API_KEY": "sk-2", "HF_TOKEN": "hf_x"})
    assert changed != digest
    assert paths["hf_token"].read_text() == "hf_x\n"


def test_secrets_that_nothing_reads_any_more_are_removed_and_the_users_own_are_left_alone(home, tmp_path):
    own = tmp_path / "own"
    own.write_text("mine")
    paths = {"internal_key": folder_of(home.state) / "internal_key", "own": own}
    ensure_secrets(paths, home.state, "shared", {})
    old = folder_of(home.state) / "of_an_earlier_version"
    old.write_text("x")
    forget_unknown(paths.values(), home.state)
    assert not old.exists()
    assert own.read_text() == "mine"
    with pytest.raises(click.ClickException, match=r"the secret own is to be in .*none, and there is no such file"):
        ensure_secrets({"own": tmp_path / "none"}, home.state, "shared", {})


# --- images


@pytest.fixture
def built(home, tmp_path):
    """A home of code that images are made of."""
    code = tmp_path / "source"
    for name in ("services/gateway/app.py", "requirements/gateway.lock", "services/gateway/tests/test_app.py"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("1")
    return replace(home, code=code)


def here(fake, *names):
    documents = [{"Id": f"sha256:{n}", "RepoTags": [n], "Os": "linux", "Architecture": "amd64"} for n in names]
    fake.answer("image", "inspect", stdout=documents, status=1)


def test_an_image_is_stale_when_its_code_has_changed(built, fake, docker):
    image = "sparkstack/gateway:0.1.0"
    assert images.stale(built, [image, "qdrant/qdrant:v1"], {}) == [image]
    here(fake, image)
    found = images.look_at(docker, [image])
    assert images.platform_of(found[image]) == "linux/amd64"
    assert images.stale(built, [image], found) == [image], "nobody knows what it was made of"
    write_json(built.code / ".state" / "images.json", {image: ["sha256:" + image, images.source_digest(built.code)]})
    assert images.stale(built, [image], found) == []
    (built.code / "services/gateway/tests/test_app.py").write_text("2")
    assert images.stale(built, [image], found) == [], "tests are in no image"
    (built.code / "services/gateway/app.py").write_text("2")
    assert images.stale(built, [image], found) == [image]


def test_offline_nothing_is_got_and_what_is_missing_is_named(built, fake, docker):
    here(fake, "sparkstack/gateway:0.1.0", "sparkstack/llamacpp:0.1.0")
    project = Project(docker, "sparkstack", (), ())
    with pytest.raises(DockerError, match=r"OFFLINE=1, and these images are not here: qdrant/qdrant:v1.19.0\. `make b"):
        images.get_missing(built, project, Config(CONFIG), offline=True)
    here(fake, "sparkstack/gateway:0.1.0", "sparkstack/llamacpp:0.1.0", "qdrant/qdrant:v1.19.0")
    images.get_missing(built, project, Config(CONFIG), offline=True)
    assert {words[0] for words in fake.asked} == {"image"}


# --- the machine


def levels(findings):
    return [finding.level for finding in findings]


def test_engines_that_can_and_cannot_run_it():
    assert levels(check_engine(ENGINE)) == ["ok", "ok"]
    (_, finding) = check_engine(replace(ENGINE, architecture="riscv64"))
    assert "amd64 and arm64 alone" in finding.text
    assert "unset DOCKER_HOST" in list(check_engine(replace(ENGINE, remote=True)))[-1].text


@pytest.fixture
def host(tmp_path):
    """A machine's /proc and /sys, and an empty PATH."""
    for name in ("proc", "sys", "programs"):
        (tmp_path / name).mkdir()
    return Host(tmp_path / "proc", tmp_path / "sys", {"PATH": str(tmp_path / "programs")})


def spark(host, *, driver="580.95.05", free=60, available=100, program=None):
    information = host.proc / "driver/nvidia/gpus/000f:01:00.0/information"
    information.parent.mkdir(parents=True)
    information.write_text("Model: \t\t NVIDIA GB10\nIRQ:   0\n")
    version = (
        f"NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  {driver}  Release Build\nGCC version: 13.3.0\n"
    )
    (host.proc / "driver/nvidia/version").write_text(version)
    kib = 2**20
    (host.proc / "meminfo").write_text(
        f"MemTotal: 1 kB\nMemFree: {free * kib} kB\nMemAvailable: {available * kib} kB\n"
    )
    (host.proc / "sys/vm").mkdir(parents=True)
    (host.proc / "sys/vm/min_free_kbytes").write_text("67584\n")
    for name, text in (program or {}).items():
        path = Path(host.variables["PATH"]) / name
        path.write_text(f"#!/bin/sh\necho '{text}'\n")
        path.chmod(0o755)


WELL = {"nvidia-ctk": "NVIDIA Container Toolkit CLI version 1.19.0", "systemctl": "active"}


def test_a_spark_that_is_well(host, monkeypatch):
    monkeypatch.setattr(Host, "cdi_files", [])
    spark(host, program=WELL)
    assert host.is_spark
    findings = list(check_gpu(SPARK, host, "spark"))
    assert {finding.level for finding in findings} == {"ok"}, findings


def test_the_spark_profile_wants_the_nvidia_runtime(host):
    (finding,) = check_gpu(ENGINE, host, "spark")
    assert finding.level == "fail"
    assert "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker" in finding.text


def test_a_gpu_that_containers_cannot_use_is_told_on_the_cpu_profile_too(host):
    assert list(check_gpu(ENGINE, host, "cpu")) == []
    device = host.sys / "bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x020000\n")
    assert list(check_gpu(ENGINE, host, "cpu")) == [], "a network card of theirs"
    (device / "class").write_text("0x030200\n")
    assert levels(check_gpu(ENGINE, host, "cpu")) == ["warn"]
    assert list(check_gpu(SPARK, host, "cpu")) == []


@pytest.mark.parametrize(("driver", "level"), [("570.1.2", "fail"), ("580.95.05", "ok"), ("590.48", "warn")])
def test_drivers_of_a_spark(host, driver, level):
    assert check_driver(host).level == "fail", "none is loaded"
    spark(host, driver=driver)
    assert (host.driver, check_driver(host).level) == (driver, level)


@pytest.mark.parametrize(
    ("version", "cdi", "level"), [("1.19.0", True, "ok"), ("1.19.1", False, "ok"), ("1.19.1", True, "warn")]
)
def test_toolkits_of_a_spark(host, monkeypatch, version, cdi, level):
    monkeypatch.setattr(Host, "cdi_files", [Path("/etc/cdi/nvidia.yaml")] if cdi else [])
    assert levels(check_toolkit(host)) == ["warn"], "not known"
    spark(host, program={"nvidia-ctk": f"NVIDIA Container Toolkit CLI version {version}\ncommit: x"})
    assert levels(check_toolkit(host)) == [level]


def test_what_freezes_unified_memory_is_told(host):
    spark(host, free=10, available=100)
    (host.proc / "sys/vm/min_free_kbytes").write_text("4194304\n")
    cache, reserve, guard = check_unified_memory(host)
    assert "flush-caches.sh" in cache.text
    assert "vm.min_free_kbytes is 4194304" in reserve.text
    assert "guard-service.sh install" in guard.text


@pytest.mark.parametrize(("said", "level"), [("enabled", ["ok"]), ("disabled", ["warn"]), ("", [])])
def test_what_starts_with_the_machine(host, said, level):
    assert list(check_boot(host)) == [], "there is no systemd"
    spark(host, program={"systemctl": said})
    assert levels(check_boot(host)) == level


def test_room_is_judged_where_images_are_missing(monkeypatch):
    monkeypatch.setitem(checks.NEEDED_DISK_BYTES, "cpu", 10**18)
    assert check_disk(ENGINE, "cpu", []).level == "ok"
    assert "docker system df" in check_disk(ENGINE, "cpu", ["x"]).text
    gone = replace(ENGINE, root=Path("/var/nothing/of/the/kind"))
    assert check_disk(gone, "cpu", []).level == "ok", "the nearest folder that there is"


def test_ports_are_free_held_by_the_stack_itself_or_taken():
    port = free_port()
    published = [("gateway", "127.0.0.1", port, 8000)]
    assert [finding.text for finding in check_ports(published, {})] == [f"port {port} is free for gateway"]
    with free_listener() as listener:
        taken = listener.getsockname()[1]
        (finding,) = check_ports([("gateway", "127.0.0.1", taken, 8000)], {})
        assert finding.level == "fail"
        assert f"(pid {os.getpid()}" in finding.text
        assert "set GATEWAY_PORT" in finding.text
        (finding,) = check_ports([("gateway", "127.0.0.1", taken, 11434)], {})
        assert "set GATEWAY_OLLAMA_PORT" in finding.text
        own = {"gateway": Container("1", "g", "gateway", "running", ports={8000: ("127.0.0.1", taken)})}
        assert levels(check_ports([("gateway", "127.0.0.1", taken, 8000)], own)) == ["ok"]
    (finding,) = check_ports([("grafana", "192.0.2.1", port, 3000)], {})
    assert "can't be published on 192.0.2.1" in finding.text
    assert "GRAFANA_PORT" in finding.text


def test_models_that_are_named_must_fit_side_by_side(home):
    assert list(check_memory_plan(home, "")) == []
    (fits,) = check_memory_plan(home, "smollm2")
    assert fits.level == "ok", fits
    assert "MODELS=smollm2 fit" in fits.text
    (unknown,) = check_memory_plan(home, "no-such-model")
    assert "no-such-model" in unknown.text
    assert unknown.level == "fail"


def test_images_of_another_kind_of_machine_are_named():
    found = {"a:1": "linux/amd64", "b:1": "linux/arm64", "c:1": ""}
    (finding,) = check_platforms(found, ENGINE)
    assert finding.text == "b:1 here is for linux/arm64, this machine is linux/amd64; docker rmi b:1"
