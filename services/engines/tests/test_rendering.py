"""What a renderer refuses, and how the targets differ; each shipped recipe is in test_rendering_golden.py."""

import json

import pytest
import yaml

from services.engines.recipes import EngineArguments, HubSource, find_recipe, load_recipes
from services.engines.rendering import PORTS, RenderError, model_in_container, options, port_at, render, targets
from services.engines.rendering.options import table
from services.engines.threads import Threads

SHIPPED = load_recipes()
SPARK = find_recipe("qwen3.6-35b", SHIPPED)
LLAMACPP = find_recipe("gpt-oss-20b", SHIPPED)
SGLANG = find_recipe("qwen3-8b", SHIPPED)
TRTLLM = find_recipe("llama-3.1-8b-fp4", SHIPPED)
OLLAMA = find_recipe("qwen3:32b", SHIPPED)
SMALL = find_recipe("smollm2", SHIPPED)
VLLM_ON_CPU = find_recipe("smollm2-bf16", SHIPPED)


def changed(recipe, engine, **changes):
    """Return the recipe with other arguments for one engine."""
    fields = {**recipe.engines[engine].model_dump(), **changes}
    return recipe.model_copy(update={"engines": {**recipe.engines, engine: EngineArguments(**fields)}})


def with_options(recipe, engine, **options):
    """Return the recipe with options (`_` for `-`) added to its own."""
    own = recipe.engines[engine].arguments
    named = {name.replace("_", "-") if engine != "trtllm" else name: value for name, value in options.items()}
    return changed(recipe, engine, arguments={**own, **named})


def rendered(recipe, engine, target="compose", **more):
    return render(recipe, engine, target, port=port_at(target, engine), model=model_in_container(recipe), **more)


def option(result, name):
    """Return the words after an option, up to the next."""
    after = result.command[result.command.index(f"--{name}") + 1 :]
    end = next((i for i, word in enumerate(after) if word.startswith("--")), len(after))
    return list(after[:end])


# --- what is refused


@pytest.mark.parametrize(
    ("recipe", "engine", "options", "told"),
    [
        (SPARK, "vllm", {"atention_backend": "x"}, "vllm has no such option; the nearest is 'attention-backend'"),
        (SPARK, "vllm", {"moe-backends": "marlin"}, "the nearest is 'moe-backend'"),
        (SGLANG, "sglang", {"mem_fraction": 0.5}, "the nearest is 'mem-fraction-static'"),
        (TRTLLM, "trtllm", {"max-num-token": 4}, "the nearest is 'max_num_tokens'"),
        (LLAMACPP, "llamacpp", {"flash_atn": "on"}, "the nearest is 'flash-attn'"),
        (LLAMACPP, "llamacpp", {"no_mmap": True}, "llamacpp has no such option"),
        (OLLAMA, "ollama", {"keep_alife": "5m"}, "the nearest is 'keep-alive'"),
        (SPARK, "vllm", {"xyzzy": 1}, "vllm has no such option$"),
    ],
)
def test_an_option_that_the_engine_does_not_know_is_refused_with_the_nearest(recipe, engine, options, told):
    with pytest.raises(RenderError, match=told):
        rendered(with_options(recipe, engine, **options), engine)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("max-num-batched-tokens", "8192", "must be a whole number"),
        ("max-num-batched-tokens", True, "must be a whole number"),
        ("max-num-batched-tokens", 81.92, "must be a whole number"),
        ("enforce-eager", "yes", "must be true or false"),
        ("cpu-offload-gb", "much", "must be a number"),
        ("load-format", 4, "must be text"),
        ("speculative-config", "mtp", "must be a map"),
        ("lora-modules", {"a": "b"}, "must be text, or a list of texts"),
    ],
)
def test_a_value_of_another_type_than_the_option_takes_is_refused(name, value, told):
    with pytest.raises(RenderError, match=rf"engines\.vllm\.arguments\.{name} is .*{told}"):
        rendered(with_options(SPARK, "vllm", **{name: value}), "vllm")


