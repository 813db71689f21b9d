"""First drafts of recipes: the facts of dense, mixed, windowed, hybrid and latent models, from files made here."""

import contextlib
import json

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from services.engines.commands.recipe import recipe as recipe_command
from services.engines.drafting.draft import draft_recipe
from services.engines.drafting.facts import DraftError
from services.engines.files.packaged import locate
from services.engines.recipes import Recipe, find_recipe, load_recipe, load_recipes
from services.engines.tests import gguf_files, safetensors_files
from services.engines.tests.gguf_files import F32, Q4_0

SMALL = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN3_8B = {
    "model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 8, "intermediate_size": 12288, "vocab_size": 151936, "max_position_embeddings": 40960,
    "tie_word_embeddings": False, "dtype": "bfloat16", "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip
QWEN3_30B_A3B = {
    **QWEN3_8B, "model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "num_key_value_heads": 4,
    "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A model's folder with this config, and with weights where tensors are given."""

    def make(config, tensors=None, name="Some-Model", **texts):
        made = tmp_path / name
        made.mkdir()
        (made / "config.json").write_text(json.dumps(config))
        for file, text in texts.items():
            (made / file.replace("__", ".")).write_text(text)
        if tensors:
            safetensors_files.write(made / "model.safetensors", tensors)
        return made

    return make


def draft(path, engine="", **variables):
    text = draft_recipe(str(path), engine, variables=variables)
    return Recipe.model_validate(yaml.safe_load(text)), text


def facts(path):
    return draft(path)[0].memory


# --- files with weights


def test_a_dense_model_is_what_its_files_hold(folder):
    tensors = safetensors_files.llama(hidden=64, vocabulary=512)
    made = folder(SMALL, tensors, README__md="---\nlicense: apache-2.0\ntags: [x]\n---\n# A model")
    found, text = draft(made)
    size = (made / "model.safetensors").stat().st_size
    assert found.memory.weight_bytes == sum(2 * a * (b or [1])[0] for _, (a, *b) in tensors.values())
    assert size - found.memory.weight_bytes < 4096, "the rest is the header"
    assert found.parameters == found.memory.weight_bytes // 2
    assert found.memory.weight_bytes - found.memory.active_weight_bytes == 512 * 64 * 2, "one row of the embedding"
    assert (found.memory.layers, found.memory.attention_layers, found.memory.kv_heads, found.memory.head_dim) == (
        2, 2, 2, 16,
    )  # fmt: skip
    assert (found.id, found.licence, found.quantization) == ("some-model-bf16", "apache-2.0", "BF16")
    assert (found.default_engine, found.context_tokens) == ("vllm", 4096)
    assert "licence: apache-2.0\n" in text


def test_header_and_files_agree_within_2_percent(folder):
    tensors = safetensors_files.llama(hidden=256, kv=128, inner=512, vocabulary=2048)
    made = folder(SMALL, tensors)
    assert facts(made).weight_bytes == pytest.approx((made / "model.safetensors").stat().st_size, rel=0.02)


def test_a_tied_embedding_is_read_for_every_token(folder):
    assert facts(folder(SMALL, safetensors_files.llama(tied=True))).active_weight_bytes is None


def test_of_the_experts_those_that_are_chosen_count(folder):
    tensors = safetensors_files.llama()
    for expert in range(8):
        tensors[f"model.layers.0.mlp.experts.{expert}.up_proj.weight"] = ("BF16", (64, 100))
    tensors["model.layers.0.mlp.shared_experts.up_proj.weight"] = ("BF16", (64, 10))
    made = folder({**SMALL, "num_experts": 8, "num_experts_per_tok": 2}, tensors)
    found, _ = draft(made)
    idle = 6 * 64 * 100
    assert found.memory.weight_bytes - found.memory.active_weight_bytes == 2 * (idle + 512 * 64)
    assert found.active_parameters == found.parameters - idle - 512 * 64


def test_packed_four_bit_weights_are_counted_one_by_one(folder):
    tensors = {
        "model.embed_tokens.weight": ("BF16", (512, 64)),
        "model.layers.0.mlp.up_proj.weight": ("U8", (128, 32)),
        "model.layers.0.mlp.up_proj.weight_scale": ("F8_E4M3", (128, 4)),
        "model.layers.0.mlp.up_proj.weight_scale_2": ("F32", ()),
        "model.layers.0.mlp.up_proj.input_scale": ("F32", ()),
        "lm_head.weight": ("BF16", (512, 64)),
    }
    quantizer = json.dumps({"quantization": {"quant_algo": "NVFP4"}})
    found, _ = draft(folder(SMALL, tensors, name="Tiny-NVFP4", hf_quant_config__json=quantizer))
    assert found.parameters == 2 * 512 * 64 + 128 * 64
    assert (found.id, found.quantization, found.engines["vllm"].kv_dtype) == ("tiny-nvfp4", "NVFP4", "fp8")


def test_eyes_and_speculative_heads_are_not_read_for_a_token(folder):
    tensors = safetensors_files.llama()
    base = facts(folder(SMALL, tensors, name="a")).active_weight_bytes
    more = {"visual.blocks.0.weight": ("BF16", (100, 100)), "mtp.layers.0.weight": ("BF16", (10, 10))}
    assert facts(folder(SMALL, tensors | more, name="b")).active_weight_bytes == base


# --- config.json alone


@pytest.mark.parametrize(
    ("config", "parameters", "active"), [(QWEN3_8B, 8.19e9, None), (QWEN3_30B_A3B, 30.5e9, 3.34e9)]
)
def test_without_weights_the_dimensions_make_an_estimate_that_is_marked(folder, config, parameters, active):
    found, text = draft(folder(config))
    assert found.parameters == pytest.approx(parameters, rel=0.01)
    assert found.memory.weight_bytes == pytest.approx(2 * parameters, rel=0.01)
    assert found.active_parameters == (pytest.approx(active, rel=0.02) if active else None)
    assert "  # check: estimated" in text


def attention(folder, **changes):
    found = facts(folder({**SMALL, "num_hidden_layers": 12, **changes}))
    return found.attention_layers, found.window_layers, found.window_tokens


def test_grouped_heads_are_the_ones_that_are_kept(folder):
    found = facts(folder(QWEN3_8B))
    assert 2 * found.attention_layers * found.kv_heads * found.head_dim * 2 == 147_456


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (12, 0, 0)),
        ({"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 6}, (6, 6, 128)),
        ({"sliding_window": 1024, "sliding_window_pattern": 6}, (2, 10, 1024)),
        ({"model_type": "mistral", "sliding_window": 4096}, (0, 12, 4096)),
        ({"model_type": "gemma2", "sliding_window": 4096}, (6, 6, 4096)),
        ({"sliding_window": 4096, "use_sliding_window": False}, (12, 0, 0)),
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 9}, (9, 3, 4096)),
        ({"layer_types": ["chunked_attention"] * 12, "attention_chunk_size": 8192}, (0, 12, 8192)),
    ],
)
def test_windows_are_found_in_every_makers_words(folder, changes, expected):
    assert attention(folder, **changes) == expected


