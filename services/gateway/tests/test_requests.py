import json

import pytest

from services.gateway.requests import chat_reader, check_chat, check_text_or_tokens, completion_reader
from services.kit.errors import InvalidRequest

MESSAGES = '"messages":[{"role":"user","content":"hi"}]'


def test_values_keep_their_bytes_and_only_the_model_changes() -> None:
    body = (
        '{"model":"default",%s,"seed": 1, "mine":[1e2, 123456789012345678901234567890, "\\u00e9"]}' % MESSAGES
    ).encode()
    out = chat_reader.read(body).encoded("real", ask_usage=False)
    assert b'[1e2, 123456789012345678901234567890, "\\u00e9"]' in out
    assert json.loads(out)["model"] == "real"


def test_a_request_that_needs_no_change_goes_on_as_it_came() -> None:
    body = ('{ "model" : "m", %s }' % MESSAGES).encode()
    assert chat_reader.read(body).encoded("m", ask_usage=False) is body


def test_usage_is_asked_for_beside_the_other_stream_options() -> None:
    body = ('{"model":"m","stream":true,"stream_options":{"x":1,"include_usage":false},%s}' % MESSAGES).encode()
    out = json.loads(chat_reader.read(body).encoded("m", ask_usage=True))
    assert out["stream_options"] == {"x": 1, "include_usage": True}


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        (b"", None, "empty"),
        (b"{", None, "no JSON"),
        (b"[1]", None, "Expected `object`, got `array`"),
        (b"[" * 20000, None, "Expected `object`"),
        (b'{"model":"m","messages":' + b"[" * 20000 + b"]" * 20000 + b"}", None, "nested too deeply"),
        (b'{"model":"m","messages":["\xff"]}', None, "not UTF-8"),
        (b"{%s}" % MESSAGES.encode(), "model", "missing required field `model`"),
        (b'{"model":"","messages":[{}]}', "model", "length >= 1"),
        (b'{"model":"m","messages":[]}', "messages", "length >= 1"),
        (b'{"model":"m","messages":[1]}', "messages[0]", "expected an object"),
        (b'{"model":"m","temperature":"hot",%s}' % MESSAGES.encode(), "temperature", "got `str`"),
        (
            b'{"model":"m","stream_options":{"include_usage":3},%s}' % MESSAGES.encode(),
            "stream_options.include_usage",
            "",
        ),
    ],
)
def test_a_wrong_request_names_the_field_and_the_reason(body: bytes, param: str | None, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_chat(chat_reader.read(body).known)
    assert caught.value.param == param
    assert said in caught.value.message


@pytest.mark.parametrize("prompt", ['"text"', '["a","b"]', "[1,2]", "[[1],[2]]", '""'])
def test_prompts_are_texts_or_tokens(prompt: str) -> None:
    request = completion_reader.read(('{"model":"m","prompt":%s}' % prompt).encode()).known
    check_text_or_tokens("prompt", request.prompt)


@pytest.mark.parametrize("prompt", ["1", "null", "{}", '["a",1]', "[[" * 100 + "]]" * 100])
def test_other_prompts_are_refused(prompt: str) -> None:
    request = completion_reader.read(('{"model":"m","prompt":%s}' % prompt).encode()).known
    with pytest.raises(InvalidRequest, match="prompt: expected a text"):
        check_text_or_tokens("prompt", request.prompt)
