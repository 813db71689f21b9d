"""How closed the containers are: each rule for all of them, each exception with its reason."""

import re

import pytest

from tests.compose.files import FOLDER, OVERLAYS, core, engines, everything, filled, mounts, read

ALL = everything()
EACH = pytest.mark.parametrize("name", ALL, ids=str)
OWN = {name for name, service in ALL.items() if service["image"].startswith("sparkstack/")}
GPU_ENGINES = {name for name, service in engines().items() if "deploy" in service}

WRITABLE = {
    "open-webui": "writes beside its code at its start",
    "ollama": "keeps what it fetches beside its keys in the home folder",
    "dcgm-exporter": "starts NVIDIA's host engine, which writes its sockets and logs",
    **dict.fromkeys(GPU_ENGINES, "compiles kernels into places of its own"),
}
# Who is root in the container, though without capabilities. The users of other images are their makers' choice: none
# of these images has another user (qdrant: 1000, prometheus and its exporters: 65534).
ROOT = {
    "open-webui": "its image knows no other user",
    "ollama": "its image knows no other user",
    "dcgm-exporter": "its image knows no other user",
    **dict.fromkeys(GPU_ENGINES, "their images and caches are root's"),
}
IMAGE_USERS = {"qdrant", "prometheus", "alertmanager", "node-exporter"}
HOST_MOUNTS = {
    ("gateway", "../.state/names"),
    ("docker-proxy", "/var/run/docker.sock"),
    ("prometheus", "./prometheus/rules"),
    ("grafana", "./grafana/provisioning"),
    ("grafana", "./grafana/dashboards"),
    ("node-exporter", "/proc"),
    ("node-exporter", "/sys"),
}


@EACH
def test_its_image_is_pinned(name):
    repository, _, tag = ALL[name]["image"].rpartition(":")
    assert repository
    assert re.search(r"\d+\.\d+|b\d{4,}", tag), f"{tag} moves"
    assert "latest" not in tag


@EACH
def test_it_has_no_capability_but_those_that_a_recipe_asks_for(name):
    service = ALL[name]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged", False)
    allowed = {"SYS_NICE"} if name.startswith("sglang-") else set()
    assert set(service.get("cap_add", ())) <= allowed


@EACH
def test_its_root_is_read_only(name):
    assert bool(ALL[name].get("read_only")) is (name not in WRITABLE)


@EACH
def test_it_is_not_root(name):
    user = ALL[name].get("user", "")
    if name in OWN:
        assert user == "10001:10001"
    elif name in ROOT or name in IMAGE_USERS:
        assert not user
    else:
        assert re.match(r"[1-9]\d*:", user)


@EACH
def test_it_shares_no_namespace_of_the_host(name):
    service = ALL[name]
    assert "pid" not in service
    assert "network_mode" not in service
    assert "userns_mode" not in service
    # vLLM, SGLang and TensorRT-LLM want it on a Spark: PyTorch's workers share memory by it.
    assert service.get("ipc", "") in ({"", "host"} if name in GPU_ENGINES else {""})


@EACH
def test_nothing_of_the_host_is_mounted_but_what_is_listed(name):
    named = read("compose")["volumes"].keys() | read("engines")["volumes"].keys()
    for source, target, writable in mounts(ALL[name]):
        if source in named:
            continue
        assert (name, source) in HOST_MOUNTS
        assert not writable
        assert "docker.sock" not in target or name == "docker-proxy"


def test_overlays_mount_nothing_of_the_host_but_the_guards_folder():
    found = {
        (overlay, source)
        for overlay in OVERLAYS
        for service in filled_overlay(overlay).get("services", {}).values()
        for source, _, _ in mounts(service)
    }
    assert found == {("spark", "/run/sparkstack")}


def filled_overlay(name):
    # The volumes of one name a folder that only the user knows.
    return filled({key: value for key, value in read(name).items() if key != "volumes"})


def test_every_published_port_is_on_loopback():
    files = {"compose": core(), **{overlay: filled_overlay(overlay).get("services", {}) for overlay in OVERLAYS}}
    published = [port for services in files.values() for each in services.values() for port in each.get("ports", ())]
    assert len(published) == 7
    for port in published:
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), port


def test_only_the_gateway_can_be_published_elsewhere_and_it_wants_a_key_always():
    text = (read("compose"), read("ollama-port"))
    moved = [
        (name, port)
        for document in text
        for name, service in document["services"].items()
        for port in service.get("ports", ())
        if "HOST" in port
    ]
    assert {name for name, _ in moved} == {"gateway"}
    assert "GATEWAY_ALLOW_LOOPBACK_WITHOUT_KEY" not in core()["gateway"]["environment"]


