"""What holds for every recipe that is shipped. What each is rendered to: golden/."""

import re
from collections import Counter

import pytest

from docs import generate_recipes
from services.engines.planning.kv_cache import DTYPE_BYTES
from services.engines.planning.machines import machine
from services.engines.planning.memory import plan, plan_model
from services.engines.planning.overheads import gpu_overhead
from services.engines.recipes import RESERVING_ENGINES, HubSource, find_recipe, load_recipes
from services.engines.rendering import targets

SHIPPED = load_recipes()
SPARKS = [recipe for recipe in SHIPPED if recipe.machines != ("any",)]
PAIRS = [(recipe, engine) for recipe in SHIPPED for engine in recipe.engines]
SPARK_128 = machine("spark-128")

each_recipe = pytest.mark.parametrize("recipe", SHIPPED, ids=[recipe.id for recipe in SHIPPED])
each_spark_recipe = pytest.mark.parametrize("recipe", SPARKS, ids=[recipe.id for recipe in SPARKS])
each_pair = pytest.mark.parametrize(("recipe", "engine"), PAIRS, ids=[f"{r.id}@{e}" for r, e in PAIRS])


def test_what_the_course_uses_is_there():
    names = {name for recipe in SHIPPED for name in (recipe.id, *recipe.aliases)}
    course = {"nemotron-3-nano", "qwen3:32b", "qwq:32b", "magistral-small", "devstral-small-2", "qwen3-vl:8b",
              "deepseek-r1:8b"}  # fmt: skip
    spark = {"qwen3.6-35b-a3b-nvfp4", "qwen3.8-27b-nvfp4", "nemotron-3-super-120b-a12b-nvfp4", "gpt-oss-20b",
             "gpt-oss-120b", "llama-guard-3-8b", "qwen3-coder", "whisper-1"}  # fmt: skip
    assert course | spark <= names
    assert find_recipe("qwen3-8b", SHIPPED).default_engine == "sglang"
    assert find_recipe("llama-3.1-8b", SHIPPED).default_engine == "sglang"
    assert find_recipe("llama-3.1-8b-fp4", SHIPPED).default_engine == "trtllm"


def test_names_are_claimed_once():
    names = Counter(name for recipe in SHIPPED for name in (recipe.id, *recipe.aliases))
    assert [name for name, count in names.items() if count > 1] == []


@each_recipe
def test_an_id_is_the_model_and_its_format(recipe):
    assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*-(nvfp4|fp4|mxfp4|bf16|f16|q\d_(\d|k_m))", recipe.id)
    assert recipe.quantization.lower().removeprefix("nv") in recipe.id


@pytest.mark.parametrize(
    ("name", "kv_bytes"),
    [
        ("llama-3.1-8b", 131_072),
        ("llama-3.1-8b-fp4", 131_072),
        ("llama-guard-3-8b", 131_072),
        ("llama-3.3-70b", 327_680),
        ("qwen3-8b", 147_456),
        ("deepseek-r1-8b", 147_456),
        ("qwen3-32b", 262_144),
        ("qwen3-coder-30b", 98_304),
        ("gpt-oss-20b", 49_152),
        ("gpt-oss-120b", 73_728),
    ],
)
def test_a_tokens_keys_and_values_take_what_was_published_for_16_bits(name, kv_bytes):
    facts = find_recipe(name, SHIPPED).memory
    layers = facts.attention_layers + facts.window_layers
    assert 2 * layers * facts.kv_heads * facts.head_dim * DTYPE_BYTES["bf16"] == kv_bytes


def test_half_of_gpt_oss_sees_a_window():
    for name in ("gpt-oss-20b", "gpt-oss-120b"):
        facts = find_recipe(name, SHIPPED).memory
        assert facts.window_layers == facts.attention_layers == facts.layers // 2
        assert facts.window_tokens == 128


def test_the_measured_kv_cache_of_the_35b_is_what_vllm_reported():
    arguments = find_recipe("qwen3.6-35b", SHIPPED).engines["vllm"]
    assert arguments.kv_bytes_per_token == round(53.84 * 2**30 / 4_073_445)


@pytest.mark.parametrize(
    ("name", "embedding", "embeddings"),
    [("llama-3.3-70b", 128_256 * 8192, 2), ("llama-3.1-8b-fp4", 128_256 * 4096, 2)],
)
def test_weights_of_nvfp4_follow_from_the_parameters(name, embedding, embeddings):
    recipe = find_recipe(name, SHIPPED)
    in_4_bits = recipe.parameters - embeddings * embedding
    assert recipe.memory.weight_bytes == in_4_bits * 0.5625 + embeddings * embedding * 2
    assert recipe.memory.active_weight_bytes == recipe.memory.weight_bytes - embedding * 2


@pytest.mark.parametrize("name", ["qwen3-8b", "llama-3.1-8b", "llama-guard-3-8b", "whisper"])
def test_weights_of_16_bits_are_two_bytes_a_parameter(name):
    recipe = find_recipe(name, SHIPPED)
    assert recipe.memory.weight_bytes == pytest.approx(2 * recipe.parameters, rel=1e-3)


