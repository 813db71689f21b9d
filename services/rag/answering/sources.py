"""Citations as Open WebUI reads them: an event of its own, beside OpenAI's annotations, in the last event of a stream.

Of annotations it reads only those that cite web addresses. What it calls sources it numbers itself, in the order in
which they come, so the marker `[3]` is its third source: there are as many as the highest number that is cited, and one
that is not cited in between is there with its own beginning. Other clients leave the field alone.
Source: github.com/open-webui/open-webui, backend/open_webui/utils/middleware.py (`event`); docs.openwebui.com, "Events"
"""

from collections.abc import Mapping, Sequence
from typing import Any

from services.rag.documents import Passage

_BEGINNING_CHARACTERS = 300


def sources(annotations: Sequence[Mapping[str, Any]], passages: Sequence[Passage]) -> tuple[Mapping[str, Any], ...]:
    """Return what is shown of each passage, quotes and all, in the order of their numbers.

    Args:
        passages: as they are numbered; number 1 is the first.
    """
    quotes: dict[int, list[Mapping[str, Any]]] = {}
    for each in annotations:
        quotes.setdefault(each["sparkstack"]["number"], []).append(each["sparkstack"])
    return tuple(
        {
            "id": f"{passage.document_id}#{number}",
            "name": passage.title or passage.name,
            "quotes": list(dict.fromkeys(own["quote"] for own in quotes.get(number, ()))) or [_beginning(passage)],
            "page": next((own["page"] for own in quotes.get(number, ())), passage.page),
        }
        for number, passage in enumerate(passages[: max(quotes, default=0)], start=1)
    )


def source_event(shown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fields that the last event of a stream has for Open WebUI; none where nothing is cited."""
    quoted = [(each, quote) for each in shown for quote in each["quotes"]]
    if not quoted:
        return {}
    data = {
        "source": {"id": shown[0]["id"], "name": shown[0]["name"]},
        "document": [quote for _, quote in quoted],
        "metadata": [_metadata(each) for each, _ in quoted],
    }
    return {"event": {"type": "source", "data": data}}


def _metadata(each: Mapping[str, Any]) -> dict[str, Any]:
    # It counts pages from 0, and adds one where it shows them.
    place = {} if each["page"] is None else {"page": each["page"] - 1}
    return {"source": each["id"], "name": each["name"], **place}


def _beginning(passage: Passage) -> str:
    text = passage.text.strip()
    return text if len(text) <= _BEGINNING_CHARACTERS else f"{text[:_BEGINNING_CHARACTERS].rstrip()} …"