def test_networks_are_closed_but_one():
    networks = read("compose")["networks"] | read("engines")["networks"]
    assert {name for name, network in networks.items() if (network or {}).get("internal")} == {
        "inner",
        "control",
        "engines",
    }
    assert networks["front"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    assert read("offline")["networks"] == {"egress": {"internal": True}}


def test_who_is_in_which_network():
    members = {}
    for name, service in core().items():
        for network in service["networks"]:
            members.setdefault(network, set()).add(name)
    assert members["egress"] == {"engines", "ollama"}, "downloads of models, nothing else"
    assert members["control"] == {"engines", "docker-proxy"}
    assert members["engines"] == {"gateway", "engines", "prometheus", "ollama"}
    assert {name for name in core() if "ports" in core()[name]} <= members["front"]
    for name, service in engines().items():
        assert service["networks"] == ["engines"], name


@EACH
def test_it_may_not_fill_the_disk_or_the_process_table(name):
    service = ALL[name]
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
    if name in engines():
        assert "mem_limit" not in service, "it would not bound a driver; admission does"
        assert service["oom_score_adj"] > 0
    else:
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
        assert service["pids_limit"] <= 1024


@EACH
def test_docker_starts_it_again_unless_the_engines_service_does(name):
    assert ALL[name]["restart"] == ("no" if name in engines() else "unless-stopped")


@EACH
def test_it_has_a_health_check(name):
    if name == "dcgm-exporter":  # its image has nothing that could ask
        return
    check = ALL[name]["healthcheck"]
    own = name in OWN or name.startswith("llamacpp-")
    assert ("test" in check) is not own, "own images, and llama.cpp's, bring one"
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()


@EACH
def test_no_secret_is_a_variable(name):
    for variable, value in ALL[name].get("environment", {}).items():
        if re.search(r"(KEY|PASSWORD|SECRET|TOKEN)S?$", variable):
            assert value is None, f"{variable} of {name} would stand in `docker inspect`"
        assert not re.search(r"://[^/@]*:[^/@]+@", str(value)), "a password in an address"


def test_every_secret_is_a_file_that_somebody_reads():
    declared = filled(read("compose")["secrets"])
    used = {
        secret if isinstance(secret, str) else secret["source"]
        for services in (core(), *(filled_overlay(overlay).get("services", {}) for overlay in OVERLAYS))
        for service in services.values()
        for secret in service.get("secrets", ())
    }
    assert used == declared.keys()
    for name, secret in declared.items():
        assert secret == {"file": f"../.state/secrets/{name}"}


def test_configuration_is_files_that_are_there():
    """Text within the compose file would need a root that can be written to."""
    for document in (read("compose"), read("engines")):
        for config in document["configs"].values():
            assert config.keys() == {"file"}
            assert (FOLDER / config["file"]).is_file()


def test_limits_that_only_a_gpu_needs_are_nobody_elses():
    """They can't be had on every machine: root in a container of a container may not raise them."""
    for name, service in ALL.items():
        if name not in GPU_ENGINES:
            assert "memlock" not in service.get("ulimits", {})
            assert all(limit["hard"] <= 20_000 for limit in service.get("ulimits", {}).values())
        assert service.get("oom_score_adj", 0) >= 0


def test_every_named_volume_is_used_and_caches_are_marked():
    volumes = {**read("compose")["volumes"], **read("engines")["volumes"]}
    used = {source for service in ALL.values() for source, _, _ in mounts(service)}
    assert volumes.keys() <= used
    caches = {name for name, volume in volumes.items() if "labels" in (volume or {})}
    assert caches == {"models", "huggingface", "vllm", "flashinfer", "triton", "ollama"}


def test_only_the_engines_service_can_write_models():
    writers = {
        name for name, service in ALL.items() for source, _, write in mounts(service) if source == "models" and write
    }
    assert writers == {"engines"}
    for name, service in ALL.items():
        for volume in service.get("volumes", ()):
            if isinstance(volume, dict) and volume["source"] == "models":
                assert volume["volume"] == {"nocopy": True}, f"{name}: `engines` owns the volume"


def test_docker_proxy_has_the_socket_and_little_else():
    service = core()["docker-proxy"]
    assert [target for _, target, _ in mounts(service)] == ["/var/run/docker.sock"]
    assert "secrets" not in service
    assert "ports" not in service
    assert service["networks"] == ["control"]