def test_a_window_that_nobody_places_is_for_a_person(folder):
    _, text = draft(folder({**SMALL, "model_type": "new", "sliding_window": 77}))
    assert "attention_layers: 2  # check: a window of 77 tokens is named" in text


def test_a_nested_text_config_is_the_language_models(folder):
    made = folder({"model_type": "some_vl", "vision_config": {"hidden_size": 9}, "text_config": QWEN3_8B})
    found, _ = draft(made)
    assert (found.memory.layers, found.family) == (36, "qwen3")
    assert "vision" in found.capabilities


def test_a_gated_delta_hybrid_keeps_states(folder):
    linear = {
        "num_hidden_layers": 48, "full_attention_interval": 4, "linear_num_value_heads": 32,
        "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }  # fmt: skip
    found = facts(folder({**SMALL, **linear}))
    assert (found.layers, found.attention_layers) == (48, 12)
    assert found.state_bytes_per_sequence == 36 * (32 * 128 * 128 * 4 + (2 * 2048 + 4096) * 4 * 2)


@pytest.mark.parametrize(
    "layers",
    [
        {"hybrid_override_pattern": "M-M*-EM*"},
        {"layers_block_type": ["mamba", "x", "mamba", "attention", "x", "x", "mamba", "hybrid"]},
    ],
)
def test_a_mamba_hybrid_keeps_states(folder, layers):
    mamba = {"ssm_state_size": 128, "mamba_num_heads": 10, "mamba_head_dim": 64, "n_groups": 8, "conv_kernel": 4}
    found = facts(folder({**SMALL, "num_hidden_layers": 8, **layers, **mamba}))
    assert found.attention_layers == 2
    assert found.state_bytes_per_sequence == 3 * (640 * 128 * 4 + (640 + 2 * 8 * 128) * 4 * 2)


def test_jamba_attends_every_few_layers(folder):
    made = {"attn_layer_period": 4, "attn_layer_offset": 2, "mamba_d_state": 16, "mamba_expand": 2, "mamba_d_conv": 4}
    found = facts(folder({**SMALL, "num_hidden_layers": 8, **made}))
    assert found.attention_layers == 2
    assert found.state_bytes_per_sequence == 6 * (128 * 16 * 4 + 128 * 4 * 2)


def test_short_convolutions_keep_their_taps(folder):
    made = {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}
    assert facts(folder({**SMALL, **made})).state_bytes_per_sequence == 64 * 3 * 2


def test_an_unknown_state_is_for_a_person(folder):
    _, text = draft(folder({**SMALL, "layer_types": ["recurrent", "full_attention"]}))
    assert "state_bytes_per_sequence: 0  # check: " in text


def test_mla_keeps_a_latent(folder):
    assert facts(folder({**SMALL, "kv_lora_rank": 512, "qk_rope_head_dim": 64})).latent_dim == 576


@pytest.mark.parametrize(
    ("quantizer", "name"),
    [
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "NVFP4"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "NVFP4"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "FP8"),
        ({"quant_method": "fp8"}, "FP8"),
        ({"quant_method": "mxfp4"}, "MXFP4"),
        ({"quant_method": "awq"}, "AWQ"),
        ({"quant_method": "bitsandbytes"}, "BNB4"),
        ({"quant_method": "tomorrow"}, "TOMORROW"),
        ({}, "unknown"),
    ],
)
def test_quantizations_have_their_usual_names(folder, quantizer, name):
    assert draft(folder({**SMALL, "quantization_config": quantizer}))[0].quantization == name


