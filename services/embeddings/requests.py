"""What clients send, checked by type; and the texts of it, checked against the model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from services.embeddings.backends import Tokeniser
from services.embeddings.models import Model
from services.kit.errors import ContextLengthExceeded, InvalidRequest
from services.kit.openai import ModelName

T = TypeVar("T", bound=Struct)
_PATH = re.compile(r" - at `\$\.?([^`]*)`")
_MISSING = re.compile(r"required field `(\w+)`")


class EmbeddingsBody(Struct, kw_only=True):
    """`POST /v1/embeddings`: OpenAI's fields, and two of other servers' that cut long texts.

    `truncate: true` cuts at the model's limit; `truncate_prompt_tokens` at so many tokens, -1 being the limit.
    Source: https://platform.openai.com/docs/api-reference/embeddings
    """

    model: ModelName
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    truncate: bool | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None


class DocumentBody(Struct):
    """A document as an object; other fields are not looked at."""

    text: str


class RerankBody(Struct, kw_only=True):
    """`POST /v1/rerank`: the form of Cohere's and Jina's clients.

    Documents that are too long are cut, as those do; `truncate: false` refuses them instead.
    Source: https://docs.cohere.com/reference/rerank, https://jina.ai/reranker
    """

    model: ModelName
    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | DocumentBody], Meta(min_length=1)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Meta(ge=1)] | None = None
    truncate: bool | None = None


class TokenizeBody(Struct, kw_only=True):
    """`POST /tokenize`: llama.cpp's `content` or vLLM's `prompt`."""

    model: ModelName
    content: str | None = None
    prompt: str | None = None
    add_special_tokens: bool = True


class BodyReader(Generic[T]):
    """Reads the body of one endpoint."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, body: bytes) -> T:
        """Return the request.

        Raises:
            InvalidRequest: no JSON, a missing or a wrong field; `param` names it.
        """
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _wrong_field(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = str(error) if body.strip() else "it is empty"
            raise InvalidRequest(f"the request body is no JSON: {reason}") from None
        except RecursionError:
            raise InvalidRequest("the request body is nested too deeply; flatten it") from None


def _wrong_field(message: str) -> InvalidRequest:
    found = _PATH.search(message)
    text = _PATH.sub("", message)
    missing = _MISSING.search(text)
    path = found.group(1) if found else (missing.group(1) if missing else "")
    return InvalidRequest(f"{path}: {text}" if path else text, param=path or None)


def texts_of(given: str | list[str | int | list[int]], tokeniser: Tokeniser, most: int) -> list[str]:
    """Return the texts of `input`; token numbers are turned back into text.

    Raises:
        InvalidRequest: nothing, too many, a mixture, an empty text, or a number that is no token of this model.
    """
    if isinstance(given, str):
        return _not_empty([given])
    if not given:
        raise InvalidRequest("input is an empty list: send at least one text", param="input")
    if isinstance(given[0], int):
        return _not_empty([_decoded(given, 0, tokeniser)])
    if len(given) > most:
        raise InvalidRequest(
            f"input has {len(given):,} texts, the limit is {most:,}: send them in several requests, or raise "
            "EMBEDDINGS_MAX_TEXTS",
            param="input",
        )
    if isinstance(given[0], str):
        if not all(isinstance(each, str) for each in given):
            raise _mixed()
        return _not_empty([str(each) for each in given])
    return _not_empty([_decoded(each, index, tokeniser) for index, each in enumerate(given)])


def _decoded(given: Any, index: int, tokeniser: Tokeniser) -> str:
    if not isinstance(given, list) or not all(isinstance(each, int) for each in given):
        raise _mixed()
    try:
        return tokeniser.decode(given)
    except ValueError as error:
        raise InvalidRequest(
            f"input[{index}]: {error}. Were the numbers made with another model's tokenizer? Send texts instead "
            "(LangChain: check_embedding_ctx_length=False)",
            param="input",
        ) from None


def _mixed() -> InvalidRequest:
    return InvalidRequest("input mixes texts, numbers and lists; send a text, texts, or lists of tokens", param="input")


def _not_empty(texts: list[str]) -> list[str]:
    for index, text in enumerate(texts):
        if not text:
            raise InvalidRequest(f"input[{index}] is an empty text; leave it out", param="input")
    return texts


@dataclass(slots=True)
class Fitting:
    """Texts that the model can read whole.

    Args:
        lengths: tokens of each, special tokens included.
        cut: indexes of those that lost their end.
    """

    texts: list[str]
    lengths: list[int]
    cut: list[int]


async def fit(model: Model, texts: list[str], limit: int, field: str, *, cut: bool) -> Fitting:
    """Return the texts with their lengths, those above the limit cut where that is allowed.

    Raises:
        ContextLengthExceeded: it is not allowed; the message names the text, its tokens and the limit.
        RateLimited: the model has taken on all that it may.
    """
    lengths = await model.count(texts)
    if max(lengths) <= limit:
        return Fitting(texts, lengths, [])
    long = [index for index, length in enumerate(lengths) if length > limit]
    if not cut:
        index = long[0]
        more = f" (and {len(long) - 1} more)" if len(long) > 1 else ""
        raise ContextLengthExceeded(
            f"{field}[{index}] has {lengths[index]:,} tokens{more}; {model.card.id} reads {limit:,}: shorten it, or "
            "send `truncate: true` to have its end left out",
            param=field,
        )
    tokeniser = await model.tokeniser()
    shorter = await model.apart(lambda: [tokeniser.cut(texts[index], limit) for index in long])
    texts, lengths = list(texts), list(lengths)
    counted = await model.count(shorter)
    for index, text, length in zip(long, shorter, counted, strict=True):
        texts[index], lengths[index] = text, length
    return Fitting(texts, lengths, long)


def dimensions_of(model: Model, wanted: int | None) -> int:
    """Return the dimensions of the answer's vectors.

    Raises:
        InvalidRequest: the model can't make vectors of that length.
    """
    card = model.card
    if wanted is None or wanted == card.dimensions:
        return card.dimensions
    if not card.shortest_dimensions:
        raise InvalidRequest(
            f"dimensions is {wanted}; vectors of {card.id} have {card.dimensions}, and it was not trained to be cut: "
            "leave the field out",
            param="dimensions",
        )
    if not card.shortest_dimensions <= wanted <= card.dimensions:
        raise InvalidRequest(
            f"dimensions is {wanted}; {card.id} has {card.shortest_dimensions} to {card.dimensions}", param="dimensions"
        )
    return wanted


def document_texts(documents: Sequence[str | DocumentBody], most: int) -> list[str]:
    """Return the documents' texts.

    Raises:
        InvalidRequest: there are too many, or one is empty; the message has its index.
    """
    if len(documents) > most:
        raise InvalidRequest(
            f"there are {len(documents):,} documents, the limit is {most:,}: rerank the best of them alone, or raise "
            "EMBEDDINGS_MAX_DOCUMENTS",
            param="documents",
        )
    texts = [each if isinstance(each, str) else each.text for each in documents]
    for index, text in enumerate(texts):
        if not text.strip():
            raise InvalidRequest(f"documents[{index}] is an empty text; leave it out", param="documents")
    return texts
