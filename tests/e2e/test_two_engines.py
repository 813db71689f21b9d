"""The same model on llama.cpp and on vLLM behind one gateway, with memory for one of them."""

import concurrent.futures
import time

import httpx
import pytest

from services.engines.offers import engine_python
from tests.testkit.ports import free_port

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900), pytest.mark.only("embedded")]
ON_LLAMACPP = "smollm2-135m-instruct-q4_1"
ON_VLLM = "smollm2-135m-instruct-bf16"
RESIDENCY_S = 8.0
REQUESTS_EACH = 20
TRIES = 4


@pytest.fixture
def stack(new_stack):
    """vLLM takes 3.3 GiB by plan, llama.cpp 0.5: 3.6 hold either."""
    assert engine_python("vllm"), "vLLM is not installed: `make engine-vllm`"
    stack = new_stack(
        ENGINES_MEMORY_GIB="3.6",
        ENGINES_MIN_RESIDENCY_S=str(RESIDENCY_S),
        GATEWAY_LOAD_WAIT_S="45",
        VLLM_PORT=str(free_port()),
    )
    stack.run("pull", ON_VLLM, "--yes", timeout_s=300)
    stack.up()
    return stack


def test_both_answer_and_two_users_swap_them_without_losing_a_request(stack):
    """Each request ends in 200, where need be after a 503 whose Retry-After was obeyed.

    That figure is an estimate from earlier loads: on a machine that is busier than it was then, one more 503 may come.
    """
    began = time.monotonic()
    with httpx.Client(headers={"authorization": f"Bearer {stack.key}"}, trust_env=False, timeout=400) as client:

        def ask(model):
            question = [{"role": "user", "content": "Name the capital of France."}]
            body = {"model": model, "messages": question, "max_tokens": 12, "temperature": 0}
            return client.post(f"{stack.gateway}/v1/chat/completions", json=body)

        def user(model):
            told_to_wait = 0
            for _ in range(REQUESTS_EACH):
                answer = ask(model)
                for _ in range(TRIES):
                    if answer.status_code != 503:
                        break
                    told_to_wait += 1
                    time.sleep(int(answer.headers["retry-after"]))
                    answer = ask(model)
                assert answer.status_code == 200, answer.text
                assert answer.json()["model"] == model
                assert answer.json()["usage"]["completion_tokens"] > 0
                time.sleep(0.6)  # a user reads
            return told_to_wait

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            told_to_wait = list(pool.map(user, (ON_LLAMACPP, ON_VLLM)))
    elapsed_s = time.monotonic() - began
    unloads = stack.count("engines_unloads_total")
    print(f"{2 * REQUESTS_EACH} requests in {elapsed_s:.0f} s, {unloads:.0f} swaps, told to wait: {told_to_wait}")
    assert 1 <= unloads <= elapsed_s / RESIDENCY_S + 1
    assert stack.count("engines_crashes_total") == 0