@pytest.mark.parametrize(
    ("config", "files", "expected"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, {}, ("rerank",)),
        ({"architectures": ["WhisperForConditionalGeneration"]}, {}, ("transcription",)),
        ({}, {"modules__json": "[]"}, ("embeddings",)),
        ({}, {}, ("completion",)),
        ({}, {"chat_template__jinja": "{{ messages }}"}, ("chat", "completion")),
        ({}, {"tokenizer_config__json": '{"chat_template": "tools <think>"}'},
         ("chat", "completion", "tools", "reasoning")),
    ],
)  # fmt: skip
def test_what_a_model_can_do_is_guessed_and_marked(folder, config, files, expected):
    found, text = draft(folder({**SMALL, **config}, **files))
    assert found.capabilities == expected
    assert "capabilities:  # check: guessed" in text


def test_a_large_model_is_for_two_sparks(folder):
    assert draft(folder(QWEN3_8B, name="a"))[0].machines == ("spark-128",)
    assert draft(folder({**QWEN3_8B, "num_hidden_layers": 280}, name="b"))[0].machines == ("dual-spark",)
    assert "# check: not even two Sparks" in draft(folder({**QWEN3_8B, "num_hidden_layers": 900}, name="c"))[1]


# --- GGUF


def test_the_default_models_facts_agree_with_its_file_and_recipe():
    written = find_recipe("smollm2", load_recipes())
    path = locate(written.source)
    found, _ = draft(path)
    assert found.memory.weight_bytes == pytest.approx(path.stat().st_size, rel=0.02)
    assert (found.id, found.parameters, found.quantization, found.context_tokens) == (
        written.id, written.parameters, written.quantization, written.context_tokens,
    )  # fmt: skip
    mine, theirs = found.memory, written.memory
    assert (mine.layers, mine.attention_layers, mine.kv_heads, mine.head_dim) == (
        theirs.layers, theirs.attention_layers, theirs.kv_heads, theirs.head_dim,
    )  # fmt: skip
    assert (found.default_engine, found.machines) == ("llamacpp", ("any",))


def gguf(path, architecture="llama", layers=4, tensors=(), **metadata):
    """A file whose layers have keys of 2 heads of 16."""
    header = {
        "general.architecture": architecture, "general.file_type": 2, f"{architecture}.context_length": 4096,
        f"{architecture}.block_count": layers, f"{architecture}.attention.head_count": 4,
        f"{architecture}.embedding_length": 64,
    } | {f"{architecture}.{name.replace('__', '.')}": value for name, value in metadata.items()}  # fmt: skip
    usual = [(Q4_0, (64, 512), "token_embd.weight"), (Q4_0, (64, 512), "output.weight")]
    return gguf_files.write(path, header, tensors=(*usual, *tensors))


