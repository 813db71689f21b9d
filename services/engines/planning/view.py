"""A memory plan as text: a table, a drawn bar, and what it means in sentences. At most 80 columns, no colours."""

import textwrap
from collections.abc import Iterable, Iterator

from services.engines.planning.machines import GIB, Machine
from services.engines.planning.memory import ModelPlan, Plan
from services.engines.recipes import Anchor

WIDTH = 80
_BAR = 72
_BLOCKS = {"weights": "█", "KV cache": "▓", "engine": "▒", "host reserve": "░", "free": "·"}
_PLAIN = str.maketrans("█▓▒░·×÷", "#=+-.x/")
ENGINE_NAMES = {
    "llamacpp": "llama.cpp",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "trtllm": "TensorRT-LLM",
    "ollama": "Ollama",
}


def show(plan: Plan) -> str:
    """Return the whole view of a plan, lines of at most 80 columns where names let it."""
    parts = [[_machine_line(plan.machine)], table(plan), bar(plan), _verdict(plan)]
    parts += [_model_lines(model, named=len(plan.models) > 1) for model in plan.models]
    return "\n\n".join("\n".join(part) for part in parts if part)


def in_encoding(text: str, encoding: str | None) -> str:
    """Return a text that a terminal of this encoding can show: plain signs where it has no blocks."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode("ascii", errors="replace").decode("ascii")
    return text


def table(plan: Plan) -> list[str]:
    """Return a row for each model, the host's reserve and the sum, in GiB."""
    rows: list[tuple[str, ...]] = [("GiB", "weights", "KV cache", "engine", "held")]
    for model in plan.models:
        parts = (model.weights_bytes, kv_held(model), model.overhead_bytes, model.held_bytes)
        rows.append((f"{model.model_id} ({ENGINE_NAMES[model.engine]})", *map(amount, parts)))
    rows.append(("host reserve", "", "", "", amount(plan.reserve_bytes)))
    rows.append((f"total, of {amount(plan.available_bytes)}", "", "", "", amount(plan.total_bytes)))
    first = max(len(row[0]) for row in rows)
    return [row[0].ljust(first) + "".join(cell.rjust(10) for cell in row[1:]) for row in rows]


def kv_held(model: ModelPlan) -> int:
    """Return what the engine keeps for its KV cache: all that is left of a share, where it holds one."""
    if model.sizing.waits and model.holds:
        return model.held_bytes - model.weights_bytes - model.overhead_bytes
    return model.kv_bytes


def bar(plan: Plan, width: int = _BAR) -> list[str]:
    """Return the machine's memory as one bar with its legend; what is above the machine's end stands behind a `|`."""
    parts = {
        "weights": sum(model.weights_bytes for model in plan.models),
        "KV cache": sum(kv_held(model) for model in plan.models),
        "engine": sum(model.overhead_bytes for model in plan.models),
        "host reserve": plan.reserve_bytes,
    }
    used = sum(parts.values())
    whole = max(used, plan.available_bytes)
    drawn = ""
    reached = 0
    for name, size in {**parts, "free": whole - used}.items():
        reached += size
        drawn += _BLOCKS[name] * (round(width * reached / whole) - len(drawn))
    end = round(width * plan.available_bytes / whole)
    legend = "  ".join(f"{block} {name}" for name, block in _BLOCKS.items() if name != "free" or used < whole)
    if used > plan.available_bytes:
        return [f"{drawn[:end]}|{drawn[end:]}", f"{legend}  | the machine's end"]
    return [drawn, legend]


def _machine_line(machine: Machine) -> str:
    what = {"this": "this machine", "dual-spark": "two Sparks of 128 GB"}.get(machine.name, machine.name)
    speed = machine.bandwidth_bytes_per_s
    read = f", read at {speed / 1e9:.0f} GB/s" if speed else ""
    return f"{what}: {amount(machine.total_bytes)} GiB{read}"


def _verdict(plan: Plan) -> list[str]:
    left = plan.available_bytes - plan.total_bytes
    if plan.fits:
        lines = [f"It fits, with {amount(left)} GiB left."]
        if plan.transient_bytes > left:
            lines += wrap(
                f"While it loads it may take {amount(plan.transient_bytes)} GiB more for some seconds, which is more "
                "than is left: start it while nothing else grows."
            )
        if plan.machine.name == "this" and plan.held_bytes + plan.reserve_bytes > plan.machine.available_bytes:
            lines += wrap(
                f"At this moment {amount(plan.machine.available_bytes)} GiB of the machine are available; what runs "
                "has the rest. Unload models or end programs before you load it."
            )
        return lines
    if left < 0:
        lines = [f"It does not fit: {amount(-left)} GiB are missing."]
    else:
        tight = [model for model in plan.models if not model.holds]
        lines = [line for model in tight for line in wrap(_too_small(model))]
    advice = plan.advice()
    return [*lines, "What would help" + (", each alone:" if len(advice) > 1 else ":"), *_items(advice)]


