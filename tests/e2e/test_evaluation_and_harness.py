"""`sparkstack eval` gives the answers that lm-evaluation-harness itself gets from the engine, item by item.

Real engines with one slot and the default model; the harness from its own environment, once by its own command
straight at the engine, once by `sparkstack eval run` through the gateway. Each side gets an engine that has just been
started: llama.cpp keeps prompts, and what it need not compute again it doesn't, so that of two equally likely words it
may take the other when it is asked a second time.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.engines.files.packaged import locate
from services.engines.loading.launching import launch_spec
from services.engines.offers import find_offer, offers_here
from services.engines.recipes import load_recipes
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from services.tracking.evaluation.harness import TASKS
from services.tracking.evaluation.runs import Runs
from services.tracking.evaluation.sets import read_set, shipped
from tests.testkit.server import free_port, in_thread, run_process, running

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
HARNESS = Path(os.environ.get("LM_EVAL_ENVIRONMENT") or ROOT / ".venvs" / "lm-eval")
KEY = "sk-spark-evaluation"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


@contextlib.asynccontextmanager
async def engine_and_gateway(folder):
    variables = {"LLAMACPP_CONTEXT": "2048", "LLAMACPP_SLOTS": "1"}
    offer = find_offer("smollm2", offers_here(load_recipes(), variables))
    port = free_port()
    spec, _, _ = launch_spec(offer, locate(offer.recipe.source), port, api_key="", variables=variables)
    engine = f"http://127.0.0.1:{port}"
    facts = offer.facts(offer.recipe.aliases)
    backend = {"name": "llamacpp", "url": engine, "engine": "llamacpp", "models": [facts]}
    catalogue = folder / "catalogue.json"
    catalogue.write_text(json.dumps({"default": offer.id, "backends": [backend]}))
    app = create_app(GatewaySettings(api_keys=(KEY,), catalogue=catalogue))
    async with run_process(list(spec.command), ready_url=f"{engine}/health", timeout_s=60), running(app) as gateway:
        yield engine, gateway, offer.id


@pytest.fixture(scope="module", autouse=True)
def harness():
    if not (HARNESS / "bin" / "python").exists():
        pytest.skip("optional: .venvs/lm-eval is not made; `make test-engines` makes it")


@pytest.fixture(scope="module")
def served(tmp_path_factory, harness):
    with in_thread(engine_and_gateway(tmp_path_factory.mktemp("served"))) as found:
        yield found


def by_sparkstack(gateway, state, *arguments, code=0):
    """Run the verb; returns the run and its items, of what it left in the state folder."""
    command = [sys.executable, "-c", "from services.tracking.commands.evaluate import evaluate; evaluate()", "run"]
    environment = os.environ | {"SPARKSTACK_STATE": str(state), "LM_EVAL_ENVIRONMENT": str(HARNESS)}
    done = subprocess.run(
        [*command, *arguments, "--url", gateway, "--key", KEY, "--no-mlflow"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    if code:
        return done.stderr
    runs = Runs(state / "evaluations")
    newest = runs.list()[0]
    return newest, runs.items(newest)


def by_the_harness(engine, model, task, folder):
    """Run lm-evaluation-harness's own command at the engine; returns its samples in their order."""
    arguments = f"model={model},base_url={engine}/v1/chat/completions,num_concurrent=1,seed=0"
    command = [HARNESS / "bin" / "lm_eval", "run", "--include_path", ".", "--tasks", task, "--apply_chat_template"]
    command += ["--model", "local-chat-completions", "--model_args", arguments]
    command += ["--log_samples", "--output_path", folder]
    environment = os.environ | OFFLINE | {"HF_DATASETS_CACHE": str(folder / "datasets"), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, cwd=TASKS, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (samples,) = folder.glob(f"*/samples_{task}_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return sorted(rows, key=lambda row: row["doc_id"])


@pytest.mark.may_block("the engines are prepared in the loop that the gateway is served by")
@pytest.mark.parametrize(
    ("task", "metric"),
    [("sparkstack_arithmetic", "exact_match"), ("sparkstack_reading", "acc"), ("sparkstack_choices", "exact_match")],
)
def test_each_answer_is_the_one_that_the_harness_gets_from_the_engine(tmp_path, task, metric):
    with in_thread(engine_and_gateway(tmp_path)) as (engine, _, model):
        theirs = by_the_harness(engine, model, task, tmp_path / "direct")
    with in_thread(engine_and_gateway(tmp_path)) as (_, gateway, _):
        run, items = by_sparkstack(gateway, tmp_path / "state", "smollm2", "--task", task)
    assert [item.id for item in items] == [f"{task}/{row['doc_id']}" for row in theirs]
    assert [item.answer for item in items] == [row["resps"][0][0] for row in theirs]
    assert [item.score for item in items] == [row[metric] for row in theirs]
    assert run.score.mean == pytest.approx(sum(row[metric] for row in theirs) / len(theirs))
    assert (run.recipe, run.served, run.engine) == (model, model, "llamacpp")
    assert run.revision.startswith("sha256:b179c952"), "of the model's file, so that another file is another model"
    assert all(item.completion_tokens and item.seconds and item.finish_reason for item in items)
    results = json.loads((tmp_path / "state" / "evaluations" / run.id / "results.json").read_text())
    assert list(results["results"]) == [task]


def test_several_requests_at_a_time_are_the_same_items(served, tmp_path):
    _, gateway, _ = served
    arguments = ("smollm2", "--task", "sparkstack_arithmetic", "--limit", "6")
    one, first = by_sparkstack(gateway, tmp_path / "one", *arguments)
    four, second = by_sparkstack(gateway, tmp_path / "four", *arguments, "--concurrency", "4")
    assert [(item.id, item.prompt_digest, item.reference) for item in first] == [
        (item.id, item.prompt_digest, item.reference) for item in second
    ]
    assert one.set_digest == four.set_digest
    assert all(item.completion_tokens and item.seconds for item in second)


def test_a_question_that_does_not_fit_is_one_item_without_an_answer(served, tmp_path):
    _, gateway, _ = served
    rows = [{"prompt": "What is 2 + 3?", "reference": "5"}, {"prompt": "word " * 4000, "reference": "0"}]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = (TASKS / "sparkstack_arithmetic.yaml").read_text().replace("sparkstack_arithmetic", "own_sums")
    task = task.replace("../sets/arithmetic.jsonl", str(tmp_path / "own" / "rows.jsonl"))
    (tmp_path / "own" / "own.yaml").write_text(task)
    run, items = by_sparkstack(
        gateway, tmp_path / "state", "smollm2", "--task", "own_sums", "--include", str(tmp_path / "own")
    )
    assert run.counts["errors"] == 1
    assert items[0].completion_tokens
    assert items[1].error.startswith("400: ")


COMPARED = """
task: own_choice
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: ["yes", "no"]
doc_to_target: 0
metric_list: [{metric: acc}]
"""


def test_what_can_not_be_run_is_told_in_a_sentence(served, tmp_path):
    _, gateway, _ = served
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Is ice cold?"}\n')
    (tmp_path / "own.yaml").write_text(COMPARED.replace("ROWS", str(tmp_path / "rows.jsonl")))
    own = ("--task", "own_choice", "--include", str(tmp_path))
    said = by_sparkstack(gateway, tmp_path / "state", "smollm2", *own, code=1)
    assert "own_choice compares the probabilities of given answers, which a chat can't tell" in said
    said = by_sparkstack(gateway, tmp_path / "state", "smollm2", *own, "--api", "completions", code=1)
    assert "name the model's --tokenizer" in said
    said = by_sparkstack(gateway, tmp_path / "state", "smollm2", "--task", "sparkstack_arithmetics", code=1)
    assert "has no task sparkstack_arithmetics; near it: sparkstack_arithmetic" in said


def test_a_small_model_does_better_on_what_it_knows_than_on_sums(served, tmp_path):
    """The shipped sets tell models apart: each is asked whole, in about half a minute."""
    _, gateway, _ = served
    scores = {}
    for name in ("basics", "arithmetic"):
        run, _ = by_sparkstack(gateway, tmp_path / name, "smollm2", "--set", name)
        assert run.counts["errors"] == 0
        scores[name] = run.score
    assert scores["basics"].low > scores["arithmetic"].high
    assert {path.stem for path in shipped()} >= scores.keys()
    assert scores["basics"].n == len(read_set(shipped()[1]).questions)
