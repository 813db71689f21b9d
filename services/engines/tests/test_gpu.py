"""Really on the GPU? The outputs of nvidia-smi follow its documentation and reports from Sparks; none was recorded."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from services.engines.watching.gpu import GpuFacts, check_gpu, decode_speed, judge, list_devices, read_log, run_command
from services.engines.watching.health import EngineTarget

LISTING = "GPU 0: NVIDIA GB10 (UUID: GPU-5e0f2c1a-0000-0000-0000-000000000000)\n"
# One line of each is what `nvidia-smi` and the engines' source say that they write.
LLAMACPP_GPU = (
    "load_tensors: offloaded 37/37 layers to GPU\nload_tensors:        CUDA0 model buffer size = 11574.16 MiB"
)
LLAMACPP_CPU = "load_tensors: offloaded 0/29 layers to GPU\nload_tensors:   CPU_Mapped model buffer size =   934.69 MiB"
VLLM_CPU = "INFO 11-21 13:36:39 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: device_config=cpu, x"
SGLANG_CPU = "server_args=ServerArgs(model_path='m', device='cpu', tp_size=1)"


def target(engine="vllm"):
    return EngineTarget("m", engine, "http://engine.invalid", "", "m")


def machine(listing=LISTING, apps="", devices=None):
    """Return a `run` for a machine whose nvidia-smi says so; None for one without it."""

    async def run(command):
        if command[0] != "nvidia-smi":
            return devices
        return listing if command[1] == "-L" else apps if listing is not None else None

    return run


async def check(run, tmp_path, *, engine="vllm", log="", answer=None, **more):
    def handler(_request):
        return httpx.Response(404) if answer is None else httpx.Response(200, json=answer)

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        return await check_gpu(client, target(engine), ("chat",), (os.getpid(),), log, run=run, dev=tmp_path, **more)


async def test_a_machine_without_a_gpu_says_cpu(tmp_path):
    verdict = await check(machine(listing=None), tmp_path, log=LLAMACPP_GPU)
    assert (verdict.says, verdict.on_gpu) == ("cpu", False)
    assert "no GPU" in verdict.evidence[0]


async def test_a_driver_that_lists_no_gpu_says_cpu(tmp_path):
    assert (await check(machine(listing="No devices were found\n"), tmp_path)).says == "cpu"


async def test_this_machine_is_told_as_it_is():
    devices = await list_devices()
    listing = await run_command(("nvidia-smi", "-L"))
    assert (devices != ()) == ("GPU 0" in (listing or "") or Path("/dev/nvidia0").exists() or sys.platform == "darwin")


async def test_a_process_that_the_driver_lists_is_on_the_gpu_whatever_its_memory_column_says(tmp_path):
    for apps in (f"{os.getpid()}\n", f"1\n{os.getpid()}, [N/A]\n", f"{os.getpid()}, [Not Supported]\n"):
        verdict = await check(machine(apps=apps), tmp_path)
        assert (verdict.says, verdict.on_gpu) == ("gpu", True)
        assert "driver lists" in verdict.evidence[0]


async def test_a_worker_that_the_driver_lists_counts_for_its_server(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        try:
            assert (await check(machine(apps=f"{worker.pid}\n"), tmp_path)).says == "gpu"
        finally:
            worker.kill()


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (LLAMACPP_GPU, "gpu"),
        (LLAMACPP_CPU, "cpu"),
        (VLLM_CPU, "cpu"),
        (VLLM_CPU.replace("=cpu", "=cuda"), "gpu"),
        (SGLANG_CPU, "cpu"),
        (SGLANG_CPU.replace("'cpu'", "'cuda'"), "gpu"),
        ("warning: no usable GPU found, --gpu-layers option will be ignored", "cpu"),
    ],
)
async def test_the_engines_own_log_tells(log, says, tmp_path):
    verdict = await check(machine(apps="No running processes found\n"), tmp_path, log=f"before\n{log}\nafter")
    assert verdict.says == says
    assert verdict.evidence[0].startswith("the engine says so")


@pytest.mark.parametrize("log", ["", "listening on http://127.0.0.1:8080", "offloading 36 repeating layers to GPU"])
async def test_a_log_that_says_nothing_is_unknown(log, tmp_path):
    assert read_log(log) is None
    verdict = await check(machine(apps=""), tmp_path, log=log)
    assert (verdict.says, verdict.on_gpu) == ("unknown", None)
    assert any("GB10" in each for each in verdict.evidence)


async def test_a_gpu_that_only_dev_shows_is_a_gpu(tmp_path):
    (tmp_path / "nvidia0").touch()
    verdict = await check(machine(listing=None), tmp_path)
    assert verdict.says == "unknown"


@pytest.mark.parametrize(("vram", "says"), [(0, "cpu"), (60, "gpu")])
async def test_ollama_says_where_its_model_is(vram, says, tmp_path):
    answer = {"models": [{"name": "other", "size": 1, "size_vram": 1}, {"name": "m", "size": 60, "size_vram": vram}]}
    assert (await check(machine(), tmp_path, engine="ollama", answer=answer)).says == says


async def test_ollama_that_has_it_not_loaded_or_talks_nonsense_is_unknown(tmp_path):
    for answer in (None, [], {"models": None}, {"models": []}, {"models": [{"name": "m"}]}):
        assert (await check(machine(), tmp_path, engine="ollama", answer=answer)).says == "unknown"


def test_a_speed_far_under_the_ceiling_is_a_hint_of_a_cpu():
    verdict = judge(GpuFacts(("NVIDIA GB10",), listed=False, tok_per_s=4.0, ceiling_tok_per_s=60.0))
    assert verdict.says == "cpu"
    assert any("7% of the 60.0" in each for each in verdict.evidence)


def test_a_fair_speed_proves_nothing_since_a_cpu_of_the_same_memory_could_reach_it():
    assert judge(GpuFacts(("NVIDIA GB10",), tok_per_s=38.0, ceiling_tok_per_s=60.0)).says == "unknown"


def test_proof_outweighs_speed():
    slow = {"tok_per_s": 1.0, "ceiling_tok_per_s": 60.0}
    assert judge(GpuFacts(("GB10",), listed=True, **slow)).says == "gpu"
    assert judge(GpuFacts(("GB10",), own_word=("gpu", "CUDA0 model buffer size"), **slow)).says == "gpu"


async def test_speed_is_what_further_tokens_take():
    async def handler(request):
        tokens = 1 if b'"max_tokens":1,' in request.content else 25
        await asyncio.sleep(0.05 + 0.005 * (tokens - 1))
        choice = {"message": {}, "finish_reason": "length"}
        return httpx.Response(200, json={"choices": [choice], "usage": {"completion_tokens": tokens}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        speed = await decode_speed(client, target(), ("chat",))
    assert 20 < speed < 300  # 24 tokens in 0.12 s, on a machine that may be busy


@pytest.mark.parametrize("tokens", [1, 3])
async def test_an_answer_that_ends_at_once_tells_no_speed(tokens):
    choice = {"message": {}, "finish_reason": "stop"}
    answer = httpx.Response(200, json={"choices": [choice], "usage": {"completion_tokens": tokens}})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: answer)) as client:
        assert await decode_speed(client, target(), ("chat",)) is None


async def test_commands_that_are_missing_or_fail_say_nothing():
    assert await run_command(("/nonexistent/nvidia-smi", "-L")) is None
    assert await run_command((sys.executable, "-c", "raise SystemExit(9)")) is None
    assert await run_command((sys.executable, "-c", "print('GPU 0')")) == "GPU 0\n"
