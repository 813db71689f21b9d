"""Rerank requests and answers, in the one form that Cohere's and Jina's clients both write and read. Pure.

Source: https://docs.cohere.com/reference/rerank and https://api.jina.ai/redoc, as their clients use them.
"""

import math
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from services.kit.errors import Internal, InvalidRequest


class TextDocument(Struct):
    """A document as an object; fields beside its text are not read."""

    text: str


class RerankRequest(Struct, kw_only=True):
    """Documents to be put in the order in which they answer a query.

    `top_n`: how many results are wanted; all where it is left out. `return_documents`: send the texts back, too.
    """

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    query: str
    documents: list[Any]
    top_n: int | None = None
    return_documents: bool = False


class Result(Struct, omit_defaults=True):
    """One document's place: `index` is its place in the request."""

    index: int
    relevance_score: float
    document: TextDocument | None = None


_decoder = msgspec.json.Decoder(RerankRequest)


def read_request(body: bytes) -> RerankRequest:
    """Return the request, its fields' types checked.

    Raises:
        InvalidRequest: it is no JSON object, or a field is missing or of a wrong type; `param` names it.
    """
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        field = where.rstrip("`").lstrip(".") or (message.split("`")[1] if "`" in message else "")
        raise InvalidRequest(f"{field}: {message}" if where else message, param=field or None) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the request body is not JSON: {error}") from None


def texts_of(request: RerankRequest, most_documents: int) -> list[str]:
    """Return the documents' texts, in their order.

    Raises:
        InvalidRequest: query, documents or `top_n` can't be used; documents are named by their index.
    """
    if not request.query.strip():
        raise InvalidRequest("query is empty: send the question that the documents are to be ranked by", param="query")
    if request.top_n is not None and request.top_n < 1:
        raise InvalidRequest(f"top_n={request.top_n}: from 1 up, or leave it out for all documents", param="top_n")
    if not request.documents:
        raise InvalidRequest("documents is empty: send at least one", param="documents")
    if len(request.documents) > most_documents:
        raise InvalidRequest(
            f"{len(request.documents)} documents, at most {most_documents} go into one request: rank them in several, "
            "or raise EMBEDDINGS_MAX_DOCUMENTS",
            param="documents",
        )
    return [_text(document, index) for index, document in enumerate(request.documents)]


def _text(document: Any, index: int) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str):
        raise InvalidRequest(
            f'documents[{index}] has no text: each document is a string, or an object {{"text": "…"}}',
            param=f"documents[{index}]",
        )
    if not text.strip():
        raise InvalidRequest(
            f"documents[{index}] is empty: leave it out, or send its text", param=f"documents[{index}]"
        )
    return text


def ranked(scores: Sequence[float], top_n: int | None) -> list[Result]:
    """Return the best results first; of equal scores the one that came first in the request.

    Raises:
        Internal: a score is not a number.
    """
    broken = [index for index, score in enumerate(scores) if not math.isfinite(score)]
    if broken:
        raise Internal(f"the model's score of documents[{broken[0]}] is {scores[broken[0]]}")
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return [Result(index, scores[index]) for index in order[:top_n]]


def answer(request: RerankRequest, model: str, texts: Sequence[str], scores: Sequence[float], tokens: int) -> bytes:
    """Return the answer's JSON.

    Args:
        model: the id of the model that computed, where the request has an alias.
        tokens: of the query and of all documents, each counted once.
    """
    results = ranked(scores, request.top_n)
    if request.return_documents:
        results = [msgspec.structs.replace(each, document=TextDocument(texts[each.index])) for each in results]
    usage = {"total_tokens": tokens, "prompt_tokens": tokens}
    # Cohere's client wants to know which version answered; what it bills is a search.
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return msgspec.json.encode(
        {
            "id": f"rerank-{uuid.uuid4().hex}",
            "object": "rerank",
            "model": model,
            "results": results,
            "usage": usage,
            "meta": meta,
        }
    )
