"""Ratings out of Open WebUI's export (Admin Panel → Evaluations → Feedbacks → export).

The export is a list of ratings, each with a snapshot of its whole chat. Of these nothing is read: what is taken is the
rating, its reason and comment, the model, and who gave it.
Source: github.com/open-webui/open-webui, backend/open_webui/models/feedbacks.py
"""

from typing import Any, Final

SOURCE: Final = "openwebui"
_MAX_COMMENT = 4000


class NotAnExport(Exception):
    """The document is something else; the message says what was expected."""


def ratings(document: Any) -> tuple[list[dict[str, Any]], int]:
    """Return the ratings as `POST /v1/feedback/import` takes them, and how many entries are no ratings.

    Raises:
        NotAnExport
    """
    if not isinstance(document, list):
        raise NotAnExport("this is no export of Open WebUI's feedback: it is a JSON list of ratings")
    found = []
    for entry in document:
        rating = _rating(entry) if isinstance(entry, dict) else None
        if rating is not None:
            found.append(rating)
    if document and not found:
        raise NotAnExport("none of the entries is a rating of Open WebUI: each has `id`, and `data` with a `rating`")
    return found, len(document) - len(found)


def _rating(entry: dict[str, Any]) -> dict[str, Any] | None:
    data, meta = _mapping(entry.get("data")), _mapping(entry.get("meta"))
    score = _score(data.get("rating"))
    if score is None or not isinstance(entry.get("id"), str):
        return None
    labels = [str(label)[:64] for label in data.get("tags") or () if label]
    reason = data.get("reason")
    if isinstance(reason, str) and reason:
        labels.insert(0, reason[:64])
    details = _mapping(data.get("details")).get("rating")
    if isinstance(details, int):
        labels.append(f"rating:{details}")
    return {
        "id": entry["id"],
        "user": str(entry.get("user_id") or ""),
        "model": str(data.get("model_id") or meta.get("model_id") or ""),
        "score": score,
        "comment": str(data.get("comment") or "")[:_MAX_COMMENT],
        "labels": list(dict.fromkeys(labels))[:16],
        "at": _time(entry.get("updated_at") or entry.get("created_at")),
    }


def _score(rating: Any) -> float | None:
    try:
        number = float(rating)
    except (TypeError, ValueError):
        return None
    return number if -1 <= number <= 1 else None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _time(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0.0
