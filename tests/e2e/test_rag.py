"""Documents to answers on the whole stack: the command line puts them in, any client asks, what dies comes back."""

import os
import signal

import httpx
import ollama
import openai
import pytest

from tests.e2e.stacks import REPOSITORY, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PORT = "Which port does the embeddings service listen on?"
MODEL = "rag/handbook"


@pytest.fixture
def asked(stack):
    """A stack that has this project's own documents."""
    stack.up()
    said = stack.run("rag", "ingest", str(REPOSITORY / "docs"), "--collection", "handbook", timeout_s=240)
    assert "ask it:" in said
    return stack


def annotations(answer):
    message = answer.choices[0].message
    return [each if isinstance(each, dict) else each.model_dump() for each in message.annotations or ()]


def test_what_is_ingested_answers_every_client_with_citations(asked):
    documents = {path.name: path.read_text() for path in (REPOSITORY / "docs").rglob("*.md")}
    with openai.OpenAI(base_url=f"{asked.gateway}/v1", api_key=asked.key) as client:
        assert MODEL in {model.id for model in client.models.list()}
        question = [{"role": "user", "content": PORT}]
        answer = client.chat.completions.create(model=MODEL, messages=question)
        assert "8011" in answer.choices[0].message.content
        cited = annotations(answer)
        for each in cited:
            number = f"[{each['sparkstack']['number']}]"
            assert answer.choices[0].message.content[each["index"] :].startswith(number)
            assert each["sparkstack"]["quote"] in documents[each["filename"].rpartition("/")[2]]
        assert "embeddings.md" in {each["filename"].rpartition("/")[2] for each in cited}

        *_, last = client.chat.completions.create(model=MODEL, messages=question, stream=True)
        streamed = last.choices[0].delta.model_extra["annotations"]
        assert [(each["index"], each["sparkstack"]) for each in streamed] == [
            (each["index"], each["sparkstack"]) for each in cited
        ]

        unknown = [{"role": "user", "content": "Who won the football world cup in 1966?"}]
        answer = client.chat.completions.create(model=MODEL, messages=unknown)
        assert answer.choices[0].message.content == "The documents do not contain an answer to this question."
        assert annotations(answer) == []

    headers = {"authorization": f"Bearer {asked.key}"}
    with ollama.Client(host=asked.gateway, headers=headers, trust_env=False) as client:
        assert any(model.model.startswith(MODEL) for model in client.list().models)
        reply = client.chat(model=MODEL, messages=[{"role": "user", "content": PORT}])
    assert "8011" in reply.message.content
    assert "[1]" in reply.message.content

    again = asked.run("rag", "ingest", str(REPOSITORY / "docs"), "--collection", "handbook")
    assert "unchanged" in again
    asked.run("rag", "rm", "handbook", "--yes")
    with httpx.Client(trust_env=False, headers={"authorization": f"Bearer {asked.key}"}) as http:

        def gone():
            return MODEL not in {each["id"] for each in http.get(f"{asked.gateway}/v1/models").json()["data"]}

        wait_for(gone, "the collection's model to vanish")


def test_what_rag_stands_on_may_die_and_other_models_answer_meanwhile(asked):
    body = {"model": MODEL, "messages": [{"role": "user", "content": PORT}], "rag": {"retrieve_only": True}}
    with httpx.Client(trust_env=False, headers={"authorization": f"Bearer {asked.key}"}, timeout=60) as http:

        def retrieve():
            return http.post(f"{asked.gateway}/v1/chat/completions", json=body)

        assert retrieve().status_code == 200
        for service in ("embeddings", "rag"):
            pid = asked.pids()[service]
            asked.freeze(service)
            try:
                assert asked.ask()["usage"]["completion_tokens"] > 0
            finally:
                asked.thaw(service)
                os.kill(pid, signal.SIGKILL)
            asked.wait_until_ready(service, other_pid_than=pid)
            wait_for(lambda: retrieve().status_code == 200, f"an answer after {service} came back", asked.all_logs)
