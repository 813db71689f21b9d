"""From a card of the catalogue to a loaded model. Heavy packages are imported here, when they are needed."""

from services.embeddings.backends import Backend, BackendError, Tokeniser
from services.embeddings.catalogue import Card, Files, check_digests
from services.embeddings.settings import EmbeddingsSettings


def open_tokeniser(card: Card, files: Files) -> Tokeniser:
    """Return a model's tokenizer.

    Raises:
        BackendError: its file is missing or broken.
    """
    if card.backend == "dummy":
        from services.embeddings.backends.dummy import DummyTokeniser

        return DummyTokeniser()
    from services.embeddings.tokenising import FileTokeniser

    return FileTokeniser(files.tokenizer)


def open_backend(card: Card, files: Files, settings: EmbeddingsSettings) -> Backend:
    """Load a model; it takes milliseconds to minutes.

    Raises:
        BackendError: a file is not the one that the catalogue names, or the model can't be loaded.
    """
    check_digests(card, files)
    backend = _OPENERS[card.backend](card, files, settings)
    found = getattr(backend, "dimensions", card.dimensions)
    if found != card.dimensions:
        backend.close()
        raise BackendError(f"{card.id} makes vectors of {found} dimensions, its entry says {card.dimensions}")
    return backend


def budget_tokens(card: Card, settings: EmbeddingsSettings) -> int:
    """Return the tokens of one batch: as many as are quick and allowed, and at least one text."""
    return max(card.context_tokens, min(settings.batch_tokens, card.batch_tokens or settings.batch_tokens))


def _open_onnx(card: Card, files: Files, settings: EmbeddingsSettings) -> Backend:
    from services.embeddings.backends.network import OnnxNetwork
    from services.embeddings.backends.onnx import OnnxEmbeddings

    return OnnxEmbeddings(
        OnnxNetwork(files.named["model"], files.tokenizer, settings.threads),
        dimensions=card.dimensions,
        max_tokens=card.context_tokens,
        batch_tokens=budget_tokens(card, settings),
    )


def _open_maxsim(card: Card, files: Files, settings: EmbeddingsSettings) -> Backend:
    from services.embeddings.backends.maxsim import MaxSim
    from services.embeddings.backends.network import OnnxNetwork

    return MaxSim(
        OnnxNetwork(files.named["model"], files.tokenizer, settings.threads),
        max_tokens=card.context_tokens,
        batch_tokens=budget_tokens(card, settings),
        cache_bytes=settings.rerank_cache_mb * 1_000_000,
    )


def _open_torch(card: Card, files: Files, settings: EmbeddingsSettings) -> Backend:
    from services.embeddings.backends.torch import TorchEmbeddings

    return TorchEmbeddings(
        str(files.folder),
        device=settings.device,
        precision=settings.precision,
        max_tokens=card.context_tokens,
        threads=settings.threads,
    )


def _open_cross_encoder(card: Card, files: Files, settings: EmbeddingsSettings) -> Backend:
    from services.embeddings.backends.cross_encoder import open_cross_encoder

    return open_cross_encoder(
        str(files.folder),
        device=settings.device,
        precision=settings.precision,
        max_tokens=card.context_tokens,
        batch_tokens=budget_tokens(card, settings),
        threads=settings.threads,
    )


def _open_dummy(card: Card, _files: Files, _settings: EmbeddingsSettings) -> Backend:
    from services.embeddings.backends.dummy import DummyBackend

    return DummyBackend(dimensions=card.dimensions, max_tokens=card.context_tokens)


_OPENERS = {
    "onnx": _open_onnx,
    "maxsim": _open_maxsim,
    "torch": _open_torch,
    "cross_encoder": _open_cross_encoder,
    "dummy": _open_dummy,
}
