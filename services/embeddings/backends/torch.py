"""Embedding models by sentence-transformers and torch, on the CPU or a CUDA device.

For the environment `.venvs/embeddings-torch`; nothing else imports this module, so that the default installation has
no torch. Models are read from this machine alone: what is not here is not downloaded behind anybody's back.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from services.embeddings.backends import BackendError, Vectors
from services.embeddings.backends.network import normalised

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]

T = TypeVar("T")


class TorchEmbeddings:
    """An embedding model that sentence-transformers loads: its own pooling, its own tokenizer.

    Args:
        source: a folder, or the id of a repository of the Hugging Face hub that has been downloaded.
        revision: of that repository.
        device: auto takes CUDA where it is.
        precision: of the weights and the computation; auto is float32 on the CPU and float16 on CUDA. Vectors are
            normalised in float32 whatever it is.
        max_tokens: of a text; the model's own limit where it is lower.
        threads: that compute one batch on the CPU (0: all cores). It holds for all models of the process.

    Raises:
        BackendError: the packages or the model are not here, or the device isn't.
    """

    def __init__(
        self,
        source: str,
        *,
        revision: str | None = None,
        device: Device = "auto",
        precision: Precision = "auto",
        max_tokens: int | None = None,
        threads: int = 0,
    ) -> None:
        torch, library = import_torch()
        self.device = choose_device(torch, device)
        set_threads(torch, threads)
        self._model = load(
            source,
            lambda: library.SentenceTransformer(
                source,
                revision=revision,
                device=self.device,
                local_files_only=True,
                model_kwargs={"dtype": choose_dtype(torch, self.device, precision)},
            ),
        )
        own = int(self._model.max_seq_length or 512)
        self.max_tokens = min(own, max_tokens or own)
        self._model.max_seq_length = self.max_tokens
        self.dimensions = int(self._model.get_embedding_dimension())

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return `(n_texts, dimensions)` float32, L2-normalised rows, computed as one batch."""
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        with computing(self.device):
            found = self._model.encode(list(texts), batch_size=len(texts), show_progress_bar=False)
        return normalised(found)

    def close(self) -> None:
        """Give its memory back, the device's too."""
        del self._model
        free(self.device)


def import_torch() -> tuple[Any, Any]:
    """Return the modules torch and sentence_transformers.

    Raises:
        BackendError: they are not in this environment.
    """
    # Which thread of which fork a tokenizer may use is no question here; without this it prints a warning about it.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        import sentence_transformers
        import torch
        from transformers.utils import logging
    except ImportError as error:
        raise BackendError(
            f"this Python can't import {error.name or error}: models by torch run in an environment of their own. "
            "Make it with `make embeddings-torch` and start the service with its Python"
        ) from None
    logging.disable_progress_bar()  # it would draw "Loading weights" into the log
    return torch, sentence_transformers


def choose_device(torch: Any, wanted: Device) -> str:
    """Return `cuda` or `cpu`.

    Raises:
        BackendError: CUDA is asked for by name, and torch sees none.
    """
    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        why = "was built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
        raise BackendError(
            f"EMBEDDINGS_DEVICE=cuda, but torch {torch.__version__} {why}: install the build for CUDA into the "
            "service's environment, or set EMBEDDINGS_DEVICE=cpu"
        )
    return "cpu"


def choose_dtype(torch: Any, device: str, wanted: Precision) -> Any:
    """Return torch's type of the weights; half precision only pays where the device computes in it."""
    if wanted == "auto":
        return torch.float16 if device == "cuda" else torch.float32
    return getattr(torch, wanted)


def load(source: str, build: Callable[[], T]) -> T:
    """Return the model that `build` loads from this machine.

    Raises:
        BackendError: it is not here, or can't be read.
    """
    folder = Path(source).expanduser()
    looks_like_folder = source.startswith(("/", "~", ".")) or source.count("/") != 1
    if looks_like_folder and not folder.is_dir():
        raise BackendError(f"the model's folder {source} does not exist: put the model there, or correct the path")
    try:
        return build()
    except Exception as error:
        raise BackendError(_why_not(source, folder, error)) from error


def _why_not(source: str, folder: Path, error: Exception) -> str:
    if _out_of_memory(error):
        return f"{source} does not fit into the device's free memory ({_first_line(error)}); unload another model"
    if folder.is_dir():
        return f"{source} can't be loaded ({type(error).__name__}: {_first_line(error)}): get its files again"
    if isinstance(error, OSError):
        return (
            f"{source} has not been downloaded to this machine: `hf download {source}` in the service's environment "
            "gets it; HF_HOME says where models are kept"
        )
    return f"{source} can't be loaded: {type(error).__name__}: {_first_line(error)}"


@contextlib.contextmanager
def computing(device: str) -> Iterator[None]:
    """Turn a device that runs out of memory into an error that says what to do.

    Raises:
        BackendError: the batch did not fit.
    """
    try:
        yield
    except Exception as error:
        if not _out_of_memory(error):
            raise
        free(device)
        raise BackendError(
            f"the {device} device ran out of memory in a batch ({_first_line(error)}): lower EMBEDDINGS_BATCH_TOKENS, "
            "or unload another model"
        ) from None


def free(device: str) -> None:
    """Hand the memory that torch keeps for later back to the device."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()


def set_threads(torch: Any, threads: int) -> None:
    """Bound the threads that compute on the CPU; 0 leaves torch's own choice, all cores."""
    if threads:
        torch.set_num_threads(threads)


def _out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
