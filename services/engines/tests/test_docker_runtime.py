from dataclasses import replace

import pytest

from services.engines.runtimes import EngineStartError, EngineStopError, LaunchSpec, RuntimeUnreachableError
from services.engines.runtimes.docker import DockerRuntime, without_frames
from services.engines.tests.fake_docker import fake_docker

SPEC = LaunchSpec("vllm-m", "m", "vllm", ("serve",), port=8020, image="engine:1")


@pytest.fixture
def docker(tmp_path):
    with fake_docker(tmp_path / "docker.sock") as running:
        yield running


@pytest.fixture
async def runtime(docker, tmp_path):
    runtime = DockerRuntime(docker.endpoint, "p", proc=tmp_path / "proc")
    yield runtime
    await runtime.close()


def add(docker, **options):
    return docker.add("abc", instance="vllm-m", **options)


async def test_a_container_that_compose_has_created_is_started_and_stopped(docker, runtime):
    container = add(docker)
    assert await runtime.instances() == {}
    await runtime.start(SPEC)
    assert (await runtime.instances())["vllm-m"].state == "running"
    await runtime.stop("vllm-m", grace_s=10)
    assert container.state["ExitCode"] == 143
    assert await runtime.instances() == {}  # it is there, and is no engine any more
    assert {line.split("/")[-1] for line in docker.asked} == {"json", "start", "stop"}


async def test_without_a_container_it_says_how_to_make_one(runtime):
    with pytest.raises(EngineStartError, match=r"no container for vllm-m in the project 'p': `docker compose create"):
        await runtime.start(SPEC)
    await runtime.stop("vllm-m", grace_s=1)
    assert await runtime.logs("vllm-m", 5) == ""


async def test_containers_of_others_are_not_touched(docker, runtime):
    docker.lists_everything = True  # as a proxy that doesn't know the filter
    docker.add("other", project="q", instance="vllm-m").run(1)
    docker.add("database").run(2)
    del docker.containers["database"].labels["sparkstack.instance"]
    docker.add("stranger").labels.clear()
    assert await runtime.instances() == {}
    await runtime.stop("vllm-m", grace_s=0)
    with pytest.raises(EngineStartError, match="no container"):
        await runtime.start(SPEC)
    assert docker.containers["other"].state["Running"]
    assert set(docker.asked) == {"GET /containers/json"}


@pytest.mark.parametrize(
    ("container", "spec", "named"),
    [
        ({"image": "engine:0"}, SPEC, r"another image \(engine:0, not engine:1\)"),
        ({"command": ["serve", "--old"]}, SPEC, "another command"),
        ({"environment": ["KEY=sk-old"]}, replace(SPEC, environment={"KEY": "sk-new"}), "another variable KEY:"),
        ({"restart": "unless-stopped"}, SPEC, "restart policy"),
    ],
)
async def test_a_container_for_something_else_is_not_started(docker, runtime, container, spec, named):
    add(docker, **container)
    with pytest.raises(EngineStartError, match=named) as refused:
        await runtime.start(spec)
    assert "--force-recreate vllm-m" in str(refused.value)
    assert "sk-" not in str(refused.value)
    assert not docker.containers["abc"].state["Running"]


# As compose makes the container of a recipe for a GPU, and as Docker then shows it.
GPU = replace(
    SPEC,
    gpu=True,
    shm_bytes=1 << 30,
    ipc_host=True,
    ulimits={"memlock": -1, "stack": 67108864},
    cap_add=("SYS_NICE",),
    volumes={"/models": "models", "/root/.cache/vllm": "vllm"},
    files={"/etc/sparkstack/trtllm.yaml": "a: 1\n"},
)
HOST = {
    "ShmSize": 1 << 30,
    "IpcMode": "host",
    "Ulimits": [
        {"Name": "memlock", "Soft": -1, "Hard": -1},
        {"Name": "stack", "Soft": 67108864, "Hard": 67108864},
    ],
    "CapAdd": ["CAP_SYS_NICE"],
    "DeviceRequests": [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}],
}
MOUNTS = ["/models", "/root/.cache/vllm", "/etc/sparkstack/trtllm.yaml"]


def add_for_gpu(docker, host=HOST, mounts=MOUNTS, files=GPU.files_digest):
    container = add(docker, host=host, mounts=mounts)
    container.labels["sparkstack.files"] = files
    return container


async def test_a_container_with_all_that_a_gpu_needs_is_started(docker, runtime):
    container = add_for_gpu(docker)
    await runtime.start(GPU)
    assert container.state["Running"]


@pytest.mark.parametrize(
    ("container", "named"),
    [
        ({"host": {**HOST, "ShmSize": 64 << 20}}, "size of /dev/shm"),
        ({"host": {**HOST, "IpcMode": "private"}}, "IPC mode"),
        ({"host": {**HOST, "Ulimits": HOST["Ulimits"][:1]}}, "limit of stack"),
        ({"host": {**HOST, "Ulimits": None}}, "limit of memlock, limit of stack"),
        ({"host": {**HOST, "CapAdd": None}}, r"set of capabilities \(SYS_NICE is missing\)"),
        ({"host": {**HOST, "DeviceRequests": None}}, r"set of devices \(it has no GPU\)"),
        ({"mounts": MOUNTS[1:]}, r"mount \(nothing lies at /models\)"),
        ({"mounts": MOUNTS[:2]}, r"mount \(nothing lies at /etc/sparkstack/trtllm\.yaml\)"),
        ({"files": "of-another-recipe"}, "set of files"),
    ],
)
async def test_a_container_that_lacks_something_of_the_host_is_not_started(docker, runtime, container, named):
    add_for_gpu(docker, **container)
    with pytest.raises(EngineStartError, match=f"created with another {named}"):
        await runtime.start(GPU)


