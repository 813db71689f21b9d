"""OpenAI's own client against the gateway: each failure arrives as the exception that callers catch."""

import json

import openai
import pytest

from tests.contract.test_openai_client import ask


def chat(client, **fields):
    return client.chat.completions.create(**{"model": "fake-chat", "messages": ask("hello"), **fields})


# --- who may call -----------------------------------------------------------------------------------------------


def test_a_wrong_key_is_an_authentication_error(stack):
    wrong = "sk-wrong-0123456789"
    with (
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key=wrong, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as raised,
    ):
        client.models.list()

    assert raised.value.status_code == 401
    assert raised.value.code == "invalid_api_key"
    assert raised.value.type == "authentication_error"
    assert wrong not in raised.value.message
    assert raised.value.request_id
    assert stack.engine.requests() == []


# --- what was asked ---------------------------------------------------------------------------------------------


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(client, stack):
    with pytest.raises(openai.NotFoundError) as raised:
        chat(client, model="gpt-99")

    assert raised.value.code == "model_not_found"
    assert raised.value.param == "model"
    assert "'gpt-99'" in raised.value.message
    assert "fake-chat" in raised.value.message
    assert stack.engine.requests() == []


def test_an_unknown_model_is_not_retrieved(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("gpt-99")

    assert raised.value.code == "model_not_found"


def test_an_endpoint_that_is_not_here_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.audio.speech.create(model="fake-chat", voice="alloy", input="hello")

    assert raised.value.code == "not_found"
    assert "/v1/audio/speech" in raised.value.message


def test_a_method_that_is_not_here_is_a_status_error(client):
    with pytest.raises(openai.APIStatusError) as raised:
        client.models.delete("fake-chat")

    assert raised.value.status_code == 405
    assert raised.value.code == "method_not_allowed"
    assert "GET" in raised.value.message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"top_logprobs": 50}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}, "b"]}, "messages[1]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 3}}, "stream_options.include_usage"),
        ({"tools": ["get_weather"]}, "tools[0]"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"response_format": "json"}, "response_format"),
    ],
)
def test_a_wrong_field_is_a_bad_request_that_names_it(client, stack, fields, param):
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, extra_body=fields)

    assert raised.value.param == param
    assert raised.value.code == "invalid_request"
    assert raised.value.type == "invalid_request_error"
    assert param in raised.value.message
    assert stack.engine.requests() == []


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(client, field):
    body = {"model": "fake-chat", "messages": ask("hello")}
    del body[field]

    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/chat/completions", cast_to=object, body=body)

    assert raised.value.param == field


@pytest.mark.parametrize("text", ["", []])
def test_nothing_to_embed_is_a_bad_request(client, text):
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model="fake-embed", input=text)

    assert raised.value.param == "input"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_above_the_context_is_told_by_its_code(client, stream):
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client, messages=ask("word " * 9000), stream=stream)

    assert raised.value.code == "context_length_exceeded"
    assert "8192" in raised.value.message


def test_a_body_above_the_limit_is_told_with_the_limit(client):
    with pytest.raises(openai.APIStatusError) as raised:
        chat(client, messages=ask("x" * 1_200_000))

    assert raised.value.status_code == 413
    assert raised.value.code == "body_too_large"
    assert "1,000,000" in raised.value.message
    assert "GATEWAY_MAX_BODY_MB" in raised.value.message


def test_embeddings_of_a_chat_model_are_not_supported(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model="fake-chat", input="hello")

    assert raised.value.code == "unsupported_parameter"


# --- what the engine did ----------------------------------------------------------------------------------------