def _too_small(model: ModelPlan) -> str:
    engine = ENGINE_NAMES[model.engine]
    room = model.sizing.kv_room(model.context_tokens) or 0
    if room <= 0:
        fixed = model.weights_bytes + model.overhead_bytes
        return (
            f"It does not fit: weights and engine of {model.model_id} need {amount(fixed)} GiB, and what {engine} "
            f"takes of the memory is {amount(model.held_bytes)} GiB."
        )
    requests = "one request" if model.required_sequences == 1 else f"{model.required_sequences} requests"
    need = model.sizing.kv.size(model.context_tokens, model.required_sequences)
    return (
        f"It does not fit: the KV cache of {requests} of {model.context_tokens:,} tokens needs {amount(need)} GiB, and "
        f"what {engine} holds leaves {amount(room)} GiB for it."
    )


def _items(sentences: Iterable[str]) -> Iterator[str]:
    for sentence in sentences:
        first, *rest = wrap(sentence, WIDTH - 4)
        yield f"  - {first}"
        yield from (f"    {line}" for line in rest)


def _model_lines(model: ModelPlan, *, named: bool) -> list[str]:
    lines = [f"{model.model_id} ({ENGINE_NAMES[model.engine]})"] if named else []
    pool = model.sizing.arguments.kv_cache_bytes
    if pool is not None:
        lines += wrap(f"Its KV cache is a pool of {amount(pool)} GiB; requests that find no room in it wait.")
    elif model.utilization is not None:
        lines += wrap(
            f"{ENGINE_NAMES[model.engine]} takes {model.utilization:.0%} of the memory at its start and holds it; its "
            "KV cache has what weights and engine leave."
        )
    asked = model.sizing.kv.size(model.context_tokens, model.sequences)
    lines += wrap(
        f"KV cache: {model.kv_dtype}, {model.kv_bytes_per_token:,} bytes a token; asked for: {model.sequences} × "
        f"{model.context_tokens:,} tokens, {amount(asked)} GiB."
    )
    if model.max_context_tokens:
        at_once = "one request" if model.required_sequences == 1 else f"{model.required_sequences} requests at a time"
        lines += wrap(f"Largest context that fits: {model.max_context_tokens:,} tokens for {at_once}.")
        lines += wrap(f"Most requests of {model.context_tokens:,} tokens at a time: {model.max_sequences:,}.")
    else:
        lines.append("No context fits.")
    lines += wrap(ceiling_sentence(model)) if model.ceiling_tok_per_s else []
    lines += [line for anchor in model.anchors for line in wrap(f"Measured: {anchor_text(model, anchor)}.")]
    return lines + [line for remark in model.remarks for line in wrap(f"{remark}.")]


def ceiling_sentence(model: ModelPlan) -> str:
    """Return the decode ceiling as a sentence; the model must have one."""
    assert model.ceiling_tok_per_s is not None
    assert model.short_ceiling_tok_per_s is not None
    return (
        f"Decode ceiling of one request: {speed(model.short_ceiling_tok_per_s)} tok/s with a short context, "
        f"{speed(model.ceiling_tok_per_s)} at {model.context_tokens:,} tokens (bandwidth ÷ bytes read for each token)."
    )


def anchor_text(model: ModelPlan, anchor: Anchor) -> str:
    """Return a measured speed: how fast, where, and what else is to be known."""
    where = " ".join(filter(None, (anchor.machine, ENGINE_NAMES[anchor.engine], anchor.version)))
    decode = f"{anchor.decode_tok_per_s:g} tok/s decoding" if anchor.decode_tok_per_s else ""
    prefill = f"{anchor.prefill_tok_per_s:,g} tok/s reading the prompt" if anchor.prefill_tok_per_s else ""
    notes = "; ".join(filter(None, (anchor.note, above_ceiling(model, anchor))))
    return f"{' and '.join(filter(None, (decode, prefill)))} on {where}" + (f" ({notes})" if notes else "")


def above_ceiling(model: ModelPlan, anchor: Anchor) -> str:
    """Return how a speed can be above the ceiling of its machine; empty where it isn't."""
    ceiling = model.short_ceiling_tok_per_s
    if ceiling is None or anchor.machine != model.sizing.machine.name:
        return ""
    return "above the ceiling, so with speculation" if (anchor.decode_tok_per_s or 0.0) > ceiling else ""


def amount(size: int) -> str:
    """Return bytes in GiB, with one decimal, with two below 10 GiB."""
    value = size / GIB
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}"


def speed(tokens_per_s: float) -> str:
    """Return tokens a second with one decimal, with none from 100."""
    return f"{tokens_per_s:.1f}" if tokens_per_s < 100 else f"{tokens_per_s:,.0f}"


def wrap(sentence: str, width: int = WIDTH) -> list[str]:
    """Return a sentence in lines."""
    return textwrap.wrap(sentence, width, break_long_words=False, break_on_hyphens=False)