def keys(*layers):
    return [(F32, (64, 32), f"blk.{layer}.attn_k.weight") for layer in layers]


def test_a_gguf_file_tells_its_heads_by_its_tensors(tmp_path):
    found = facts(gguf(tmp_path / "m.gguf", tensors=keys(0, 1, 2, 3)))
    assert (found.layers, found.attention_layers, found.kv_heads, found.head_dim) == (4, 4, 2, 16)
    assert found.active_weight_bytes == found.weight_bytes - 64 * 512 // 32 * 18


def test_a_hybrid_gguf_file(tmp_path):
    states = [(F32, (64, 8), f"blk.{layer}.ssm_in.weight") for layer in (0, 2)]
    ssm = {"ssm__inner_size": 128, "ssm__state_size": 16, "ssm__group_count": 1, "ssm__conv_kernel": 4}
    found = facts(gguf(tmp_path / "m.gguf", "nemotron_h", tensors=[*states, *keys(1, 3)], **ssm))
    assert (found.layers, found.attention_layers) == (4, 2)
    assert found.state_bytes_per_sequence == 2 * (128 * 16 + (128 + 2 * 16) * 3) * 4
    _, text = draft(gguf(tmp_path / "n.gguf", "rwkv", tensors=[(F32, (64, 8), "blk.0.time_mix_k.weight")]))
    assert "state_bytes_per_sequence: 0  # check: " in text


def test_windows_of_a_gguf_file(tmp_path):
    found = facts(gguf(tmp_path / "a.gguf", "gpt-oss", tensors=keys(0, 1, 2, 3), attention__sliding_window=128))
    assert (found.attention_layers, found.window_layers, found.window_tokens) == (2, 2, 128)
    _, text = draft(gguf(tmp_path / "b.gguf", "tomorrow", tensors=keys(0), attention__sliding_window=128))
    assert "attention_layers: 1  # check: a window of 128 tokens" in text


def test_experts_and_latents_of_a_gguf_file(tmp_path):
    tensors = [*keys(0), (Q4_0, (64, 32, 8), "blk.0.ffn_up_exps.weight")]
    metadata = {"expert_count": 8, "expert_used_count": 2, "attention__kv_lora_rank": 512, "rope__dimension_count": 64}
    found, _ = draft(gguf(tmp_path / "a.gguf", "deepseek2", tensors=tensors, **metadata))
    idle = 64 * 32 * 6
    assert found.parameters - found.active_parameters == idle + 64 * 512
    assert found.memory.weight_bytes - found.memory.active_weight_bytes == (idle + 64 * 512) // 32 * 18
    assert found.memory.latent_dim == 576


def test_fused_heads_and_uneven_ones(tmp_path):
    fused = [(F32, (64, 96), "blk.0.attn_qkv.weight")]
    found = facts(gguf(tmp_path / "a.gguf", layers=1, tensors=fused, attention__head_count_kv=1))
    assert (found.attention_layers, found.kv_heads) == (1, 1)
    uneven = [*keys(0), (F32, (64, 64), "blk.1.attn_k.weight")]
    _, text = draft(gguf(tmp_path / "b.gguf", layers=2, tensors=uneven))
    assert "kv_heads: 4  # check: not all layers have as many" in text


# --- where it is looked for


def test_a_model_of_the_hubs_cache_is_pinned_to_its_commit(folder, tmp_path):
    commit = "0123456789" * 4
    snapshot = tmp_path / "hub/models--some--Thing-8B/snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    folder(SMALL, safetensors_files.llama(), name="source").rename(snapshot)
    refs = tmp_path / "hub/models--some--Thing-8B/refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    found, text = draft("some/Thing-8B", HF_HUB_CACHE=str(tmp_path / "hub"))
    assert (found.source.kind, found.source.repository, found.source.revision) == ("hub", "some/Thing-8B", commit)
    assert found.source.size_bytes == (snapshot / "model.safetensors").stat().st_size
    assert found.id == "thing-8b-bf16"
    assert "licence: unknown  # check: fill it in" in text


