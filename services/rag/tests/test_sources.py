from typing import Any

from services.rag.answering.sources import source_event, sources
from services.rag.documents import Passage


def passage(number: int, text: str = "", **more: Any) -> Passage:
    return Passage(
        id=f"p{number}",
        document_id="doc",
        name="handbook.md",
        title="The handbook",
        index=number,
        text=text or f"What passage {number} says.",
        context="",
        tokens=5,
        score=1.0,
        **more,
    )


def cited(number: int, quote: str, page: int | None = None) -> dict[str, Any]:
    return {"type": "file_citation", "sparkstack": {"number": number, "quote": quote, "page": page}}


PASSAGES = [passage(1), passage(2), passage(3, page=7), passage(4)]


def event(*annotations: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = source_event(sources(annotations, PASSAGES))["event"]["data"]
    return data


def numbered(data: dict[str, Any]) -> list[str]:
    """The sources as Open WebUI numbers them: by their ids, in the order in which they come."""
    return list(dict.fromkeys(each["source"] for each in data["metadata"]))


def test_the_number_of_a_marker_is_the_place_of_its_source() -> None:
    data = event(cited(3, "the third"), cited(1, "the first"))
    assert numbered(data) == ["doc#1", "doc#2", "doc#3"]
    assert data["document"] == ["the first", "What passage 2 says.", "the third"]
    assert {each["name"] for each in data["metadata"]} == {"The handbook"}


def test_several_quotes_of_one_passage_are_one_source_and_the_same_quote_stands_once() -> None:
    data = event(cited(1, "one"), cited(1, "another"), cited(1, "one"))
    assert data["document"] == ["one", "another"]
    assert numbered(data) == ["doc#1"]


def test_pages_are_counted_from_0() -> None:
    data = event(cited(3, "the third", page=8))
    assert [each.get("page") for each in data["metadata"]] == [None, None, 7]


def test_of_a_passage_that_is_not_cited_the_beginning_is_shown() -> None:
    long = [passage(1, "word " * 200), passage(2)]
    shown = source_event(sources([cited(2, "the second")], long))["event"]["data"]["document"]
    assert shown[0] == "word " * 59 + "word …"
    assert shown[1] == "the second"


def test_an_answer_without_citations_has_no_event() -> None:
    assert source_event(sources([], PASSAGES)) == {}
