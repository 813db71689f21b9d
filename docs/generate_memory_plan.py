"""Write docs/memory-plan.md from the recipes and the plan's own code: `python -m docs.generate_memory_plan`."""

from collections.abc import Iterator
from pathlib import Path

from services.engines.planning import capacity, overheads
from services.engines.planning.machines import (
    GIB,
    RESERVE_SHARE,
    SMALLEST_RESERVE_BYTES,
    SPARK_64_BYTES,
    SPARK_64_RESERVE_BYTES,
    SPARK_128_BYTES,
    SPARK_128_RESERVE_BYTES,
    SPARK_BANDWIDTH_BYTES_PER_S,
    machine,
)
from services.engines.planning.memory import ModelPlan, Plan, plan, plan_model
from services.engines.planning.named import Wishes, plan_named
from services.engines.planning.view import ENGINE_NAMES, above_ceiling, amount, kv_held, show, speed
from services.engines.recipes import Anchor, EngineName, Recipe, load_recipes

TARGET = Path(__file__).with_name("memory-plan.md")
SEVENTY = "llama-3.3-70b-instruct-nvfp4"
CONTEXTS = (65_536, 131_072)
LAPTOP = "8 GiB"

_PLAN_COLUMNS = (
    "| recipe | machine | weights | KV cache | engine | held | total with reserve | fits | longest context; most "
    "requests | ceiling | measured |"
)

_HEAD = """\
<!-- Made by `python -m docs.generate_memory_plan` from services/engines: edit the recipes and the code there. -->
# The memory plan

On a Spark the GPU and the system share one memory. Who takes too much of it gets no error: the host freezes, and
somebody has to pull the plug. So the stack adds up what a model takes before it is loaded, and refuses what does not
fit.

```
sparkstack plan qwen3.6-35b-a3b-nvfp4 --machine spark-128 --context 131072 --sequences 4
```

Nothing on this page was measured on a Spark by this project: sizes and speeds of Sparks are published ones, and the
sums are made from them. What was measured here, on CPUs, says so. GiB are 2³⁰ bytes, GB are 10⁹.

## How the sum is made

```
weights + KV cache + engine   of every model,   + host reserve   ≤   memory of the machine
```

- **Weights**: the tensors as they lie in the files, or parameters × bytes: BF16 2, FP8 1, NVFP4 0.5625 (4 bits and an
  FP8 scale for each 16), MXFP4 0.53125.
- **KV cache**: 2 × layers × KV heads × head dimension × bytes of the dtype, for each token of each request. Layers with
  a sliding window stop growing at the window, MLA keeps one latent in place of keys and values, recurrent layers keep a
  state of one size for each request. Where a recipe has a figure that was seen in the engine, that one counts.
- **Engine**: everything else that the process takes; the constants are below.
- **A share**: vLLM, SGLang and TensorRT-LLM take utilization × memory at their start and hold it for life, so that is
  what they count with. What weights and engine leave of the share is their KV cache. A request that finds no room there
  waits, so one request of the whole context must fit, and as many as `--sequences` names where it is given.
- **Host reserve**: what engines leave to the system and to the services beside them.
- **Transient**: what an engine takes for seconds while it loads, above what it holds then. Engines start one at a time;
  before a load the transient is compared with what is really free.
- **Decode ceiling**: bandwidth ÷ (weights that a token reads + its request's KV cache). Mixtures of experts read a part
  of their weights. Two thirds of the ceiling is what engines reach; more than the ceiling takes speculation. Speeds are
  usually measured with short contexts, so both ceilings are given.
- **Two Sparks** divide weights and KV cache; each has an engine and keeps a reserve. What can't be divided (fewer KV
  heads than machines, MLA's latent) each keeps whole.

"""


def document() -> str:
    """Return the text of docs/memory-plan.md."""
    parts = [_constants(), _recipes(), _small(), _matrix(), _seventy()]
    return _HEAD + "\n".join(parts)


def _table(header: str, rows: Iterator[str] | list[str]) -> str:
    cells = header.count("|") - 1
    return "\n".join([header, "|" + "---|" * cells, *rows]) + "\n"


