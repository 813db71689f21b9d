"""Bytes to text: by byte order mark, as UTF-8, else by what charset-normalizer makes of a sample."""

import codecs
import logging

from charset_normalizer import from_bytes

from services.rag.loading.limits import LoadError, too_many_characters
from services.rag.loading.source import Source

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    # UTF-32's little-endian mark begins with UTF-16's.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE_BYTES = 64_000
_SHARE_OF_NULS = 0.3
_GOOD_PER_BAD = 4


def decode(source: Source, *, markup: bool = False) -> tuple[str, str]:
    """Return the file's text and the encoding that it was read by.

    Args:
        markup: the file says more than its text; else all of it is text, and too much is refused here.

    Raises:
        LoadError: `unsupported`, where it is text in no encoding; `too_large`.
    """
    text, encoding = _decoded(source)
    if not markup and len(text) > source.limits.max_characters:
        raise too_many_characters(source.name, len(text), source.limits)
    return text, encoding


def _decoded(source: Source) -> tuple[str, str]:
    data = source.data
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace"), encoding
    try:
        # A UTF-16 text of ASCII letters is valid UTF-8 too, with a NUL after each letter.
        if wide := wide_encoding(data[:_SAMPLE_BYTES]):
            return data.decode(wide, "replace"), wide
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return _guess(source)


def wide_encoding(sample: bytes) -> str | None:
    """Return UTF-16 with its byte order where a sample without a mark looks like it: every second byte is NUL."""
    half = max(1, len(sample) // 2)
    even, odd = sample[::2].count(0) / half, sample[1::2].count(0) / half
    if odd > _SHARE_OF_NULS and even < odd / 10:
        return "utf-16-le"
    if even > _SHARE_OF_NULS and odd < even / 10:
        return "utf-16-be"
    return None


def _guess(source: Source) -> tuple[str, str]:
    text = source.data.decode("utf-8", "replace")
    bad = text.count("\N{REPLACEMENT CHARACTER}")
    good = sum(not each.isascii() for each in text[: 1 << 20]) - bad
    if good > bad * _GOOD_PER_BAD:
        # UTF-8 with a few broken bytes; another encoding would spoil all of its letters.
        return text, "utf-8"
    logging.getLogger("charset_normalizer").setLevel(logging.ERROR)
    best = from_bytes(_around_first_letters(source.data)).best()
    if best is None:
        raise LoadError(
            "unsupported",
            f"{source.name!r} is text in no encoding that could be recognised; save it as UTF-8 and try again",
        )
    return source.data.decode(best.encoding, "replace"), best.encoding


def _around_first_letters(data: bytes) -> bytes:
    """Return a sample that has the first bytes beyond ASCII in it: the rest tells no encoding from another."""
    first = next((at for at in range(0, len(data), 4096) if not data[at : at + 4096].isascii()), 0)
    begin = max(0, first - 4096)
    return data[begin : begin + _SAMPLE_BYTES]
