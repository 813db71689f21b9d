from dataclasses import replace
from pathlib import Path

import click
import pytest

from services.cli.containers import images
from services.cli.containers.containers import Container
from services.cli.containers.docker import Docker, DockerError, Engine
from services.cli.containers.project import (
    Config,
    Project,
    choose_profile,
    choose_project,
    project_name,
    recorded_project,
    refuse_unknown_profiles,
)
from services.cli.containers.secret_files import ensure_secrets, folder_of, forget_unknown
from services.cli.containers.up import refuse_anothers
from services.cli.tests.fake_docker import FakeDocker
from services.kit.files import write_json

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
    assert project.engine_profiles == ("cpu", "sglang"), "the small model is in every stack"
    assert project.name == "second"
    assert project.variables["GATEWAY_OLLAMA_PORT"] == "11434"


@pytest.mark.parametrize(
    ("named", "engines"),
    [
        ("", "spark"),
        ("ui", "spark"),
        ("spark,llamacpp", "spark,llamacpp"),
        ("vllm-qwen3-8b-bf16", "cpu,vllm-qwen3-8b-bf16"),
        ("cpu", "cpu"),
    ],
)
def test_the_engines_that_are_named_are_the_ones_that_are_created(checkout, docker, named, engines):
    project = choose_project(checkout, docker, "spark", {"PROFILES": named})
    assert project.variables["ENGINES_PROFILES"] == engines
    assert project.engine_profiles == tuple(engines.split(","))


@pytest.mark.parametrize("named", ["qdrant", "sglang,ui", "vllm-qwen3-8b-bf16", ""])
def test_profiles_of_compose_and_overlays_are_known(checkout, docker, fake, named):
    fake.answer("config", "--profiles", stdout="cpu\nspark\nsglang\nui\nvllm-qwen3-8b-bf16\n")
    refuse_unknown_profiles(choose_project(checkout, docker, "cpu", {"PROFILES": named}), checkout.code / "compose")


@pytest.mark.parametrize(
    ("named", "told"),
    [
        (
            "uii",
            "PROFILES=uii: there is no such profile, is it ui[?]; there are: cpu, qdrant, sglang, ui, and",
        ),
        ("vllm-qwen3-8b", "PROFILES=vllm-qwen3-8b: .* is it vllm-qwen3-8b-bf16[?]"),
        ("ui xyz", "PROFILES=xyz: there is no such profile; there are"),
        ("offline", "PROFILES=offline: there is no such profile; there are"),
    ],
)
def test_a_profile_that_there_is_not_is_named(checkout, docker, fake, named, told):
    fake.answer("config", "--profiles", stdout="cpu\nsglang\nui\nvllm-qwen3-8b-bf16\n")
    project = choose_project(checkout, docker, "cpu", {"PROFILES": named})
    with pytest.raises(click.ClickException, match=told):
        refuse_unknown_profiles(project, checkout.code / "compose")


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


def test_an_image_that_cannot_be_had_is_told_with_what_to_do(checkout, docker, fake):
    fake.answer("pull", stderr="qdrant Error no such host\n", status=18)
    project = choose_project(checkout, docker, "cpu", {"PROFILES": "qdrant"})
    with pytest.raises(DockerError, match=r"qdrant Error no such host\nWhat is here already stays.*docker login"):
        images.pull(project, Config(CONFIG), ["qdrant/qdrant:v1.19.0"])
    assert fake.asked[-1][-1] == "qdrant", "and nobody else"


def test_containers_of_another_folder_are_not_taken_over(home):
    own = {"gateway": Container("1", "g", "gateway", "running", folder=str(home.code / "compose"))}
    refuse_anothers(own, home, "sparkstack")
    with pytest.raises(
        click.ClickException, match=r"name sparkstack already, of /other/compose: .*COMPOSE_PROJECT_NAME="
    ):
        refuse_anothers({"rag": Container("1", "g", "rag", "exited", folder="/other/compose")}, home, "sparkstack")


def test_what_is_left_out_is_not_started_and_nobody_asks_it(checkout, docker, fake):
    project = choose_project(checkout, docker, "cpu", {"WITHOUT": "mlflow tracking"})
    assert project.variables["GATEWAY_TRACKING_URL"] == ""
    assert "GATEWAY_TRACKING_URL" not in choose_project(checkout, docker, "cpu", {}).variables
    with pytest.raises(click.ClickException, match="WITHOUT=rag: what can be left out is mlflow, tracking"):
        choose_project(checkout, docker, "cpu", {"WITHOUT": "rag"})
    services = {**CONFIG["services"], "tracking": {"image": "sparkstack/tracking:0.1.0"}}
    config = Config({"services": services}, ("mlflow", "tracking"))
    assert config.core == ["gateway", "qdrant"]
    assert not any("tracking" in image for image in config.images()), "nor built"


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