async def test_all_that_were_created_are_known_by_name(docker, runtime):
    add(docker)
    docker.add("def", instance="llamacpp-n").run(1)
    docker.add("other", project="q", instance="vllm-x")
    assert await runtime.created() == {"vllm-m", "llamacpp-n"}


async def test_variables_that_the_image_brings_are_no_difference(docker, runtime):
    add(docker, environment=["PATH=/bin", "KEY=a=b"])
    await runtime.start(replace(SPEC, environment={"KEY": "a=b"}))


async def test_one_that_runs_is_not_started_twice(docker, runtime):
    add(docker).run(1)
    with pytest.raises(EngineStartError, match="runs already"):
        await runtime.start(SPEC)


async def test_engines_that_an_earlier_service_has_started_are_adopted(docker, runtime):
    add(docker).run(1)
    assert (await runtime.instances())["vllm-m"].state == "running"


@pytest.mark.parametrize(
    ("code", "more", "status", "reason"),
    [
        (3, {}, 3, "exit status 3"),
        (137, {"OOMKilled": True}, -9, "out of memory"),
        (139, {"OOMKilled": False}, -11, "exit status 139"),
        (127, {"Error": "exec: not found"}, 127, "exec: not found"),
        (255, {}, 255, "exit status 255"),
    ],
)
async def test_an_engine_that_ended_by_itself_says_how(docker, runtime, code, more, status, reason):
    container = add(docker)
    await runtime.start(SPEC)
    container.end(code, **more)
    ended = (await runtime.instances())["vllm-m"]
    assert (ended.state, ended.exit_status, ended.reason, ended.pids) == ("exited", status, reason, ())
    await runtime.stop("vllm-m", grace_s=0)
    assert await runtime.instances() == {}
    await runtime.start(SPEC)


async def test_an_engine_that_was_paused_is_told_as_that(docker, runtime):
    container = add(docker)
    await runtime.start(SPEC)
    assert not (await runtime.instances())["vllm-m"].paused
    container.state["Paused"] = True
    assert (await runtime.instances())["vllm-m"].paused


async def test_dockers_own_refusals_reach_the_user(docker, runtime):
    add(docker)
    docker.refusals["start"] = (500, 'could not select device driver "nvidia"')
    with pytest.raises(EngineStartError, match='Docker can\'t start vllm-m: could not select device driver "nvidia"'):
        await runtime.start(SPEC)
    docker.refusals = {"stop": (500, "did not receive an exit event")}
    await runtime.start(SPEC)
    with pytest.raises(EngineStopError, match="did not receive an exit event"):
        await runtime.stop("vllm-m", grace_s=1)


async def test_a_proxy_that_forbids_is_named(docker, runtime):
    add(docker)
    docker.refusals["json"] = (403, "forbidden")
    with pytest.raises(RuntimeUnreachableError, match=r"docker\.sock answers: forbidden \(status 403\)"):
        await runtime.instances()


async def test_a_docker_that_is_not_there_is_named(tmp_path):
    runtime = DockerRuntime(f"unix://{tmp_path}/nowhere.sock", "p")
    with pytest.raises(RuntimeUnreachableError, match=r"nowhere\.sock does not answer"):
        await runtime.instances()
    await runtime.close()


async def test_processes_are_told_where_this_machine_sees_them(docker, runtime, tmp_path):
    add(docker).run(200, 205, 200, 201)
    (tmp_path / "proc/200").mkdir(parents=True)
    cgroup = tmp_path / "proc/200/cgroup"
    cgroup.write_text("0::/system.slice/docker-abc.scope\n")
    assert (await runtime.instances())["vllm-m"].pids == (200, 201, 205)
    docker.refusals["top"] = (403, "forbidden")
    assert (await runtime.instances())["vllm-m"].pids == (200,)
    cgroup.write_text("0::/user.slice\n")  # a process that has the number here
    assert (await runtime.instances())["vllm-m"].pids == ()
    cgroup.unlink()
    assert (await runtime.instances())["vllm-m"].pids == ()


def frame(stream, text):
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


async def test_logs_are_text_whatever_form_docker_gives_them(docker, runtime):
    container = add(docker)
    container.log = frame(1, b"out\n") + frame(2, b"err \xff\n")
    assert await runtime.logs("vllm-m", 5) == "out\nerr �"
    container.log = b"on a terminal\n"
    assert await runtime.logs("vllm-m", 5) == "on a terminal"
    container.log = b""
    assert await runtime.logs("vllm-m", 5) == ""


def test_frames_that_are_cut_off_are_no_reason_to_fail():
    assert without_frames(frame(1, b"abc") + frame(2, b"defgh")[:-3]) == b"abcde"


@pytest.mark.parametrize("endpoint", ["", "/run/docker.sock", "unix://run", "ssh://host", "http://"])
def test_addresses_that_are_none_are_refused(endpoint):
    with pytest.raises(ValueError, match="no address of a Docker engine"):
        DockerRuntime(endpoint, "p")
