"""Run by the Python that has torch: makes tiny models, loads them by our backends, prints what it found as JSON."""

import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from services.embeddings.backends import BackendError
from services.embeddings.backends.cross_encoder import TorchCrossEncoder, open_cross_encoder
from services.embeddings.backends.torch import TorchEmbeddings
from services.embeddings.tests.tiny_models import WORDS, write_tokenizer

TEXTS = ["green tea", "black coffee long long long", "", "moon " * 100]


def main() -> None:
    """Do all in the folder of the first argument."""
    warnings.simplefilter("error")
    folder = Path(sys.argv[1])
    sys.stdout.write("FOUND" + json.dumps(_embeddings(folder) | _cross_encoders(folder) | _errors(folder)))


def _embeddings(folder: Path) -> dict[str, Any]:
    plain = TorchEmbeddings(str(_embedding_model(folder / "embeddings")), device="cpu", threads=1)
    half = TorchEmbeddings(str(folder / "embeddings"), device="cpu", precision="bfloat16", max_tokens=16)
    vectors, rounded = plain.embed(TEXTS), half.embed(TEXTS)
    found = {
        "shape": vectors.shape,
        "type": vectors.dtype.name,
        "norms": np.linalg.norm(vectors, axis=1).tolist(),
        "half": {
            "type": rounded.dtype.name,
            "norms": np.linalg.norm(rounded, axis=1).tolist(),
            "cosines": (vectors[:2] * rounded[:2]).sum(axis=1).tolist(),
        },
        "none": plain.embed([]).shape,
        "max_tokens": [plain.max_tokens, half.max_tokens],
        "alone": float(np.abs(plain.embed(TEXTS[:1]) - vectors[:1]).max()),
    }
    plain.close()
    half.close()
    return {"embeddings": found}


def _cross_encoders(folder: Path) -> dict[str, Any]:
    opened = open_cross_encoder(str(_classifier(folder / "reranker", labels=1)), device="cpu", max_tokens=16)
    documents = [text for text in TEXTS if text]
    scores = opened.score("green tea", documents)
    logits = _logits(folder / "reranker", "green tea", documents)
    found = {
        "kind": type(opened).__name__,
        "type": scores.dtype.name,
        "scores": scores.tolist(),
        "expected": [1 / (1 + math.exp(-logit)) for logit in logits],
        "none": opened.score("green tea", []).shape,
        "max_tokens": opened.max_tokens,
    }
    opened.close()
    return {"cross_encoder": found}


def _errors(folder: Path) -> dict[str, Any]:
    (folder / "empty").mkdir()
    _classifier(folder / "classifier", labels=3)
    tries: dict[str, Callable[[], object]] = {
        "no_folder": lambda: TorchEmbeddings("/nowhere/model"),
        "not_downloaded": lambda: TorchEmbeddings("BAAI/bge-large-en-v1.5"),
        "empty_folder": lambda: TorchCrossEncoder(str(folder / "empty")),
        "classifier": lambda: TorchCrossEncoder(str(folder / "classifier"), device="cpu"),
    }
    if not _cuda():
        tries["no_cuda"] = lambda: TorchEmbeddings(str(folder / "embeddings"), device="cuda")
    return {"errors": {name: _message(attempt) for name, attempt in tries.items()}}


def _message(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except BackendError as error:
        return str(error)
    return ""


def _cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _config(**more: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        **more,
    )


def _tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    folder.mkdir()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    made = PreTrainedTokenizerFast(tokenizer_file=str(write_tokenizer(folder)), model_max_length=64, **names)
    made.save_pretrained(folder)
    return made


def _embedding_model(folder: Path) -> Path:
    import torch
    from transformers import BertModel

    _tokenizer(folder)
    torch.manual_seed(7)
    BertModel(_config()).save_pretrained(folder)
    return folder


def _classifier(folder: Path, labels: int) -> Path:
    import torch
    from transformers import BertForSequenceClassification

    _tokenizer(folder)
    torch.manual_seed(7)
    # Larger weights than a fresh model has, so that its scores are not all one half.
    BertForSequenceClassification(_config(num_labels=labels, initializer_range=0.4)).save_pretrained(folder)
    return folder


def _logits(folder: Path, query: str, documents: list[str]) -> list[float]:
    """Return what transformers alone says of each pair, one at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return [
            float(model(**tokenizer(query, each, truncation=True, max_length=16, return_tensors="pt")).logits)
            for each in documents
        ]


if __name__ == "__main__":
    main()
