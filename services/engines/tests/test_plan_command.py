import json

import pytest
from click.testing import CliRunner

from services.engines.commands.plan import NOT_FITTING, plan
from services.engines.planning.machines import machine, this_machine
from services.engines.planning.memory import plan as sum_up
from services.engines.planning.memory import plan_model
from services.engines.planning.named import Wishes, plan_named
from services.engines.planning.view import bar, in_encoding, show
from services.engines.tests.planned_recipes import llama_70b, recipe

KEYS = {
    "fits", "weights_gib", "kv_gib", "overhead_gib", "reserve_gib", "total_gib", "available_gib", "max_context_tokens",
    "ceiling_tok_per_s",
}  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(plan, arguments)


@pytest.mark.parametrize(("size", "status"), [("24GiB", 0), ("1200 MiB", NOT_FITTING)])
def test_the_status_says_whether_it_fits_and_the_json_comes_either_way(size, status):
    reply = run("smollm2", "--machine", size, "--json")
    assert reply.exit_code == status
    document = json.loads(reply.stdout)
    assert document.keys() >= KEYS
    assert document["fits"] is (status == 0)
    assert [model["id"] for model in document["models"]] == ["smollm2-135m-instruct-q4_1"]


def test_the_options_change_the_sum():
    def gib(*options):
        return json.loads(run("smollm2", "--machine", "24GiB", "--json", *options).stdout)["kv_gib"]

    assert gib("--context", "8192") == pytest.approx(2 * gib(), abs=0.002)
    assert gib("--sequences", "8") == pytest.approx(2 * gib(), abs=0.002)
    assert gib("--kv-dtype", "fp8") == pytest.approx(gib() * 34 / 64, abs=0.002)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "Missing argument"),
        (("smollm2", "--machine", "moon"), "there is no machine 'moon'"),
        (("gpt-9",), "no recipe 'gpt-9'"),
        (("smollm2@sglang",), "no recipe for the engine 'sglang'"),
        (("smollm2", "--kv-dtype", "int3"), "no 'int3' KV cache"),
        (("smollm2", "--context", "8193"), "trained for 8,192 tokens"),
        (("smollm2", "--context", "0"), "Invalid value for '--context'"),
        (("smollm2", "--sequences", "0"), "Invalid value for '--sequences'"),
        (("smollm2", "--utilization", "1"), "Invalid value for '--utilization'"),
        (("smollm2", "--utilization", "0.5"), "takes a share"),
        (("smollm2", "smollm2@llamacpp"), "is named twice"),
        (("smollm2", "--machine", "dual-spark"), "from one machine"),
    ],
)
def test_wrong_usage_is_a_sentence_and_status_2(arguments, told):
    reply = run(*arguments)
    assert reply.exit_code == 2
    assert told in reply.stderr
    assert reply.stdout == ""


def test_this_machine_is_the_default():
    assert "this machine: " in run("smollm2").stdout


def test_the_view_has_the_sum_the_bar_and_the_limits_within_80_columns():
    text = run("smollm2", "--machine", "24GiB").stdout
    for part in ("weights", "host reserve", "total, of 24.0", "█", "▓", "░", "·", "It fits", "Largest context"):
        assert part in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_does_not_fit_is_told_what_would_help():
    text = run("smollm2", "--machine", "2200MiB", "--context", "8192", "--sequences", "16").stdout
    assert "It does not fit: " in text
    assert "--context " in text
    assert "--sequences " in text
    assert "| the machine's end" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_bar_is_as_long_as_asked_whatever_is_in_it():
    for name in ("spark-128", "8 GiB", "1 GiB"):
        where = machine(name)
        found = sum_up([plan_model(recipe(), "llamacpp", where)], where)
        drawn = bar(found, 60)[0]
        assert len(drawn.replace("|", "")) == 60
        assert ("|" in drawn) is not found.fits


def test_a_ceiling_stands_beside_what_was_measured():
    where = machine("spark-128")
    anchor = {"machine": "spark-128", "engine": "vllm", "version": "0.28", "decode_tok_per_s": 4.1}
    made = type(llama_70b()).model_validate({**llama_70b().model_dump(), "anchors": [anchor]})
    text = show(sum_up([plan_model(made, "vllm", where)], where))
    assert "Decode ceiling of one request: 6.7 tok/s with a short context, 6.5 at 8,192" in text
    assert "Measured: 4.1 tok/s decoding on spark-128 vLLM 0.28." in text
    assert "takes 80% of the memory at its start" in text


def test_a_share_that_is_too_small_is_explained():
    where = machine("spark-128")
    text = show(sum_up([plan_model(llama_70b(utilization=0.5), "vllm", where, context_tokens=131072)], where))
    assert "the KV cache of one request of 131,072 tokens needs 20.0 GiB" in " ".join(text.split())
    assert "a higher utilization: --utilization 0." in text


def test_a_share_that_is_smaller_than_the_weights_is_explained():
    where = machine("24 GiB")
    found = sum_up([plan_model(llama_70b(), "vllm", where)], where)
    text = " ".join(show(found).split())
    assert found.total_bytes < found.available_bytes
    assert "weights and engine of made-in-the-test need 54.8 GiB, and what vLLM takes of the memory is 19.2 GiB" in text
    assert "a larger machine: --machine spark-128" in text


def test_a_recipe_for_a_gpu_on_a_machine_without_one_is_remarked(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 99999999 kB\nMemFree: 9 kB\nMemAvailable: 9 kB\nCached: 9 kB\n")
    here = this_machine(gpus=tmp_path / "none", proc=tmp_path)
    text = show(sum_up([plan_model(llama_70b(), "vllm", here)], here))
    assert "no GPU that shares this machine's memory was found" in " ".join(text.split())
    assert "At this moment 0.00 GiB of the machine are available" in show(
        sum_up([plan_model(recipe(), "llamacpp", here)], here)
    )


def test_a_load_that_needs_more_than_is_left_is_announced():
    where = machine("spark-128")
    made = recipe(weights=80 * 10**9, transient_bytes=40 * 10**9)
    assert "While it loads it may take" in show(sum_up([plan_model(made, "llamacpp", where)], where))


def test_several_models_are_summed_and_named():
    where = machine("spark-128")
    text = show(sum_up([plan_model(recipe(), "llamacpp", where), plan_model(llama_70b(), "vllm", where)], where))
    assert "made-in-the-test (llama.cpp)" in text
    assert "made-in-the-test (vLLM)" in text


def test_a_utilization_is_for_the_models_that_take_a_share():
    llama, small = llama_70b(), recipe()
    renamed = small.model_copy(update={"id": "small"})
    found = plan_named(["made-in-the-test", "small"], "spark-128", Wishes(utilization=0.6), recipes=[llama, renamed])
    assert [model.utilization for model in found.models] == [0.6, None]


def test_a_terminal_without_blocks_gets_plain_signs():
    reply = CliRunner(charset="latin-1").invoke(plan, ["smollm2", "--machine", "24GiB"])
    assert reply.exit_code == 0
    assert "# weights  = KV cache  + engine  - host reserve  . free" in reply.stdout
    assert in_encoding("█ × 2", "utf-8") == "█ × 2"
