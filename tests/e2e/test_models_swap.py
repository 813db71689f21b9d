"""Two models and memory for one: loads on demand, swaps, refusals, on real engines behind the real gateway."""

import concurrent.futures
import json
import time

import httpx
import pytest
import yaml

from services.engines.recipes import MODELS_FOLDER

# Their recipes are in the state folder, whose models run as processes; containers are made of the shipped ones.
pytestmark = [pytest.mark.slow, pytest.mark.only("embedded")]
FIRST = "smollm2-135m-instruct-q4_1"
SECOND = "second-model"
RESIDENCY_S = 3.0
ROOM_FOR_ONE = {"ENGINES_MEMORY_GIB": "1.3", "ENGINES_MIN_RESIDENCY_S": str(RESIDENCY_S)}


def add_recipe(stack, model=SECOND, **memory):
    """Add a recipe of the user's own: the same file under another name."""
    document = yaml.safe_load((MODELS_FOLDER / f"{FIRST}.yaml").read_text())
    document |= {"id": model, "name": model, "aliases": []}
    document["memory"] |= memory
    folder = stack.home.state / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{model}.yaml").write_text(yaml.safe_dump(document))


@pytest.fixture
def stack_for_one(new_stack):
    stack = new_stack(**ROOM_FOR_ONE)
    add_recipe(stack)
    add_recipe(stack, "huge-model", weight_bytes=80 * 2**30)
    stack.up()
    return stack


def post(stack, client, model, **fields):
    body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Say hello."}], **fields}
    return client.post(f"{stack.gateway}/v1/chat/completions", json=body)


@pytest.fixture
def client(stack_for_one):
    headers = {"authorization": f"Bearer {stack_for_one.key}"}
    with httpx.Client(headers=headers, trust_env=False, timeout=120) as client:
        yield client


def test_the_other_model_is_loaded_when_it_is_asked_for_and_the_first_makes_room(stack_for_one, client):
    listed = {
        item["id"]: item["sparkstack"]["state"]
        for item in client.get(f"{stack_for_one.gateway}/v1/models").json()["data"]
    }
    assert listed[FIRST] in ("ready", "busy")
    assert listed[SECOND] == "stopped"
    answer = post(stack_for_one, client, SECOND)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == SECOND
    models = stack_for_one.models()
    assert (models[FIRST]["state"], models[SECOND]["state"]) == ("stopped", "ready")


def test_a_stream_is_held_with_comments_until_its_model_answers(stack_for_one, client):
    body = {"model": SECOND, "stream": True, "max_tokens": 4, "messages": [{"role": "user", "content": "Say hello."}]}
    with client.stream("POST", f"{stack_for_one.gateway}/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        lines = [line for line in response.iter_lines() if line]
    assert lines[0].startswith(": ")
    assert SECOND in lines[0]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2].removeprefix("data: "))["model"] == SECOND


def test_what_cannot_fit_is_refused_at_once_with_the_sum(stack_for_one, client):
    times = []
    for _ in range(5):
        started = time.perf_counter()
        answer = post(stack_for_one, client, "huge-model")
        times.append(time.perf_counter() - started)
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert error["code"] == "insufficient_memory"
        assert "huge-model needs" in error["message"]
        assert "are missing" in error["message"]
    assert min(times) < 0.1
    said = stack_for_one.run("load", "huge-model", code=3)
    assert "huge-model needs" in said
    assert post(stack_for_one, client, FIRST).status_code == 200


def test_two_users_of_two_models_all_end_well_and_do_not_thrash(stack_for_one, client):
    """40 requests in turns: each ends in 200, or in 503 with a Retry-After that succeeds when it is obeyed."""
    began = time.monotonic()

    def user(model):
        outcomes = []
        for _ in range(20):
            answer = post(stack_for_one, client, model)
            if answer.status_code == 503:
                time.sleep(int(answer.headers["retry-after"]))
                answer = post(stack_for_one, client, model)
                outcomes.append("after waiting")
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == model
            outcomes.append("answered")
            time.sleep(0.1)  # a user reads
        return outcomes

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answered = [outcome for outcomes in pool.map(user, (FIRST, SECOND)) for outcome in outcomes]
    elapsed_s = time.monotonic() - began
    assert answered.count("answered") == 40
    unloads = stack_for_one.count("engines_unloads_total")
    assert unloads >= 1
    assert unloads <= elapsed_s / RESIDENCY_S + 1


def test_load_pin_and_unload_from_the_command_line(stack_for_one, client):
    assert f"{FIRST} is ready" in stack_for_one.run("load", FIRST, "--pin")
    assert stack_for_one.models()[FIRST]["pinned"] is True
    refused = post(stack_for_one, client, SECOND)
    assert refused.status_code == 503
    assert f"Pinned and not unloaded for others: {FIRST}" in refused.json()["error"]["message"]
    assert "is unloaded" in stack_for_one.run("unload", FIRST)
    assert f"{SECOND} is ready" in stack_for_one.run("load", SECOND)
    receipts = (stack_for_one.home.state / "engines" / "receipts.jsonl").read_text().splitlines()
    assert [json.loads(line)["model"] for line in receipts] == [FIRST, SECOND]