@each_recipe
def test_weights_are_what_their_format_makes_of_the_parameters(recipe):
    bits = 8 * recipe.memory.weight_bytes / recipe.parameters
    # NVFP4 leaves embeddings, and Nemotron's Mamba layers, in more bits; Ollama's Q4_K_M leaves what has no blocks of
    # 256 in more.
    low, high = {
        "NVFP4": (4.5, 8.0), "MXFP4": (4.25, 4.9), "Q4_K_M": (4.5, 6.2), "Q8_0": (8.5, 8.6), "Q4_1": (4.9, 6.0),
        "BF16": (15.9, 16.1), "F16": (15.9, 16.1),
    }[recipe.quantization]  # fmt: skip
    assert low <= bits <= high, f"{bits:.2f} bits a parameter"


@each_recipe
def test_facts_say_where_they_are_from(recipe):
    assert len(recipe.memory.source.split()) >= 6
    if recipe.memory.active_weight_bytes and recipe.active_parameters:
        text = generate_recipes.text_of(recipe)
        assert "estimated" in text.lower(), "what a token reads of experts is measured nowhere"


@each_spark_recipe
def test_a_recipe_for_the_spark_names_its_licence_and_whether_it_is_gated(recipe):
    assert recipe.licence.strip()
    if isinstance(recipe.source, HubSource):
        assert "gated" in recipe.source.model_fields_set
        assert recipe.source.gated == recipe.source.repository.startswith("meta-llama/")
        assert recipe.source.revision == "main", "a commit nobody here has seen is not written down"


@each_pair
def test_an_image_is_pinned(recipe, engine):
    image = recipe.engines[engine].image
    if recipe in SPARKS:
        assert image, "a Spark's engines run in containers"
    if image:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert tag
        assert tag not in ("latest", "main", "nightly")


@each_pair
def test_no_engine_takes_more_than_the_host_survives(recipe, engine):
    arguments = recipe.engines[engine]
    if engine in RESERVING_ENGINES and arguments.device == "gpu":
        assert arguments.memory_utilization <= 0.85


@each_pair
def test_every_target_that_makes_sense_has_one(recipe, engine):
    assert targets(recipe, engine), "it can run nowhere"


@pytest.mark.parametrize(
    ("recipe", "engine", "name"),
    [(recipe, engine, name) for recipe, engine in PAIRS for name in recipe.machines if name != "any"],
    ids=lambda value: getattr(value, "id", value),
)
def test_a_recipe_fits_alone_on_each_machine_that_it_names(recipe, engine, name):
    spark = machine(name)
    planned = plan([plan_model(recipe, engine, spark)], spark)
    assert planned.fits, planned.document()


@each_recipe
def test_no_anchor_is_above_the_decode_ceiling_but_by_speculation(recipe):
    for anchor in recipe.anchors:
        spark = machine(anchor.machine)
        engine = anchor.engine if anchor.engine in recipe.engines else recipe.default_engine
        ceiling = plan_model(recipe, engine, spark).short_ceiling_tok_per_s
        if not anchor.speculation:
            assert anchor.decode_tok_per_s <= ceiling
            assert anchor.decode_tok_per_s >= 0.4 * ceiling, "so slow that the facts must be wrong"


@pytest.mark.parametrize(
    ("name", "engine", "decode"),
    [
        ("qwen3.6-35b", "vllm", [97.7]),
        ("qwen3.8-27b", "vllm", [24.3, 37.4]),
        ("nemotron-3-super", "vllm", [22.3]),
        ("llama-3.3-70b", "vllm", [4.2]),
        ("llama-3.1-8b-fp4", "trtllm", [38.65]),
        ("gpt-oss-120b", "llamacpp", [58.7]),
        ("gpt-oss-20b", "llamacpp", [83.4]),
        ("gpt-oss-20b", "ollama", [49.7]),
    ],
)
def test_the_published_speeds_are_the_anchors(name, engine, decode):
    anchors = find_recipe(name, SHIPPED).anchors
    assert [anchor.decode_tok_per_s for anchor in anchors if anchor.engine == engine] == decode


@pytest.mark.parametrize(
    ("recipe", "engine"),
    [(r, e) for r, e in PAIRS if e == "sglang" and r.engines[e].device == "gpu"],
    ids=lambda value: getattr(value, "id", value),
)
def test_the_share_that_sglang_is_counted_with_holds_its_own_memory_too(recipe, engine):
    arguments = recipe.engines[engine]
    own = gpu_overhead("sglang") / SPARK_128.physical_bytes
    assert arguments.arguments["mem-fraction-static"] + own <= arguments.memory_utilization


def test_the_share_that_tensorrt_llm_is_counted_with_holds_what_it_takes_of_the_rest():
    recipe = find_recipe("llama-3.1-8b-fp4", SHIPPED)
    arguments = recipe.engines["trtllm"]
    fraction = arguments.arguments["extra_llm_api_options"]["kv_cache_config"]["free_gpu_memory_fraction"]
    total = SPARK_128.physical_bytes
    taken = recipe.memory.weight_bytes + gpu_overhead("trtllm") + fraction * (total - recipe.memory.weight_bytes)
    assert taken <= arguments.memory_utilization * total


def test_the_page_shows_every_recipe_as_it_is():
    assert generate_recipes.TARGET.read_text() == generate_recipes.page(), "run: python -m docs.generate_recipes"