@pytest.mark.parametrize("name", ["max-model-len", "model", "gpu-memory-utilization", "port", "served-model-name"])
def test_what_a_field_of_the_recipe_says_is_not_said_twice(name):
    with pytest.raises(RenderError, match=rf"arguments\.{name} is set by a field of the recipe"):
        rendered(with_options(SPARK, "vllm", **{name: "1"}), "vllm")


@pytest.mark.parametrize(
    ("recipe", "engine"), [(SPARK, "vllm"), (SGLANG, "sglang"), (LLAMACPP, "llamacpp"), (VLLM_ON_CPU, "vllm")]
)
def test_no_key_comes_onto_a_command_line(recipe, engine):
    with pytest.raises(RenderError, match="a key has no place in a recipe"):
        rendered(with_options(recipe, engine, api_key="sk-secret"), engine, targets(recipe, engine)[0])


@pytest.mark.parametrize(
    ("recipe", "engine", "changes", "told"),
    [
        (SPARK, "vllm", {"image": None}, r"engines\.vllm\.image is missing"),
        (SGLANG, "sglang", {"arguments": {}}, r"engines\.sglang\.arguments\.mem-fraction-static is missing"),
        (TRTLLM, "trtllm", {"arguments": {}}, r"kv_cache_config\.free_gpu_memory_fraction is missing"),
        (TRTLLM, "trtllm", {"device": "any"}, "TensorRT-LLM needs a GPU; write device: gpu"),
    ],
)
def test_a_fact_that_is_missing_is_named(recipe, engine, changes, told):
    with pytest.raises(RenderError, match=told):
        rendered(changed(recipe, engine, **changes), engine)


@pytest.mark.parametrize(
    ("recipe", "engine", "dtype"),
    [(SPARK, "vllm", "q8_0"), (SGLANG, "sglang", "f32"), (TRTLLM, "trtllm", "q4_0"), (LLAMACPP, "llamacpp", "fp8"),
     (OLLAMA, "ollama", "bf16")],
)  # fmt: skip
def test_a_kv_cache_that_the_engine_does_not_have_is_refused(recipe, engine, dtype):
    with pytest.raises(RenderError, match=rf"kv_dtype: .* has no '{dtype}'; it has: f"):
        rendered(changed(recipe, engine, kv_dtype=dtype), engine)


@pytest.mark.parametrize(
    ("recipe", "engine", "target", "told"),
    [
        (LLAMACPP, "llamacpp", "process", "needs a GPU: as a process llama.cpp has none; use compose"),
        (TRTLLM, "trtllm", "process", "runs in its image"),
        (OLLAMA, "ollama", "process", "use compose or kubernetes"),
        (OLLAMA, "ollama", "vertex", "the clouds are served by vLLM"),
        (LLAMACPP, "llamacpp", "sagemaker", "the clouds are served by vLLM"),
        (SGLANG, "sglang", "vertex", "give the recipe an engine vllm"),
        (TRTLLM, "trtllm", "sagemaker", "give the recipe an engine vllm"),
        (SPARK, "sglang", "compose", "no recipe for the engine 'sglang'; it has: vllm"),
        (SPARK, "vllm", "nomad", "there is no target 'nomad'; there are: process, compose"),
    ],
)
def test_a_target_that_an_engine_cannot_run_at_is_refused_with_a_way_out(recipe, engine, target, told):
    with pytest.raises(RenderError, match=told):
        render(recipe, engine, target, port=8080, model="m")


def test_a_cpu_recipe_goes_to_no_cloud():
    with_image = changed(VLLM_ON_CPU, "vllm", image="example/vllm-cpu:1")
    with pytest.raises(RenderError, match="its device is no GPU"):
        rendered(with_image, "vllm", "vertex")


def test_a_cloud_prescribes_the_port():
    with pytest.raises(RenderError, match="sagemaker calls port 8080, not 8020"):
        render(SPARK, "vllm", "sagemaker", port=8020, model="m")


def test_more_context_than_the_model_was_trained_for_is_refused():
    with pytest.raises(RenderError, match="was trained for 262144 tokens, 300000 are asked for"):
        rendered(SPARK, "vllm", context_tokens=300_000)


