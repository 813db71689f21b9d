import httpx
import pytest

from services.cli.probes import address, ask_for_a_token, new_client, probe


def client(reply):
    return httpx.Client(transport=httpx.MockTransport(reply))


def raising(error):
    def reply(request):
        raise error

    return client(reply)


def answering(status, document=None, text=""):
    body = {"text": text} if document is None else {"json": document}
    return client(lambda request: httpx.Response(status, **body))


def test_a_service_that_is_ready():
    assert probe(answering(200), "http://x/readyz").ready


@pytest.mark.parametrize(
    ("stand_in", "told"),
    [
        (raising(httpx.ConnectError("refused")), "does not listen yet"),
        (raising(httpx.ReadTimeout("slow")), "no answer within 2 s"),
        (raising(httpx.ReadError("reset")), "no answer: reset"),
        (answering(503, {"checks": {"llamacpp": "loading", "other": "ok"}}), "llamacpp: loading"),
        (answering(503, {"error": {"message": "Loading model"}}), "Loading model"),
        (answering(500, text="<html>"), "HTTP status 500"),
        (answering(500, ["a list"]), "HTTP status 500"),
    ],
)
def test_what_a_service_waits_for_is_told(stand_in, told):
    health = probe(stand_in, "http://x/readyz")
    assert not health.ready
    assert told in health.waiting_for


def test_a_token_is_asked_for_with_the_key():
    seen = []

    def reply(request):
        seen.append(request)
        return httpx.Response(200, json={"usage": {"completion_tokens": 1}})

    assert ask_for_a_token(client(reply), "http://x", "sk-1", 5).came
    assert seen[0].headers["authorization"] == "Bearer sk-1"
    assert seen[0].url == "http://x/v1/chat/completions"


@pytest.mark.parametrize(
    ("status", "final"), [(401, True), (400, True), (404, False), (429, False), (502, False), (503, False)]
)
def test_a_refusal_that_will_be_the_same_again_is_final(status, final):
    token = ask_for_a_token(answering(status, {"error": {"message": "no"}}), "http://x", "k", 5)
    assert (token.came, token.final, token.problem) == (False, final, "no")


def test_an_answer_without_a_token_is_none():
    assert "without a token" in ask_for_a_token(answering(200, {"usage": {}}), "http://x", "k", 5).problem
    assert "reset" in ask_for_a_token(raising(httpx.ReadError("reset")), "http://x", "k", 5).problem


def test_this_machine_is_asked_without_the_environments_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with new_client() as own:
        assert own._mounts == {}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("10.1.2.3", "http://10.1.2.3:80"),
    ],
)
def test_addresses_by_which_this_machine_reaches_a_service(host, url):
    assert address(host, 80) == url
