"""Cross-encoders: a network reads query and document as one text and says how well the one answers the other.

By ONNX Runtime where the model's folder has an ONNX file, which needs no torch; else by sentence-transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.embeddings.backends import BackendError, Vectors
from services.embeddings.backends.network import OnnxNetwork, batches
from services.embeddings.backends.torch import (
    Device,
    Precision,
    choose_device,
    choose_dtype,
    computing,
    free,
    import_torch,
    load,
    set_threads,
)

ONNX_NAMES = ("model.onnx", "onnx/model.onnx", "onnx/model_quantized.onnx", "model_quantized.onnx")
"""Where exports put the network, in the order in which they are looked for."""


class OnnxCrossEncoder:
    """A cross-encoder of one label, by ONNX Runtime on the CPU.

    What does not fit is cut off at the document's end; a query may take at most half of `max_tokens`.

    Args:
        network: whose output is `(batch, 1)` or `(batch,)`: the label's logit.
        max_tokens: of query and document together, special tokens included.
        batch_tokens: that are computed at once, padding included.
    """

    def __init__(self, network: OnnxNetwork, *, max_tokens: int = 512, batch_tokens: int = 4096) -> None:
        self.max_tokens = max_tokens
        self._network = network
        self._batch_tokens = batch_tokens
        # The query is measured by one tokenizer that cuts nothing, the pairs are cut by another.
        self._cutting = type(network.tokenizer).from_str(network.tokenizer.to_str())
        self._cutting.enable_truncation(max_tokens, strategy="only_second")

    def score(self, query: str, documents: Sequence[str]) -> Vectors:
        """Return `(n_documents,)` float32 in 0…1: the sigmoid of the network's logit.

        Raises:
            BackendError: the network has more than one label.
        """
        pairs = self._pairs(query, documents)
        logits = np.zeros(len(pairs), dtype=np.float32)
        for chosen in batches([len(pair.ids) for pair in pairs], self._batch_tokens):
            found = self._network.run([pairs[index] for index in chosen])
            logits[chosen] = _one_label(found, len(chosen))
        return sigmoid(logits)

    def close(self) -> None:
        """Give its memory back."""
        self._network.close()

    def _pairs(self, query: str, documents: Sequence[str]) -> list["_Pair"]:
        own = self._network.tokenizer.encode(query, add_special_tokens=False)
        longest = self.max_tokens // 2
        if len(own.ids) > longest:
            query = query[: own.offsets[longest - 1][1]]
        encoded = self._cutting.encode_batch_fast([(query, document) for document in documents])
        return [_Pair(each.ids, each.type_ids) for each in encoded]


@dataclass(frozen=True)
class _Pair:
    """Query and document as one text, cut to the model's length."""

    ids: list[int]
    type_ids: list[int]


def _one_label(found: npt.NDArray[np.float32], rows: int) -> npt.NDArray[np.float32]:
    if found.size != rows:
        raise BackendError(several_labels("the network", found.size // rows))
    return found.reshape(rows)


def several_labels(model: str, labels: int) -> str:
    """Return what is wrong with a model that is no reranker."""
    return (
        f"{model} answers with {labels} labels a pair: a reranker has one; this is a classifier, choose another model"
    )


def sigmoid(logits: npt.NDArray[np.float32]) -> Vectors:
    """Return 1/(1+e^-x) without overflow, in float32; computed in float64, so that close logits stay apart."""
    wide = logits.astype(np.float64)
    return np.asarray(np.exp(-np.logaddexp(0.0, -wide)), dtype=np.float32)


class TorchCrossEncoder:
    """A cross-encoder of one label that sentence-transformers loads, on the CPU or a CUDA device.

    Args:
        source: a folder, or the id of a repository of the Hugging Face hub that has been downloaded.
        revision: of that repository.
        device: auto takes CUDA where it is.
        precision: of the weights and the computation; auto is float32 on the CPU and float16 on CUDA.
        max_tokens: of query and document together; the model's own limit where it is lower.
        batch_texts: pairs that are computed at once.
        threads: that compute one batch on the CPU (0: all cores). It holds for all models of the process.

    Raises:
        BackendError: the packages, the model or the device are not here, or the model has several labels.
    """

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        max_tokens: int | None = None,
        batch_texts: int = 32,
        threads: int = 0,
    ) -> None:
        torch, library = import_torch()
        self.device = choose_device(torch, device)
        set_threads(torch, threads)
        self._model = load(
            source,
            lambda: library.CrossEncoder(
                source,
                revision=revision,
                device=self.device,
                local_files_only=True,
                # The sigmoid is taken in float64 afterwards: in half precision all that is above 0.9995 is one.
                activation_fn=torch.nn.Identity(),
                model_kwargs={"dtype": choose_dtype(torch, self.device, precision)},
            ),
        )
        if self._model.num_labels != 1:
            raise BackendError(several_labels(source, self._model.num_labels))
        own = int(self._model.max_seq_length or 512)
        self.max_tokens = min(own, max_tokens or own)
        self._model.max_seq_length = self.max_tokens
        self._batch_texts = batch_texts

    def score(self, query: str, documents: Sequence[str]) -> Vectors:
        """Return `(n_documents,)` float32 in 0…1: the sigmoid of the network's logit."""
        if not documents:
            return np.zeros(0, dtype=np.float32)
        pairs = [(query, document) for document in documents]
        with computing(self.device):
            logits = self._model.predict(pairs, batch_size=self._batch_texts, show_progress_bar=False)
        return sigmoid(np.asarray(logits))

    def close(self) -> None:
        """Give its memory back, the device's too."""
        del self._model
        free(self.device)


def find_onnx(folder: Path) -> Path | None:
    """Return the folder's ONNX file; None where it has only torch's weights."""
    return next((folder / name for name in ONNX_NAMES if (folder / name).is_file()), None)


def open_cross_encoder(
    source: str,
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    max_tokens: int | None = None,
    batch_tokens: int = 4096,
    threads: int = 0,
) -> OnnxCrossEncoder | TorchCrossEncoder:
    """Return the cross-encoder of a folder or a downloaded repository: by ONNX Runtime where it can be, else by torch.

    Raises:
        BackendError: it is not here, or can't be loaded.
    """
    folder = Path(source).expanduser()
    network = find_onnx(folder) if device != "cuda" else None
    if network is not None:
        loaded = OnnxNetwork(network, folder / "tokenizer.json", threads)
        return OnnxCrossEncoder(loaded, max_tokens=max_tokens or 512, batch_tokens=batch_tokens)
    most = max_tokens or 512
    return TorchCrossEncoder(
        source,
        device=device,
        precision=precision,
        max_tokens=max_tokens,
        batch_texts=max(1, batch_tokens // most),
        threads=threads,
    )
