"""The memory plan: calibrated against what was published, and sound for any model that hypothesis thinks of."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.engines.planning.kv_cache import DTYPE_BYTES, ENGINE_DTYPES
from services.engines.planning.machines import GIB, machine
from services.engines.planning.memory import PlanError, plan, plan_model
from services.engines.recipes import find_recipe, load_recipes
from services.engines.tests.planned_recipes import GB, llama_70b, qwen36_35b, recipe

SPARK = machine("spark-128")


# --- against what was published


def test_qwen36_holds_91_gib_at_a_utilization_of_three_quarters():
    found = plan_model(qwen36_35b(), "vllm", SPARK)
    assert found.held_bytes / GIB == pytest.approx(91.27, abs=0.01)
    assert found.weights_bytes / GIB + 53.84 + 15 == pytest.approx(found.held_bytes / GIB, rel=0.03)


def test_what_the_share_leaves_is_the_kv_cache_that_was_seen():
    found = plan_model(qwen36_35b(), "vllm", SPARK, context_tokens=1, sequences=1)
    room = found.sizing.kv_room(1)
    assert room / GIB == pytest.approx(53.84, rel=0.04)
    assert room / found.kv_bytes_per_token == pytest.approx(4_073_445, rel=0.04)


def test_the_sum_of_a_share_is_utilization_times_the_machine_and_the_reserve():
    document = plan([plan_model(qwen36_35b(utilization=0.5), "vllm", SPARK)], SPARK).document()
    assert document["total_gib"] == pytest.approx(0.5 * 121.69 + document["reserve_gib"], abs=0.002)
    assert document["fits"] is True


@pytest.mark.parametrize(("parameters", "ceiling"), [(70.6e9, 6.7), (8.03e9, 60)])
def test_decode_ceilings_of_dense_models(parameters, ceiling):
    weights = int(parameters * 0.5625)
    found = plan_model(recipe("vllm", weights=weights, layers=80, kv_dtype="fp8", utilization=0.8), "vllm", SPARK)
    assert found.short_ceiling_tok_per_s == pytest.approx(ceiling, rel=0.03)
    assert found.ceiling_tok_per_s < found.short_ceiling_tok_per_s


@pytest.mark.parametrize(
    ("layers", "heads", "dim", "published"),
    [(32, 8, 128, 131072), (80, 8, 128, 327680), (36, 8, 128, 147456), (48, 4, 128, 98304)],
)
def test_bytes_a_token_of_known_models(layers, heads, dim, published):
    made = recipe(layers=layers, kv_heads=heads, head_dim=dim)
    assert plan_model(made, "llamacpp", SPARK).kv_bytes_per_token == published


def test_70b_holds_128k_tokens_and_not_at_650_kb_a_token():
    found = plan_model(llama_70b(), "vllm", SPARK, context_tokens=131072, sequences=1)
    assert found.kv_bytes_per_token == 163_840
    assert found.kv_bytes == 20 * GIB
    assert plan([found], SPARK).fits
    assert found.max_sequences == 2


# --- layers that grow otherwise


def test_windowed_layers_stop_growing():
    made = recipe(layers=24, attention_layers=12, facts={"window_layers": 12, "window_tokens": 128})
    sizes = [plan_model(made, "llamacpp", SPARK, context_tokens=n, sequences=1).kv_bytes for n in (128, 256, 384)]
    assert sizes[0] == 128 * 2 * 12 * 4096
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] == 128 * 12 * 4096


def test_mla_keeps_one_latent_for_each_token_and_layer():
    made = recipe(layers=27, facts={"latent_dim": 576})
    assert plan_model(made, "llamacpp", SPARK).kv_bytes_per_token == 27 * 576 * 2


def test_states_count_for_each_sequence_whatever_the_context():
    made = recipe(layers=40, attention_layers=10, facts={"state_bytes_per_sequence": 10**8})
    bare = recipe(layers=40, attention_layers=10)
    for sequences in (1, 7):
        with_state, without = (plan_model(each, "llamacpp", SPARK, sequences=sequences) for each in (made, bare))
        assert with_state.kv_bytes - without.kv_bytes == sequences * 10**8


def test_a_measured_figure_wins_over_the_formula_and_follows_the_dtype():
    made = qwen36_35b()
    assert plan_model(made, "vllm", SPARK).kv_bytes_per_token == 14192
    assert plan_model(made, "vllm", SPARK, kv_dtype="bf16").kv_bytes_per_token == 2 * 14192


# --- limits of the engine's own


def test_a_fixed_pool_is_held_whatever_is_asked():
    made = recipe("vllm", device="cpu", kv_cache_bytes=GIB, layers=30, kv_heads=3, head_dim=64, trained=8192)
    small, large = (plan_model(made, "vllm", SPARK, context_tokens=n) for n in (2048, 8192))
    assert small.held_bytes - small.overhead_bytes == large.held_bytes - large.overhead_bytes
    assert large.holds
    over = plan_model(made, "vllm", SPARK, context_tokens=8192, sequences=8)
    assert not over.holds
    assert over.max_sequences == GIB // (8192 * 23040)


def test_requests_that_may_wait_need_no_room_unless_they_are_asked_for():
    made = qwen36_35b(utilization=0.4)
    usual = plan([plan_model(made, "vllm", SPARK)], SPARK)
    asked = plan([plan_model(made, "vllm", SPARK, sequences=8)], SPARK)
    assert usual.models[0].required_sequences == 1
    assert usual.fits
    assert usual.models[0].weights_bytes + usual.models[0].kv_bytes + usual.models[0].overhead_bytes <= (
        usual.models[0].held_bytes
    )
    assert not asked.fits
    assert any("--sequences" in line for line in asked.advice())


def test_a_share_that_holds_not_one_request_does_not_fit():
    found = plan([plan_model(llama_70b(utilization=0.5), "vllm", SPARK, context_tokens=131072)], SPARK)
    assert found.total_bytes < found.available_bytes
    assert not found.fits
    assert any("--utilization 0." in line for line in found.advice())


def test_two_sparks_divide_the_model_and_each_keeps_its_reserve_and_overhead():
    one, two = SPARK, machine("dual-spark")
    made = llama_70b()
    single, double = (plan_model(made, "vllm", where) for where in (one, two))
    assert double.held_bytes == pytest.approx(2 * single.held_bytes, abs=2)
    assert double.overhead_bytes == 2 * single.overhead_bytes
    assert double.kv_bytes == single.kv_bytes
    assert double.ceiling_tok_per_s == pytest.approx(2 * single.ceiling_tok_per_s)
    assert plan([double], two).reserve_bytes == 2 * plan([single], one).reserve_bytes


def test_what_two_sparks_cannot_divide_each_keeps_whole():
    made = recipe("vllm", utilization=0.5, facts={"latent_dim": 576})
    single, double = (plan_model(made, "vllm", machine(name)) for name in ("spark-128", "dual-spark"))
    assert double.kv_bytes == 2 * single.kv_bytes


def test_weights_that_load_beside_a_small_share_need_more_for_some_seconds():
    made = llama_70b(utilization=0.4)
    found = plan_model(made, "vllm", SPARK)
    assert found.transient_bytes == pytest.approx(42.7 * GB + 19 * GIB - 0.4 * 121.69 * GIB, rel=0.01)
    assert plan_model(llama_70b(), "vllm", SPARK).transient_bytes == 0
    assert plan_model(recipe(transient_bytes=7), "llamacpp", SPARK).transient_bytes == 7


def test_models_that_answer_with_vectors_have_no_decode_ceiling():
    made = recipe("vllm", utilization=0.1, capabilities=("embeddings",))
    assert plan_model(made, "vllm", SPARK).ceiling_tok_per_s is None


def test_a_machine_of_unknown_bandwidth_has_no_ceiling():
    assert plan_model(recipe(), "llamacpp", machine("64 GiB")).ceiling_tok_per_s is None


# --- what can't be planned


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"context_tokens": 131073}, "trained for 131,072 tokens, not for 131,073"),
        ({"context_tokens": 0}, "name 1 or more"),
        ({"sequences": 0}, "name 1 to 1024"),
        ({"sequences": 1025}, "name 1 to 1024"),
        ({"kv_dtype": "int3"}, "no 'int3' KV cache; it has: f32, f16, bf16, q8_0, q4_0"),
        ({"utilization": 0.5}, "takes for made-in-the-test what it needs"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(wishes, told):
    with pytest.raises(PlanError, match=told):
        plan_model(recipe(), "llamacpp", SPARK, **wishes)


def test_llamacpp_is_not_spread_over_two_machines():
    with pytest.raises(PlanError, match="serves made-in-the-test from one machine"):
        plan_model(recipe(), "llamacpp", machine("dual-spark"))


def test_an_engine_that_the_recipe_has_not():
    with pytest.raises(PlanError, match="no recipe for the engine 'vllm'; it has: llamacpp"):
        plan_model(recipe(), "vllm", SPARK)


def test_eight_bits_mean_what_the_engine_has():
    found = plan_model(recipe(), "llamacpp", SPARK, kv_dtype="fp8")
    assert found.kv_dtype == "q8_0"
    assert found.remarks
    with pytest.raises(PlanError, match="vllm has no 'q4_0' KV cache"):
        plan_model(llama_70b(), "vllm", SPARK, kv_dtype="q4_0")


# --- side by side


def test_a_model_has_the_room_that_the_others_leave():
    small, large = machine("16 GiB"), machine("64 GiB")
    made = recipe(weights=4 * GB)
    for where in (small, large):
        alone = plan([plan_model(made, "llamacpp", where)], where)
        both = plan([plan_model(made, "llamacpp", where)] * 2, where)
        assert both.held_bytes == 2 * alone.held_bytes
        assert both.models[0].max_sequences < alone.models[0].max_sequences
    assert any(line.startswith("unload ") for line in plan([plan_model(made, "llamacpp", small)] * 2, small).advice())


def test_a_reserve_of_ones_own():
    found = plan_model(recipe(), "llamacpp", SPARK)
    assert plan([found], SPARK, reserve_bytes=0).total_bytes == found.held_bytes


def test_the_default_model_fits_on_a_small_laptop():
    made = find_recipe("smollm2", load_recipes())
    laptop = machine("8 GiB")
    found = plan([plan_model(made, "llamacpp", laptop)], laptop)
    assert found.fits
    assert found.held_bytes < 1.1 * GIB


# --- for any model (no deadline: other tests run beside these)

any_time = settings(deadline=None)

facts = st.fixed_dictionaries(
    {
        "weights": st.integers(10**8, 120 * GB),
        "layers": st.integers(1, 96),
        "kv_heads": st.integers(1, 64),
        "head_dim": st.sampled_from([64, 128, 256]),
        "trained": st.integers(512, 1 << 20),
        "sequences": st.integers(1, 64),
    }
)
engines = st.sampled_from(["llamacpp", "ollama", "vllm", "sglang", "trtllm"])
machines = st.sampled_from(["spark-128", "spark-64", "24 GiB", "300 GB", "8 GiB"])
extras = st.fixed_dictionaries(
    {
        "window_layers": st.integers(0, 40),
        "window_tokens": st.integers(0, 8192),
        "latent_dim": st.sampled_from([0, 0, 576]),
        "state_bytes_per_sequence": st.integers(0, 10**8),
    }
)


@st.composite
def questions(draw):
    """A recipe, its engine, a machine, a context and a number of sequences."""
    engine = draw(engines)
    made = draw(facts)
    extra = draw(extras)
    share = draw(st.sampled_from([0.3, 0.5, 0.8, 0.95])) if engine in ("vllm", "sglang", "trtllm") else None
    context = draw(st.integers(256, made["trained"]))
    attention = max(0, made["layers"] - extra["window_layers"])
    extra["window_layers"] = made["layers"] - attention
    built = recipe(
        engine, **made, attention_layers=attention, facts=extra, context=context, utilization=share,
        kv_dtype=draw(st.sampled_from(ENGINE_DTYPES[engine])),
    )  # fmt: skip
    return built, engine, machine(draw(machines)), context, draw(st.integers(1, 256))


def ask(built, engine, where, context, sequences, **more):
    return plan([plan_model(built, engine, where, context_tokens=context, sequences=sequences, **more)], where)


@any_time
@given(questions())
def test_it_fits_exactly_where_the_total_is_there_and_the_engine_holds_it(question):
    found = ask(*question)
    model = found.models[0]
    assert found.fits == (found.total_bytes <= found.available_bytes and model.holds)
    assert model.held_bytes >= (0 if model.utilization else model.weights_bytes + model.overhead_bytes)
    need = model.weights_bytes + model.kv_bytes + model.overhead_bytes
    assert (need <= model.held_bytes) == model.holds
    assert bool(found.advice()) is not found.fits


@any_time
@given(questions(), st.integers(1, 4096), st.integers(1, 16))
def test_more_context_and_more_requests_never_take_less(question, more_tokens, more_sequences):
    built, engine, where, context, sequences = question
    base = ask(*question)
    longer = ask(built, engine, where, min(built.context_tokens, context + more_tokens), sequences)
    wider = ask(built, engine, where, context, min(1024, sequences + more_sequences))
    for bigger in (longer, wider):
        assert bigger.models[0].kv_bytes >= base.models[0].kv_bytes
        assert bigger.total_bytes >= base.total_bytes
        assert base.fits or not bigger.fits


@any_time
@given(questions())
def test_a_smaller_dtype_never_takes_more(question):
    built, engine, where, context, sequences = question
    ordered = sorted(ENGINE_DTYPES[engine], key=DTYPE_BYTES.__getitem__)
    sizes = [ask(built, engine, where, context, sequences, kv_dtype=dtype) for dtype in ordered]
    for smaller, larger in pairwise(sizes):
        assert smaller.models[0].kv_bytes <= larger.models[0].kv_bytes
        assert smaller.total_bytes <= larger.total_bytes
        assert smaller.fits or not larger.fits


@any_time
@given(questions())
def test_the_largest_context_fits_and_one_more_token_does_not(question):
    built, engine, where, context, sequences = question
    limit = ask(*question).models[0].max_context_tokens
    assert (limit >= context) == ask(*question).fits
    if limit:
        assert ask(built, engine, where, limit, sequences).fits
    if limit < built.context_tokens:
        assert not ask(built, engine, where, limit + 1, sequences).fits


@any_time
@given(questions())
def test_the_most_requests_fit_and_one_more_does_not(question):
    built, engine, where, context, sequences = question
    limit = ask(*question).models[0].max_sequences
    assert (limit >= sequences) == ask(*question).fits
    if limit:
        assert ask(built, engine, where, context, limit).fits
    if limit < 1024:
        assert not ask(built, engine, where, context, limit + 1).fits


@any_time
@given(questions())
def test_each_piece_of_advice_about_one_model_makes_it_fit(question):
    built, engine, where, context, sequences = question
    found = ask(*question)
    assume(not found.fits)
    for line in found.advice():
        flags = dict(zip(*[iter(line.partition(": --")[2].replace("--", "").split())] * 2, strict=False))
        if "machine" in flags:
            changed = ask(built, engine, machine(flags["machine"]), context, sequences)
        elif flags:
            share = float(flags["utilization"]) if "utilization" in flags else None
            changed = ask(
                built, engine, where, int(flags.get("context", context)), int(flags.get("sequences", sequences)),
                kv_dtype=flags.get("kv-dtype"), utilization=share,
            )  # fmt: skip
        else:
            assert line.startswith("no setting helps")
            continue
        assert changed.fits, line


@any_time
@given(questions())
def test_the_json_adds_up(question):
    found = ask(*question)
    document = found.document()
    assert document["total_gib"] == pytest.approx(document["held_gib"] + document["reserve_gib"], abs=0.002)
    assert document["fits"] == found.fits
    if found.models[0].utilization is None:
        parts = document["weights_gib"] + document["kv_gib"] + document["overhead_gib"]
        assert document["held_gib"] == pytest.approx(parts, abs=0.002)
    if document["ceiling_tok_per_s"] is not None:
        assert document["ceiling_tok_per_s"] <= document["models"][0]["short_ceiling_tok_per_s"]


def test_an_empty_plan_is_the_reserve_alone():
    found = plan([], SPARK)
    assert found.total_bytes == SPARK.reserve_bytes
    assert found.fits
    assert replace(found, reserve_bytes=SPARK.total_bytes + 1).fits is False