@pytest.mark.parametrize("model", ["some/thing", "no-such-folder", "../..", "a/../b", "x.gguf", ""])
def test_what_is_not_here_is_a_sentence(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DraftError, match=r"there is n|no config\.json"):
        draft_recipe(model, variables={"HF_HUB_CACHE": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is not JSON"), ("[]", "no JSON object"), ("[" * 100_000, "is not JSON")]
)
def test_a_broken_config_is_a_sentence(folder, text, told):
    made = folder({})
    (made / "config.json").write_text(text)
    with pytest.raises(DraftError, match=told):
        draft_recipe(str(made))


def test_impossible_numbers_are_refused(folder):
    with pytest.raises(DraftError, match="50,000 layers"):
        draft_recipe(str(folder({**SMALL, "num_hidden_layers": 50_000}, name="a")))
    assert facts(folder({**SMALL, "num_key_value_heads": -3}, name="b")).kv_heads == 4


ODD = [
    None, 0, -1, 1, 4, 1 << 63, 10**30, 1.5, float("inf"), True, "x", "", "M*-", [], [1], [None], {}, {"a": 1},
    ["full_attention"] * 48,
]  # fmt: skip
FIELDS = [
    *QWEN3_30B_A3B, "layer_types", "hybrid_override_pattern", "attn_layer_period", "full_attention_interval",
    "sliding_window_pattern", "kv_lora_rank", "quantization_config", "text_config", "architectures", "ssm_state_size",
    "linear_num_value_heads", "linear_value_head_dim", "mamba_expand", "first_k_dense_replace", "max_window_layers",
]  # fmt: skip


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(ODD), max_size=6))
def test_no_config_ends_in_anything_but_a_recipe_or_a_sentence(tmp_path_factory, changes):
    made = tmp_path_factory.mktemp("odd")
    (made / "config.json").write_text(json.dumps({**QWEN3_30B_A3B, **changes}))
    with contextlib.suppress(DraftError):
        assert draft(made)[0].memory.weight_bytes > 0


def test_an_empty_config_makes_a_draft_that_is_all_doubts(folder):
    _, text = draft(folder({}))
    assert text.count("# check: ") >= 6


def test_broken_weights_are_a_sentence(folder):
    made = folder(SMALL, safetensors_files.llama())
    (made / "model.safetensors").write_bytes(b"x")
    with pytest.raises(DraftError, match="truncated"):
        draft_recipe(str(made))


def test_a_folder_of_gguf_files(tmp_path):
    gguf(tmp_path / "a.gguf", tensors=keys(0))
    assert draft(tmp_path)[0].format == "gguf"
    gguf(tmp_path / "b.gguf")
    with pytest.raises(DraftError, match=r"name one of its files: a\.gguf, b\.gguf"):
        draft_recipe(str(tmp_path))


def test_the_engine_must_read_the_format(folder, tmp_path):
    made = folder(SMALL, safetensors_files.llama())
    assert draft(made, "sglang")[0].default_engine == "sglang"
    with pytest.raises(DraftError, match="llamacpp does not read safetensors files"):
        draft_recipe(str(made), "llamacpp")


def test_names_from_a_file_cannot_break_the_text(tmp_path):
    path = gguf_files.write(
        tmp_path / "x.gguf",
        {"general.architecture": "a: b\n# c", "general.name": "n\nengines: {}\n- '", "general.license": 'l\n"x: y'},
    )
    found, _ = draft(path)
    assert (found.name, found.licence, found.family) == ("n engines: {} - '", 'l "x: y', "a: b # c")


# --- the command


def test_the_command_prints_or_writes_a_recipe_that_loads(folder, tmp_path):
    made = folder(SMALL, safetensors_files.llama())
    printed = CliRunner().invoke(recipe_command, ["new", str(made)])
    assert printed.exit_code == 0
    target = tmp_path / "some-model-bf16.yaml"
    written = CliRunner().invoke(recipe_command, ["new", str(made), "--output", str(target)])
    assert written.exit_code == 0
    assert target.read_text() == printed.stdout
    assert load_recipe(target).id == "some-model-bf16"
    again = CliRunner().invoke(recipe_command, ["new", str(made), "--output", str(target)])
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    nowhere = CliRunner().invoke(recipe_command, ["new", str(made), "--output", str(tmp_path / "no/x.yaml")])
    assert "can't be written" in nowhere.stderr
    missing = CliRunner().invoke(recipe_command, ["new", str(tmp_path / "gone.gguf")])
    assert missing.exit_code == 1
    assert "there is no file" in missing.stderr
