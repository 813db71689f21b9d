import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import httpx
import pytest

from services.engines.files.packaged import locate
from services.engines.llamacpp import EngineError, LlamaCppOptions, check_port, parameters
from services.engines.recipes import find_recipe, load_recipes
from services.engines.tests.gguf_files import write
from services.engines.threads import Threads

CLI = [sys.executable, "-m", "services.cli.main", "engine", "llamacpp"]


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_a_sentence(port, taken):
    check_port(port)
    with pytest.raises(EngineError, match=f"port {taken} is taken"):
        check_port(taken)


def test_the_engine_listens_on_loopback_for_no_other_origin(tmp_path):
    params = SimpleNamespace(
        model=SimpleNamespace(), cpuparams=SimpleNamespace(), cpuparams_batch=SimpleNamespace(),
        sampling=SimpleNamespace(temp=None, top_p=None),
    )  # fmt: skip
    options = LlamaCppOptions(tmp_path / "m.gguf", "m", 8080, 4, 1000, Threads(1, 2), temperature=0.0)
    filled = parameters(options, params)
    assert filled.hostnames == ["127.0.0.1"]
    assert (filled.cors_origins, filled.cors_credentials, filled.ui) == ("", False, False)
    assert (filled.n_parallel, filled.n_ctx) == (4, 4000)
    assert filled.offline is True
    assert (filled.sampling.temp, filled.sampling.top_p) == (0.0, None)


@pytest.mark.parametrize("arguments", [["--model", "/nothing.gguf"], ["--model", __file__]])
def test_a_wrong_model_ends_with_a_sentence(arguments):
    done = subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert arguments[1] in done.stderr


@pytest.mark.slow
def test_a_file_that_llama_cpp_refuses_ends_with_a_sentence(tmp_path, port):
    path = write(tmp_path / "empty-weights.gguf")
    done = subprocess.run([*CLI, "--model", path, "--port", str(port)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"could not serve {path}" in done.stderr


@pytest.mark.slow
def test_the_engine_answers_hides_from_other_origins_and_ends_at_once(tmp_path, port):
    model = locate(find_recipe("smollm2", load_recipes()).source)
    arguments = ["--model", model, "--id", "tiny", "--port", str(port), "--slots", "2", "--context", "512"]
    with (tmp_path / "log").open("wb") as log:
        engine = subprocess.Popen([*CLI, *arguments], stdout=log, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            wait_until_healthy(client, engine, tmp_path / "log")
            assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["tiny"]
            assert len(client.get("/slots").json()) == 2
            assert client.get("/props").json()["default_generation_settings"]["n_ctx"] == 512
            assert "llamacpp:" in client.get("/metrics").text
            health = client.get("/health", headers={"origin": "http://elsewhere.example"})
            assert not health.headers.get("access-control-allow-origin")
            question = {"messages": [{"role": "user", "content": "Name the capital of France."}], "temperature": 0}
            answer = client.post("/v1/chat/completions", json=question).json()
            assert "Paris" in answer["choices"][0]["message"]["content"]
            assert answer["usage"]["completion_tokens"] > 0

        second = subprocess.run([*CLI, *arguments], capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert f"port {port} is taken" in second.stderr

        started = time.monotonic()
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(timeout=10) == 0
        assert time.monotonic() - started < 2
    finally:
        if engine.poll() is None:
            os.kill(engine.pid, signal.SIGKILL)
            engine.wait()


def wait_until_healthy(client, engine, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and engine.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail(f"the engine did not come up:\n{log.read_text()}")