STREAMED_OR_NOT = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@STREAMED_OR_NOT
@pytest.mark.parametrize(
    ("headers", "kind", "status", "code", "retry_after"),
    [
        ({"x-fake-status": "400"}, openai.BadRequestError, 400, "invalid_request", None),
        ({"x-fake-status": "422"}, openai.BadRequestError, 400, "invalid_request", None),
        ({"x-fake-status": "404"}, openai.NotFoundError, 404, "model_not_found", None),
        ({"x-fake-status": "501"}, openai.BadRequestError, 400, "unsupported_parameter", None),
        ({"x-fake-status": "429"}, openai.RateLimitError, 429, "rate_limited", "1"),
        (
            {"x-fake-status": "429", "x-fake-retry-after": "7"},
            openai.RateLimitError,
            429,
            "rate_limited",
            "7",
        ),
        ({"x-fake-status": "401"}, openai.InternalServerError, 502, "engine_error", None),
        ({"x-fake-status": "500"}, openai.InternalServerError, 502, "engine_error", None),
        ({"x-fake-status": "503"}, openai.InternalServerError, 503, "queue_full", "1"),
        (
            {"x-fake-status": "503", "x-fake-retry-after": "3"},
            openai.InternalServerError,
            503,
            "queue_full",
            "3",
        ),
        ({"x-fake-status": "504"}, openai.InternalServerError, 504, "engine_timeout", None),
        ({"x-fake-die-head": "1"}, openai.InternalServerError, 502, "engine_unreachable", None),
        ({"x-fake-garbage": "html"}, openai.InternalServerError, 502, "engine_invalid_response", None),
    ],
)
def test_an_engines_failure_before_the_answer(client, stream, headers, kind, status, code, retry_after):
    with pytest.raises(openai.APIStatusError) as raised:
        chat(client, stream=stream, extra_headers=headers)

    assert type(raised.value) is kind
    assert raised.value.status_code == status
    assert raised.value.code == code
    assert raised.value.response.headers.get("retry-after") == retry_after
    assert raised.value.message.startswith("Error code: ")
    assert raised.value.body["message"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-fake-error-event": "3"}, "engine_error"),
        ({"x-fake-die-after": "3"}, "engine_unreachable"),
        ({"x-fake-die-after": "3", "x-fake-die-with": "fin"}, "engine_unreachable"),
        ({"x-fake-truncate": "3"}, "engine_invalid_response"),
        ({"x-fake-garbage": "json"}, "engine_invalid_response"),
        ({"x-fake-garbage": "text"}, "engine_invalid_response"),
    ],
)
def test_a_failure_in_the_middle_of_a_stream_raises_our_error(client, headers, code):
    stream = chat(client, messages=ask("echo: one two three four five"), stream=True, extra_headers=headers)
    chunks = []
    with pytest.raises(openai.APIError) as raised:
        chunks.extend(stream)  # keeps what came before the failure

    assert not isinstance(raised.value, openai.APIConnectionError)
    assert raised.value.code == code
    assert "fake" in raised.value.message
    assert "Error" not in raised.value.message  # no class names of our own parts
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert "one two three four five".startswith(text)
    if "x-fake-garbage" not in headers:
        assert text == "one two three"


async def test_a_failure_in_the_middle_reaches_the_asynchronous_client(async_client):
    stream = await chat(async_client, stream=True, extra_headers={"x-fake-error-event": "2"})

    with pytest.raises(openai.APIError, match="scripted failure after 2 chunks") as raised:
        [chunk async for chunk in stream]

    assert raised.value.type == "upstream_error"


def test_no_done_follows_a_failure(client):
    with client.chat.completions.with_streaming_response.create(
        model="fake-chat", messages=ask("hello"), stream=True, extra_headers={"x-fake-die-after": "2"}
    ) as response:
        lines = [line for line in response.iter_lines() if line]

    assert set(json.loads(lines[-1].removeprefix("data: "))) == {"error"}
    assert "data: [DONE]" not in lines


def test_the_client_goes_on_after_a_failed_stream(client):
    with pytest.raises(openai.APIError):
        list(chat(client, stream=True, extra_headers={"x-fake-die-after": "2"}))

    assert chat(client, messages=ask("echo: still here")).choices[0].message.content == "still here"


def test_the_clients_own_retry_is_the_only_one(stack):
    """The gateway passes an engine's refusal on; who retries is the client, when it was told to."""
    stack.engine.script(path="/v1/chat/completions", times=1, status=503, retry_after="1")
    with openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.key, max_retries=1) as client:
        answer = chat(client, messages=ask("echo: second try"))

    assert answer.choices[0].message.content == "second try"
    assert len(stack.engine.requests("/v1/chat/completions")) == 2
