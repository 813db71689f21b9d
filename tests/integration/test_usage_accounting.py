"""Each request's tokens are known: from the engine, else from its tokenizer, else as an estimate that says so."""

import json

import httpx
import pytest

from tests.integration.gateways import CHAT, MODEL, chat_body, gateway
from tests.testkit.server import fake_engine as engine_with
from tests.testkit.tokens import apply_template, split_tokens

PROMPT = "Tell me something."
PROMPT_TOKENS = len(split_tokens(apply_template([{"role": "user", "content": PROMPT}])))
ANSWER_TOKENS = 24
ASKED = {"stream_options": {"include_usage": True}}
NO_USAGE = {"x-fake-no-usage": "1"}
ENGINES_OWN = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": ANSWER_TOKENS,
    "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
}


def options_seen(engine):
    return engine.requests(CHAT)[-1]["body"].get("stream_options")


async def test_the_engine_is_always_asked_and_a_client_that_did_not_ask_sees_nothing_of_it(fake_engine):
    async with gateway(fake_engine) as front:
        streamed = await front.stream()
        totals = await front.totals()
    assert options_seen(fake_engine) == {"include_usage": True}
    assert streamed.done
    assert streamed.usage is None
    assert b'"usage"' not in streamed.body
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (PROMPT_TOKENS, ANSWER_TOKENS)


async def test_a_client_that_asked_gets_the_engines_own_event(fake_engine):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(**ASKED)
        metrics = await front.metrics()
    assert streamed.usage.items() >= ENGINES_OWN.items()
    assert "prompt_tokens_details" in streamed.usage, "the engine's event goes on as it came"
    assert metrics.value("gateway_usage_source_total", source="engine") == 1


@pytest.mark.parametrize("given", [None, {}, {"include_usage": False}, {"include_usage": None}, {"other": 1e3}])
async def test_other_stream_options_stay_as_they_are(fake_engine, given):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(stream_options=given)
    assert streamed.usage is None
    assert options_seen(fake_engine) == {**(given or {}), "include_usage": True}


async def test_an_option_that_only_the_engine_can_read_goes_on_byte_for_byte(fake_engine):
    """A number out of the range of a double is JSON; whether it means something is the engine's affair."""
    body = json.dumps(chat_body(stream=True)).replace('"stream"', '"stream_options": {"x": 1e999}, "stream"')
    async with gateway(fake_engine) as front:
        response = await front.client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, "the fake engine's own answer"
    assert '"x":1e999' in fake_engine.requests(CHAT)[-1]["body"].replace(" ", "")


async def test_a_plain_request_is_not_changed(fake_engine):
    async with gateway(fake_engine) as front:
        response = await front.chat()
        totals = await front.totals()
    assert options_seen(fake_engine) is None
    assert response.json()["usage"].items() >= ENGINES_OWN.items()
    assert totals["completion_tokens"] == ANSWER_TOKENS


# --- engines that report nothing --------------------------------------------------------------------------------


async def test_without_usage_the_engines_tokenizer_gives_the_same_numbers(fake_engine):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers=NO_USAGE, **ASKED)
        totals = await front.totals()
        metrics = await front.metrics()
    assert streamed.usage == ENGINES_OWN, "and nothing says that they are an estimate"
    assert streamed.done
    assert streamed.data[-2]["choices"] == []
    assert streamed.data[-2]["id"] == streamed.data[0]["id"]
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (PROMPT_TOKENS, ANSWER_TOKENS)
    assert metrics.value("gateway_usage_source_total", source="tokenizer") == 1


async def test_nothing_is_sent_to_a_client_that_did_not_ask(fake_engine):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers=NO_USAGE)
        totals = await front.totals()
    assert b'"usage"' not in streamed.body
    assert streamed.done
    assert totals["completion_tokens"] == ANSWER_TOKENS, "but it is counted"


async def test_a_tokenizer_without_a_template_counts_the_bare_prompt(fake_engine):
    """vLLM has `/tokenize` and no `/apply-template`."""
    fake_engine.script(path="/apply-template", status=404)
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers=NO_USAGE, **ASKED)
    assert streamed.usage["prompt_tokens"] == len(split_tokens(PROMPT))
    assert streamed.usage["completion_tokens"] == ANSWER_TOKENS
    assert "estimated" not in streamed.usage