@pytest.mark.parametrize("name", ["VLLM_ATTENTION_BACKEND", "VLLM_USE_V1", "VLLM_USE_FLASHINFER_MOE_FP4"])
def test_a_variable_that_vllm_reads_no_more_is_refused(name):
    with pytest.raises(RenderError, match=f"environment.{name}: vLLM reads it no more; set "):
        rendered(changed(SPARK, "vllm", environment={name: "1"}), "vllm")


@pytest.mark.parametrize(("recipe", "engine"), [(TRTLLM, "trtllm"), (OLLAMA, "ollama")])
def test_sampling_defaults_that_an_engine_cannot_keep_are_refused(recipe, engine):
    with pytest.raises(RenderError, match="leave them out"):
        rendered(changed(recipe, engine, temperature=0.5), engine)


def test_a_switch_without_a_negative_is_not_switched_off():
    with pytest.raises(RenderError, match="has no option that says no to it; leave it out"):
        rendered(with_options(SGLANG, "sglang", enable_metrics=False), "sglang")


def test_ollamas_dtype_is_said_once():
    with pytest.raises(RenderError, match=r"environment\.OLLAMA_KV_CACHE_TYPE is set by a field"):
        rendered(changed(OLLAMA, "ollama", environment={"OLLAMA_KV_CACHE_TYPE": "f16"}), "ollama")


