"""What the tests of pulls share: a recipe, a store in a folder of the test, and a pull against the fake hub."""

import contextlib
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.engines.files.download_plan import DownloadPlan, Progress, PullOptions
from services.engines.files.getting import Getting
from services.engines.files.removal import Remover
from services.engines.files.store import ModelStore
from services.engines.files.transfer import Patience
from services.engines.recipes import Recipe
from tests.testkit.fake_hub import FakeHub

QUICK = Patience(total_s=5.0, read_s=5.0, first_wait_s=0.01)
REPOSITORY = "acme/tiny"
WEIGHTS = random.Random(7).randbytes(600_000)
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "README.md": b"# tiny"}


def recipe(recipe_id: str = "tiny", **source: Any) -> Recipe:
    """Return the recipe of a model on the fake hub."""
    return Recipe.model_validate(recipe_document(recipe_id, **source))


def recipe_document(recipe_id: str = "tiny", **source: Any) -> dict[str, Any]:
    """Return a recipe as it stands in a file."""
    form = "gguf" if any(str(each).endswith(".gguf") for each in source.get("files", ())) else "safetensors"
    return {
        "id": recipe_id,
        "name": "Tiny",
        "source": {"kind": "hub", "repository": REPOSITORY, **source},
        "licence": "Apache-2.0",
        "family": "llama",
        "format": form,
        "parameters": 1000,
        "quantization": "BF16",
        "capabilities": ["chat"],
        "context_tokens": 2048,
        "memory": {
            "weight_bytes": len(WEIGHTS),
            "layers": 1,
            "attention_layers": 1,
            "kv_heads": 1,
            "head_dim": 8,
            "source": "made for the test",
        },
        "engines": {"llamacpp": {"context_tokens": 512}},
    }


@dataclass
class Place:
    """A machine: its state, its cache, its environment."""

    hub: FakeHub
    folder: Path
    more: dict[str, str] = field(default_factory=dict)
    progress: list[Progress] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment."""
        return {**self.hub.variables(self.folder / "hf"), **self.more}

    @property
    def store(self) -> ModelStore:
        """Return the store, made anew as in a new process."""
        return ModelStore(self.folder / "state", variables=self.variables)

    def pull(
        self,
        wanted: Recipe,
        *,
        confirm: Callable[[DownloadPlan], bool] | None = None,
        patience: Patience = QUICK,
        **options: Any,
    ) -> bool:
        """Pull a model as the command does."""
        getting = Getting(
            self.store,
            [wanted],
            PullOptions(patience=patience, **options),
            on_progress=self.progress.append,
            stop=self.stop,
            confirm=confirm,
            variables=self.variables,
        )
        return getting.run(wanted)

    def remove(self, wanted: Recipe, *others: Recipe, former_only: bool = False) -> int:
        """Delete a model as the command does, and return what that freed."""
        remover = Remover(self.store, [wanted, *others])
        removal = remover.plan(wanted, former_only=former_only)
        remover.execute(wanted, removal, former_only=former_only)
        return removal.freed_bytes

    def files(self, wanted: Recipe) -> dict[str, bytes]:
        """Return what an engine would find."""
        folder = self.store.path_of(wanted)
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def partials(self) -> list[Path]:
        """Return the unfinished files."""
        return list((self.folder / "hf").rglob("*.incomplete"))

    def partial_bytes(self) -> int:
        """Return the size of all unfinished files; one may get its name in this moment."""
        total = 0
        for path in self.partials():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def said(self) -> str:
        """Return all that was said on the way."""
        return "\n".join(each.status for each in self.progress)


def child_variables(place: Place) -> dict[str, str]:
    """Return the whole environment of a child process on that machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "SPARKSTACK_"))}
    return {**kept, **place.variables, "SPARKSTACK_STATE": str(place.folder / "state")}
