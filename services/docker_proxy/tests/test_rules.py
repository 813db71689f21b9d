"""What may be asked of Docker, and what goes to it."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from services.docker_proxy.rules import Refused, is_ours, question

ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("method", "target", "asked"),
    [
        ("GET", f"/containers/{ID}/json", f"/containers/{ID}/json"),
        ("GET", f"/containers/{ID}/json?size=1", f"/containers/{ID}/json"),
        ("GET", f"/containers/{ID}/top?ps_args=aux", f"/containers/{ID}/top"),
        (
            "GET",
            f"/containers/{ID}/logs?stdout=1&tail=5&follow=1&since=0",
            f"/containers/{ID}/logs?stdout=1&stderr=1&tail=5",
        ),
        ("POST", f"/containers/{ID}/start?detachKeys=x", f"/containers/{ID}/start"),
        ("POST", f"/containers/{ID[:12]}/stop?t=30&signal=SIGKILL", f"/containers/{ID[:12]}/stop?t=30"),
    ],
)
def test_what_is_allowed_is_asked_without_what_the_caller_added(method, target, asked):
    found = question(method, target, 0, "p")
    assert (found.method, found.path) == (method, asked)
    assert found.container == ID[: len(found.container)]
    assert found.container


def test_the_list_is_of_the_projects_engines_whatever_filter_was_sent():
    found = question("GET", "/containers/json?all=0&filters=%7B%7D&limit=1", 0, "mine")
    query = parse_qs(urlsplit(found.path).query)
    assert json.loads(query["filters"][0]) == {"label": ["sparkstack.project=mine", "sparkstack.instance"]}
    assert set(query) == {"all", "filters"}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/containers/create"),
        ("POST", "/containers/create?name=x"),
        ("DELETE", f"/containers/{ID}"),
        ("POST", f"/containers/{ID}/exec"),
        ("POST", f"/containers/{ID}/kill"),
        ("POST", f"/containers/{ID}/update"),
        ("POST", f"/containers/{ID}/attach"),
        ("POST", f"/containers/{ID}/rename?name=x"),
        ("GET", f"/containers/{ID}/archive?path=/"),
        ("GET", f"/containers/{ID}/export"),
        ("PUT", f"/containers/{ID}/archive"),
        ("POST", f"/containers/{ID}/json"),
        ("GET", f"/containers/{ID}/start"),
        ("HEAD", f"/containers/{ID}/json"),
        ("GET", "/containers/engine-by-name/json"),
        ("GET", f"/containers/{ID}/../{ID}/json"),
        ("GET", f"/containers/{ID}%2f..%2fcreate/json"),
        ("GET", f"/v1.44/containers/{ID}/json"),
        ("GET", f"//containers/{ID}/json"),
        ("GET", f"http://docker/containers/{ID}/export"),
        ("GET", "/images/json"),
        ("GET", "/info"),
        ("GET", "/events"),
        ("POST", "/volumes/create"),
        ("POST", "/networks/create"),
        ("GET", "/"),
    ],
)
def test_all_else_is_refused(method, target):
    with pytest.raises(Refused):
        question(method, target, 0, "p")


def test_a_request_with_a_body_is_refused():
    with pytest.raises(Refused, match="body"):
        question("POST", f"/containers/{ID}/start", 2, "p")


@pytest.mark.parametrize("query", ["t=-1", "t=601", "t=1e9", "t=1%202", "t=99999999999"])
def test_a_wait_that_is_no_small_number_is_refused(query):
    with pytest.raises(Refused, match=r"^t="):
        question("POST", f"/containers/{ID}/stop?{query}", 0, "p")


@pytest.mark.parametrize(
    ("labels", "ours"),
    [
        ({"sparkstack.project": "p", "sparkstack.instance": "vllm-m"}, True),
        ({"sparkstack.project": "q", "sparkstack.instance": "vllm-m"}, False),
        ({"sparkstack.project": "p"}, False),
        ({"com.docker.compose.project": "p", "sparkstack.instance": "vllm-m"}, False),
        (None, False),
    ],
)
def test_a_container_is_ours_by_both_labels(labels, ours):
    assert is_ours({"Config": {"Labels": labels}}, "p") is ours


@pytest.mark.parametrize("details", [None, [], "x", {}, {"Config": None}, {"Config": {"Labels": ["sparkstack"]}}])
def test_what_is_no_container_is_not_ours(details):
    assert not is_ours(details, "p")