def test_tensorrts_dtype_is_said_once():
    options = {"extra_llm_api_options": {"kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.4}}}
    with pytest.raises(RenderError, match=r"kv_cache_config\.dtype is set by the recipe's kv_dtype"):
        rendered(changed(TRTLLM, "trtllm", arguments=options), "trtllm")


# --- llama.cpp


def test_the_process_of_llamacpp_gets_every_argument():
    result = render(
        SMALL,
        "llamacpp",
        "process",
        port=8081,
        model="/models/m.gguf",
        context_tokens=8192,
        sequences=2,
        threads=Threads(3, 6),
    )
    assert " ".join(result.command) == (
        "-m services.cli.main engine llamacpp --model /models/m.gguf --id smollm2-135m-instruct-q4_1 --port 8081 "
        "--slots 2 --context 8192 --threads 3 --threads-batch 6 --temperature 0.2 --top-p 0.9"
    )
    assert (result.image, result.gpu, result.environment) == (None, False, {})


def test_options_that_the_process_of_llamacpp_does_not_have_are_refused():
    for changes in ({"arguments": {"top-k": 20}}, {"kv_dtype": "q8_0"}):
        with pytest.raises(RenderError, match="`sparkstack engine llamacpp` has no such option"):
            render(changed(SMALL, "llamacpp", **changes), "llamacpp", "process", port=8080, model="m")


def test_llamacpps_slots_divide_its_context():
    result = rendered(LLAMACPP, "llamacpp", context_tokens=4096, sequences=8)
    assert option(result, "ctx-size") == ["32768"]
    assert option(result, "parallel") == ["8"]


def test_llamacpp_on_a_cpu_gets_nothing_that_is_for_a_gpu():
    on_cpu = rendered(SMALL, "llamacpp", threads=Threads(2, 4))
    assert not {"--n-gpu-layers", "--flash-attn", "--ubatch-size"} & set(on_cpu.command)
    assert option(on_cpu, "threads") == ["2"]
    assert on_cpu.environment == {"OMP_WAIT_POLICY": "PASSIVE"}
    on_gpu = rendered(LLAMACPP, "llamacpp", threads=Threads(2, 4))
    assert option(on_gpu, "n-gpu-layers") == ["999"]
    assert "--threads" not in on_gpu.command
    assert on_gpu.environment["LLAMA_ARG_LOAD_MODE"] == "none"


def test_llamacpps_kv_cache_is_quantized_for_keys_and_values():
    result = rendered(changed(LLAMACPP, "llamacpp", kv_dtype="q8_0"), "llamacpp")
    assert option(result, "cache-type-k") == option(result, "cache-type-v") == ["q8_0"]
    assert "--cache-type-k" not in rendered(LLAMACPP, "llamacpp").command


def test_a_recipe_may_overrule_the_stacks_defaults():
    result = rendered(with_options(LLAMACPP, "llamacpp", ubatch_size=512), "llamacpp")
    assert option(result, "ubatch-size") == ["512"]
    assert result.command.count("--ubatch-size") == 1


# --- vLLM


def test_vllms_image_keeps_its_entrypoint_and_nvidias_gets_the_verb():
    assert rendered(SPARK, "vllm").command[0] == "nvidia/Qwen3.6-35B-A3B-NVFP4"
    nvidias = changed(SPARK, "vllm", image="nvcr.io/nvidia/vllm:26.10.pre1-py3")
    assert rendered(nvidias, "vllm").command[:3] == ("vllm", "serve", "nvidia/Qwen3.6-35B-A3B-NVFP4")


def test_vllm_writes_each_kind_of_value():
    options = {"lora-modules": ["a=/a", "b=/b"], "enable-prefix-caching": False, "enable-lora": True}
    result = rendered(with_options(SPARK, "vllm", **options), "vllm")
    assert option(result, "lora-modules") == ["a=/a", "b=/b"]
    assert "--no-enable-prefix-caching" in result.command
    assert "--enable-prefix-caching" not in result.command
    assert "--enable-lora" in result.command
    assert json.loads(option(result, "speculative-config")[0])["method"] == "mtp"


def test_a_fixed_kv_cache_is_asked_of_vllm_on_a_gpu_by_an_option_and_on_a_cpu_by_a_variable():
    on_gpu = rendered(changed(SPARK, "vllm", kv_cache_bytes=5 << 30), "vllm")
    assert option(on_gpu, "kv-cache-memory-bytes") == [str(5 << 30)]
    on_cpu = rendered(changed(VLLM_ON_CPU, "vllm", kv_cache_bytes=(1 << 30) + 1, environment={}), "vllm", "process")
    assert on_cpu.environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "--kv-cache-memory-bytes" not in on_cpu.command
    assert "--gpu-memory-utilization" not in on_cpu.command


def test_a_process_binds_loopback_and_a_container_its_own_network():
    assert option(rendered(VLLM_ON_CPU, "vllm", "process"), "host") == ["127.0.0.1"]
    assert option(rendered(SPARK, "vllm"), "host") == ["0.0.0.0"]


def test_sampling_defaults_reach_vllm():
    result = rendered(VLLM_ON_CPU, "vllm", "process")
    assert json.loads(option(result, "override-generation-config")[0]) == {"temperature": 0.2, "top_p": 0.9}


def test_a_pinned_revision_is_asked_for_where_the_hub_is():
    pinned = SPARK.model_copy(update={"source": HubSource(kind="hub", repository="a/b", revision="v2")})
    assert option(render(pinned, "vllm", "compose", port=8020, model="a/b"), "revision") == ["v2"]
    assert "--revision" not in render(pinned, "vllm", "compose", port=8020, model="/models/b").command
    assert "--revision" not in rendered(SPARK, "vllm").command


def test_engines_do_not_ask_the_hub_but_in_a_cloud_that_has_no_folder_of_ours():
    assert rendered(SPARK, "vllm").environment["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in rendered(SPARK, "vllm", "sagemaker").environment
    mounted = render(SPARK, "vllm", "sagemaker", port=8080, model="/opt/ml/model")
    assert mounted.environment["HF_HUB_OFFLINE"] == "1"
    assert mounted.environment["SM_VLLM_MODEL"] == "/opt/ml/model"


def test_a_model_by_path_is_mounted_and_one_by_name_comes_from_the_hubs_cache():
    assert "huggingface" in rendered(SPARK, "vllm").volumes
    by_path = render(SPARK, "vllm", "compose", port=8020, model="/models/qwen").volumes
    assert by_path["models"] == "/models"
    assert "huggingface" not in by_path


def test_compose_shares_memory_with_the_host_and_a_pod_does_not():
    compose, pod = rendered(SPARK, "vllm"), rendered(SPARK, "vllm", "kubernetes")
    assert compose.ipc_host
    assert compose.ulimits == {"memlock": -1, "stack": 67108864}
    assert (pod.ipc_host, pod.ulimits, pod.cap_add) == (False, {}, ())
    assert compose.command == pod.command
    assert compose.shm_bytes == pod.shm_bytes == 16 << 30


# --- clouds


def test_sagemaker_gets_its_options_as_variables():
    result = rendered(with_options(SPARK, "vllm", **{"enable-prefix-caching": False}), "vllm", "sagemaker")
    assert result.command == ("serve",)
    assert result.environment["SM_VLLM_MAX_MODEL_LEN"] == "262144"
    assert result.environment["SM_VLLM_NO_ENABLE_PREFIX_CACHING"] == "true"
    assert result.environment["SM_VLLM_TRUST_REMOTE_CODE"] == "true"
    assert json.loads(result.environment["SM_VLLM_SPECULATIVE_CONFIG"])["num_speculative_tokens"] == 3
    assert not {"SM_VLLM_HOST", "SM_VLLM_PORT"} & set(result.environment)
    assert (result.health_path, result.invoke_path, result.port) == ("/ping", "/invocations", 8080)


def test_sagemakers_variables_hold_one_word():
    with pytest.raises(RenderError, match="takes one word a variable"):
        rendered(with_options(SPARK, "vllm", **{"lora-modules": ["a=/a", "b=/b"]}), "vllm", "sagemaker")


def test_in_a_cloud_the_gpu_is_the_models_alone():
    result = rendered(SPARK, "vllm", "vertex")
    assert option(result, "gpu-memory-utilization") == ["0.92"]
    assert option(rendered(SPARK, "vllm"), "gpu-memory-utilization") == ["0.5"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("qwen3.6-35b", "/v1/chat/completions"),
        ("qwen3-embedding", "/v1/embeddings"),
        ("bge-reranker", "/v1/rerank"),
        ("whisper", "/v1/audio/transcriptions"),
    ],
)
def test_vertex_is_told_the_route_of_what_the_model_does(name, path):
    result = rendered(find_recipe(name, SHIPPED), "vllm", "vertex")
    assert result.environment["AIP_PREDICT_ROUTE"] == result.invoke_path == path
    assert result.environment["AIP_HTTP_PORT"] == "8080"
    assert option(result, "port") == ["8080"]


# --- the others


def test_tensorrts_options_become_a_file():
    result = rendered(TRTLLM, "trtllm")
    path = option(result, "extra_llm_api_options")[0]
    config = yaml.safe_load(result.files[path])
    assert config["kv_cache_config"] == {"dtype": "auto", "free_gpu_memory_fraction": 0.4, "host_cache_size": 0}
    assert config["return_perf_metrics"] is True
    assert option(result, "host") == ["0.0.0.0"], "its default is localhost"


def test_ollama_is_configured_by_variables():
    result = rendered(with_options(OLLAMA, "ollama", keep_alive="5m"), "ollama", context_tokens=8192, sequences=1)
    assert result.command == ("serve",)
    assert result.environment["OLLAMA_CONTEXT_LENGTH"] == "8192"
    assert result.environment["OLLAMA_NUM_PARALLEL"] == "1"
    assert result.environment["OLLAMA_KEEP_ALIVE"] == "5m"
    assert result.environment["OLLAMA_HOST"] == "0.0.0.0:11434"


def test_sglangs_kv_cache_of_8_bits_has_its_own_name():
    result = rendered(changed(SGLANG, "sglang", kv_dtype="fp8"), "sglang")
    assert option(result, "kv-cache-dtype") == ["fp8_e4m3"]
    assert "--kv-cache-dtype" not in rendered(SGLANG, "sglang").command


def test_the_served_name_is_the_recipes_id_unless_another_is_given():
    assert option(rendered(SGLANG, "sglang"), "served-model-name") == ["qwen3-8b-bf16"]
    named = rendered(SGLANG, "sglang", served_name="qwen3-8b-bf16@sglang")
    assert option(named, "served-model-name") == ["qwen3-8b-bf16@sglang"]


@pytest.mark.parametrize("engine", sorted(PORTS))
def test_the_tables_are_sorted_and_name_each_option_once(engine):
    path = options._TABLES / f"{engine}.txt"
    names = [line.split()[0] for line in path.read_text().splitlines() if not line.startswith("#")]
    assert names == sorted(set(names))
    assert set(table(engine).values()) <= set(options._KINDS)
    assert path.read_text().startswith("# "), "where it is from"
