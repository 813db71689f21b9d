"""Recipes made in the test, for the arithmetic of the memory plan."""

from services.engines.recipes import Recipe

GB = 10**9


def recipe(
    engine="llamacpp",
    *,
    weights=5 * GB,
    active=None,
    layers=32,
    attention_layers=None,
    kv_heads=8,
    head_dim=128,
    trained=131072,
    context=8192,
    sequences=4,
    kv_dtype="f16",
    utilization=None,
    facts=None,
    capabilities=("chat",),
    **arguments,
):
    """A recipe of one engine; `facts` are further memory facts, `arguments` further ones of the engine."""
    return Recipe.model_validate(
        {
            "id": "made-in-the-test",
            "name": "Made",
            "source": {"kind": "file", "path": "/nowhere"},
            "licence": "MIT",
            "family": "llama",
            "format": "gguf",
            "parameters": 1,
            "quantization": "Q4",
            "capabilities": capabilities,
            "context_tokens": trained,
            "memory": {
                "weight_bytes": weights,
                "active_weight_bytes": active,
                "layers": layers,
                "attention_layers": layers if attention_layers is None else attention_layers,
                "kv_heads": kv_heads,
                "head_dim": head_dim,
                "source": "the test",
                **(facts or {}),
            },
            "engines": {
                engine: {
                    "device": "gpu",
                    "context_tokens": context,
                    "sequences": sequences,
                    "kv_dtype": kv_dtype,
                    "memory_utilization": utilization,
                    **arguments,
                }
            },
        }
    )


def qwen36_35b(**changes):
    """Qwen3.6-35B-A3B NVFP4 in vLLM, as published: 22 GB, 14.2 kB a token, measured."""
    published = {
        "weights": 22 * GB, "layers": 40, "attention_layers": 10, "kv_heads": 2, "head_dim": 256, "trained": 262144,
        "context": 262144, "sequences": 8, "kv_dtype": "fp8", "utilization": 0.75, "kv_bytes_per_token": 14192,
    }  # fmt: skip
    return recipe("vllm", **{**published, **changes})


def llama_70b(**changes):
    """Llama 3.3 70B NVFP4 in vLLM with an FP8 cache; active: all but the embedding's rows."""
    usual = {
        "weights": 42_700_000_000, "active": 40_600_000_000, "layers": 80, "context": 8192, "sequences": 1,
        "kv_dtype": "fp8", "utilization": 0.8,
    }  # fmt: skip
    return recipe("vllm", **{**usual, **changes})