def _cells(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def _constants() -> str:
    cpu_batch = f"{overheads.VLLM_CPU_PER_BATCH_TOKEN / 1e3:.0f} kB a token of a batch"
    others = (
        f"{RESERVE_SHARE:.0%}, {amount(SMALLEST_RESERVE_BYTES)} GiB at least, "
        f"{amount(SPARK_128_RESERVE_BYTES)} GiB at most"
    )
    calibration = (
        "what 0.75 × 121.69 GiB leaves beside 22 GB of weights and 53.84 GiB of KV cache, as published for "
        "Qwen3.6-35B-A3B"
    )
    transient = (
        f"weights + {amount(overheads.GPU_LOAD_SPIKE)} GiB (small models: weights + "
        f"{amount(overheads.SMALL_LOAD_SPIKE)} GiB) − what is held, where that is more than nothing"
    )
    buffers = f"{overheads.LLAMACPP_CPU_PER_WEIGHT_BYTE:.0%} of the weights"
    prompts = f"{overheads.LLAMACPP_PROMPT_CACHE >> 20} MiB of prompts that it keeps"
    ggml = (
        f"{overheads.LLAMACPP_CPU_BASE / 1e6:.0f} MB + {buffers} + {prompts}",
        f"{overheads.OLLAMA_CPU_BASE / 1e6:.0f} MB + {buffers}",
    )
    rows = [
        ("memory of a Spark of 128 GB", f"{SPARK_128_BYTES / GIB:.2f} GiB", "what CUDA sees of one"),
        ("memory of a Spark of 64 GB", f"{SPARK_64_BYTES / GIB:.2f} GiB", "as much taken off; none is published"),
        ("bandwidth of a Spark", f"{SPARK_BANDWIDTH_BYTES_PER_S / 1e9:.0f} GB/s", "NVIDIA's data sheet"),
        ("host reserve, Spark of 128 GB", f"{amount(SPARK_128_RESERVE_BYTES)} GiB", "fleets keep 8 to 12 GB"),
        ("host reserve, Spark of 64 GB", f"{amount(SPARK_64_RESERVE_BYTES)} GiB", "the lower end of that"),
        ("host reserve, other machines", others, "chosen, so that a small laptop has a use for its memory"),
        ("vLLM on a GPU", f"{amount(overheads.VLLM_GPU)} GiB", calibration),
        (
            "SGLang on a GPU",
            f"{amount(overheads.SGLANG_GPU)} GiB",
            "as vLLM: it captures graphs too; none is published",
        ),
        ("TensorRT-LLM on a GPU", f"{amount(overheads.TRTLLM_GPU)} GiB", "the same"),
        ("llama.cpp on a GPU", f"{amount(overheads.LLAMACPP_GPU)} GiB", "4 to 6 GB are reported"),
        ("Ollama on a GPU", f"{amount(overheads.OLLAMA_GPU)} GiB", "llama.cpp's engine, and its server"),
        ("transient of a load on a GPU", transient, "17 to 19 GiB were seen with large models"),
        ("llama.cpp on a CPU", ggml[0], "measured with SmolLM2: [memory.md](memory.md)"),
        ("Ollama on a CPU", ggml[1], "an estimate"),
        ("vLLM on a CPU", f"{overheads.VLLM_CPU_BASE / 1e6:,.0f} MB + {cpu_batch}", "the same"),
        ("SGLang on a CPU", f"{overheads.SGLANG_CPU_BASE / 1e6:,.0f} MB + {cpu_batch}", "an estimate"),
    ]
    text = "\nA recipe may have its own `overhead_bytes` and `transient_bytes`, which win.\n"
    return "## Constants\n\n" + _table("| what | how much | where from |", [_cells(row) for row in rows]) + text


def spark_plans() -> Iterator[tuple[Recipe, EngineName, Plan]]:
    """Yield the plan of every recipe on each Spark that it is meant for, with each of its engines."""
    for recipe in load_recipes():
        for name in recipe.machines:
            for engine in recipe.engines if name != "any" else ():
                place = machine(name)
                yield recipe, engine, plan([plan_model(recipe, engine, place)], place)


def _recipes() -> str:
    rows = [_row(found) for _, _, found in spark_plans()]
    return (
        "## The recipes for a Spark\n\n"
        "As each recipe has it, alone on its machine, in GiB. The KV cache is what the engine keeps for it; behind it "
        "stands what the recipe asks for: requests × tokens. Then: the longest context that its requests can have at a "
        "time (one request, where the others may wait), how many can have the recipe's context, and the ceilings of "
        "decoding in tokens a second, with a short context and with the recipe's.\n\n" + _table(_PLAN_COLUMNS, rows)
    )


def _row(found: Plan) -> str:
    model = found.models[0]
    share = f" ({model.utilization:.0%})" if model.utilization is not None else ""
    fits = "yes" if found.fits else "no"
    cells = (
        f"`{model.model_id}` {ENGINE_NAMES[model.engine]}",
        found.machine.name,
        amount(model.weights_bytes),
        f"{amount(kv_held(model))}; {model.sequences} × {model.context_tokens:,} {model.kv_dtype}",
        amount(model.overhead_bytes),
        amount(model.held_bytes) + share,
        f"{amount(found.total_bytes)} of {amount(found.available_bytes)}",
        fits,
        f"{model.max_context_tokens:,}; {model.max_sequences}",
        _ceiling(model),
        "; ".join(_anchor(anchor, found) for anchor in model.anchors),
    )
    return _cells(cells)


def _ceiling(model: ModelPlan) -> str:
    if model.ceiling_tok_per_s is None or model.short_ceiling_tok_per_s is None:
        return ""
    return f"{speed(model.short_ceiling_tok_per_s)}, {speed(model.ceiling_tok_per_s)}"


def _anchor(anchor: Anchor, found: Plan) -> str:
    where = "" if anchor.machine == found.machine.name else anchor.machine
    notes = "; ".join(filter(None, (where, anchor.note, above_ceiling(found.models[0], anchor))))
    decode = f"{anchor.decode_tok_per_s:g}" if anchor.decode_tok_per_s else "–"
    return f"{decode} ({notes})" if notes else decode


def _small() -> str:
    place = machine(LAPTOP)
    found = [
        plan([plan_model(recipe, engine, place)], place)
        for recipe in load_recipes()
        if "any" in recipe.machines
        for engine in recipe.engines
    ]
    return (
        "## The recipes for any machine\n\n"
        f"On a laptop of {LAPTOP}, without a GPU; predicted beside measured use is in [memory.md](memory.md).\n\n"
        + _table(_PLAN_COLUMNS, [_row(each) for each in found])
    )


def _matrix() -> str:
    rows = []
    for claim in capacity.CLAIMS:
        low, high = claim.parameters
        course = f"{low}–{high}B" if low < high else f"~{low}B"
        ours = "<br>".join(f"**{case.largest() / 1e9:.0f}B** {case.what}" for case in claim.cases)
        rows.append(f"| {claim.scenario} | {course}, {claim.memory} | {ours} | {_sum(claim.cases[0])} | {claim.why} |")
    return (
        "## How large a model one Spark holds\n\n"
        "A course on the DGX Spark has a table of six rows that is often repeated. Here are the same rows from first "
        "principles, with this page's reserve and engines, for models of the shape of Llama 3. Serving has "
        f"{capacity.SERVING_TOKENS:,} tokens of KV cache, training one sequence of {capacity.TRAINING_TOKENS:,} tokens "
        "a step with one checkpoint a layer. The code is `services/engines/planning/capacity.py`.\n\n"
        + _table("| scenario | the course | what fits | the first sum, in GB | why |", rows)
    )


def _sum(case: capacity.Case) -> str:
    parts = case.parts(case.largest())
    shown = " + ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items())
    return f"{shown} = {sum(parts.values()) / 1e9:.1f} of {case.machine.total_bytes / 1e9:.1f}"


def _seventy() -> str:
    views = []
    for context in CONTEXTS:
        found = plan_named([SEVENTY], "spark-128", Wishes(context_tokens=context, sequences=1, kv_dtype="fp8"))
        command = f"sparkstack plan {SEVENTY} --machine spark-128 --context {context} --sequences 1 --kv-dtype fp8"
        views.append(f"```\n$ {command}\n{show(found)}\n```\n")
    return "## 70B in 4 bits: how long a context?\n\n" + _seventy_words() + "\n" + "\n".join(views)


def _seventy_words() -> str:
    found = plan_named([SEVENTY], "spark-128", Wishes(sequences=1, kv_dtype="fp8", utilization=0.85)).models[0]
    facts = found.sizing.facts
    room = found.sizing.kv_room(found.context_tokens) or 0
    tokens = room // found.kv_bytes_per_token
    trained = found.sizing.recipe.context_tokens
    shorts = [found.sizing.ceiling(context) or 0.0 for context in (0, *CONTEXTS)]
    course_tokens = capacity.COURSE_ROOM_GB * 1e9 / capacity.COURSE_TOKEN_BYTES
    in_float32 = 2 * facts.attention_layers * facts.kv_heads * facts.head_dim * 4
    return f"""\
The course says: weights of ~{capacity.COURSE_WEIGHTS_GB} GB and an FP8 cache leave ~{capacity.COURSE_ROOM_GB} GB, a token takes ~0.65 MB,
so about 140K tokens are the most and 64K are practical; elsewhere it says 64–128K. The range holds, the way to it
doesn't:

| | the course | here | why |
|---|---|---|---|
| weights | {capacity.COURSE_WEIGHTS_GB} GB | {facts.weight_bytes / 1e9:.1f} GB | 4 bits a weight leave out NVFP4's scales (4.5 bits), and embeddings and output, which stay in 16 bits |
| engine and reserve | none | {found.overhead_bytes / 1e9:.1f} and {SPARK_128_RESERVE_BYTES / 1e9:.1f} GB | CUDA graphs, activations; the system |
| a token | 0.65 MB | {found.kv_bytes_per_token:,} bytes | 2 × {facts.attention_layers} layers × {facts.kv_heads} KV heads × {facts.head_dim} × 1 byte. 0.65 MB is four times that: {in_float32:,} bytes are the same values in float32 |
| room for the cache | {capacity.COURSE_ROOM_GB} GB | {room / 1e9:.1f} GB | at a utilization of 0.85, the most that one engine should have |
| tokens in it | {course_tokens:,.0f} | {tokens:,} | two errors that partly cancel: too much room, and tokens that are too large |

So memory does not limit the context: the model was trained for {trained:,} tokens, and {tokens / trained:.1f} requests of
that length fit at a time. Time does. Each token reads the weights and the whole cache of its request: at most {shorts[0]:.1f} tokens a second with a
short context, {shorts[1]:.1f} at {CONTEXTS[0]:,} tokens and {shorts[2]:.1f} at {CONTEXTS[1]:,}; 4.0 to 4.2 were measured with a short one.
"""  # noqa: E501


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
