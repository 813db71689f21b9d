"""Tokens of texts, by the model's own `tokenizer.json`."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from services.embeddings.backends import BackendError

_READ_WHOLE_CHARACTERS = 200_000
"""Of longer texts the beginning says enough: no model reads more, and 30 MB take 24 s and gigabytes to be counted."""
_CHARACTERS_PER_TOKEN = 100
"""More than any ordinary text has."""


class FileTokeniser:
    """A tokenizer that nobody else has: it neither cuts nor pads, so that several threads may ask it.

    Raises:
        BackendError: the file is missing or can't be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._own = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exceptions
            raise BackendError(f"{path} can't be read as a tokenizer ({error}): get the model's files again") from None
        self._own.no_truncation()
        self._own.no_padding()
        self._vocabulary = self._own.get_vocab_size(with_added_tokens=True)
        self._around = len(self._own.encode("").ids)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return each text's tokens, special tokens included; above 200,000 characters an estimate."""
        heads = [text[:_READ_WHOLE_CHARACTERS] for text in texts]
        counts = [len(each.ids) for each in self._own.encode_batch_fast(heads)]
        return [
            count * len(text) // len(head) if len(text) > len(head) else count
            for count, text, head in zip(counts, texts, heads, strict=True)
        ]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return a text's token numbers."""
        return list(self._own.encode(text, add_special_tokens=special).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token numbers, special tokens left out.

        Raises:
            ValueError: a number is not in the vocabulary.
        """
        for token in tokens:
            if not 0 <= token < self._vocabulary:
                raise ValueError(f"token {token} is not in this model's vocabulary of {self._vocabulary:,}")
        return str(self._own.decode(list(tokens), skip_special_tokens=True))

    def cut(self, text: str, most_tokens: int) -> str:
        """Return the beginning of a text that has at most `most_tokens`, special tokens included."""
        head = text[: most_tokens * _CHARACTERS_PER_TOKEN]
        if len(head) < len(text) and len(self._own.encode(head).ids) > most_tokens:
            text = head
        while True:
            encoding = self._own.encode(text, add_special_tokens=False)
            over = len(encoding.ids) + self._around - most_tokens
            if over <= 0:
                return text
            keep = len(encoding.ids) - over
            # Cut inside a word, its beginning may have other tokens, even more: then once again.
            end = encoding.offsets[keep - 1][1] if keep > 0 else 0
            text = text[: end if end < len(text) else len(text) - 1]