@pytest.mark.parametrize(
    "broken", [{"status": 404}, {"status": 500}, {"garbage": "html"}, {"garbage": "json"}, {"die_head": True}]
)
async def test_without_a_tokenizer_the_deltas_are_counted_and_marked_as_an_estimate(fake_engine, broken):
    fake_engine.script(path="/apply-template", **broken)
    fake_engine.script(path="/tokenize", **broken)
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers=NO_USAGE, **ASKED)
        totals = await front.totals()
        metrics = await front.metrics()
    assert streamed.usage["estimated"] is True
    assert streamed.usage["completion_tokens"] == ANSWER_TOKENS
    assert streamed.usage["prompt_tokens"] == len(PROMPT) // 4
    assert streamed.usage["total_tokens"] == len(PROMPT) // 4 + ANSWER_TOKENS
    assert totals["completion_tokens"] == ANSWER_TOKENS
    assert metrics.value("gateway_usage_source_total", source="estimate") == 1


async def test_a_plain_answer_without_usage_is_counted(fake_engine):
    async with gateway(fake_engine) as front:
        response = await front.chat(headers=NO_USAGE)
        totals = await front.totals()
    assert "usage" not in response.json()
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (PROMPT_TOKENS, ANSWER_TOKENS)


async def test_reasoning_and_tool_calls_are_counted_as_the_engine_counts_them(fake_engine):
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    for asked in ({"reasoning_effort": "low"}, {"tools": [tool], "tool_choice": "required"}):
        async with gateway(fake_engine) as front:
            reported = (await front.stream(**asked, **ASKED)).usage["completion_tokens"]
            counted = (await front.stream(headers=NO_USAGE, **asked, **ASKED)).usage["completion_tokens"]
        assert counted == pytest.approx(reported, abs=2), "the joints between the parts may differ by a token"


async def test_completions_are_counted_from_their_prompt(fake_engine):
    body = {"model": MODEL, "prompt": "one two three", "stream": True, **ASKED}
    async with gateway(fake_engine) as front:
        response = await front.client.post("/v1/completions", json=body, headers=NO_USAGE)
    assert '"prompt_tokens":3,"completion_tokens":24' in response.text


async def test_embeddings_have_input_tokens_only(fake_engine):
    async with gateway(fake_engine) as front:
        await front.client.post("/v1/embeddings", json={"model": "fake-embed", "input": ["one two", "three"]})
        totals = await front.totals()
        metrics = await front.metrics()
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (3, 0)
    assert metrics.value("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 3


# --- the ledger -------------------------------------------------------------------------------------------------


async def test_the_ledger_is_the_sum_of_what_the_engine_reported():
    """Streams, whole answers, completions and embeddings, of two models."""
    async with engine_with(models=("small", "large"), usage=True) as engine, gateway(engine) as front:
        reported = 0
        for number, model in enumerate(("small", "large", "small")):
            answers = [
                await front.chat(model=model, max_tokens=5 + number),
                await front.client.post("/v1/completions", json={"model": model, "prompt": "a b", "max_tokens": 3}),
            ]
            reported += sum(answer.json()["usage"]["total_tokens"] for answer in answers)
            reported += (await front.stream(model=model, max_tokens=7, **ASKED)).usage["total_tokens"]
        embedded = await front.client.post("/v1/embeddings", json={"model": "fake-embed", "input": "a b c"})
        reported += embedded.json()["usage"]["total_tokens"]
        totals = await front.totals()
        metrics = await front.metrics()
    assert totals["prompt_tokens"] + totals["completion_tokens"] == reported
    assert metrics.value("gen_ai_client_token_usage_sum") == reported
    assert metrics.labels("gen_ai_client_token_usage_sum", "gen_ai_request_model") == {"small", "large", "fake-embed"}
    assert totals["requests"] == 10


async def test_a_refused_request_costs_nothing(fake_engine):
    async with gateway(fake_engine) as front:
        statuses = [
            (await front.chat(headers={"x-fake-status": "500"})).status_code,
            (await front.chat(model="nobody")).status_code,
            (await front.chat(messages=[])).status_code,
        ]
        totals = await front.totals()
    assert statuses == [502, 404, 400]
    assert totals["requests"] == totals["failed"] == 1, "what never reached an engine is no exchange"
    assert totals["prompt_tokens"] == totals["completion_tokens"] == 0


async def test_the_figures_are_in_the_log_line(fake_engine, logs):
    async with gateway(fake_engine) as front:
        response: httpx.Response = (await front.stream()).response
    line = next(entry for entry in logs if entry.get("route") == CHAT)
    assert line["request_id"] == response.headers["x-request-id"]
    assert line["outcome"] == "ok"
    assert (line["prompt_tokens"], line["completion_tokens"]) == (PROMPT_TOKENS, ANSWER_TOKENS)
    assert line["usage_source"] == "engine"
    assert line["ttft_ms"] > 0
