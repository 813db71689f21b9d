import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.rag.answering.attributing import Attributor
from services.rag.answering.deciding import NOT_FOUND
from services.rag.retrieving.trace import Retrieval
from services.rag.retrieving.words import sentence_spans
from services.rag.tests.scripted import make_passage

_PASSAGES = [
    make_passage(
        "The gateway listens on port 8000. It also binds port 11434 for Ollama clients. Keys are optional since 12.",
        document="gateway",
        title="Gateway",
        page=3,
    ),
    make_passage("A lease lasts fifteen seconds. Its holder renews it every three seconds.", document="leases"),
    make_passage("Sourdough bread rises overnight in a cool kitchen.", document="bread"),
]


def attribute(text, question="Which port does the gateway listen on?", pieces=None):
    attributor = Attributor(_PASSAGES, Retrieval(_PASSAGES, [], 0.9, question))
    said = "".join(attributor.feed(piece) for piece in (pieces or [text])) + attributor.finish()
    for each in attributor.annotations:
        marker = f"[{each['sparkstack']['number']}]"
        assert said[each["index"] : each["index"] + len(marker)] == marker
    return said, attributor.annotations


def test_a_supported_sentence_gets_the_number_of_its_passage_after_its_end():
    said, annotations = attribute("The gateway listens on port 8000. A lease lasts fifteen seconds.")
    assert said == "The gateway listens on port 8000. [1] A lease lasts fifteen seconds. [2]"
    assert annotations[0] == {
        "type": "file_citation",
        "index": said.index("[1]"),
        "file_id": "gateway",
        "filename": "gateway.md",
        "sparkstack": {
            "number": 1,
            "title": "Gateway",
            "page": 3,
            "quote": "The gateway listens on port 8000.",
            "score": annotations[0]["sparkstack"]["score"],
        },
    }
    assert annotations[0]["sparkstack"]["score"] > 0.9
    assert annotations[1]["sparkstack"]["quote"] == "A lease lasts fifteen seconds."


def test_a_quote_is_the_passages_own_words():
    for _, annotations in [attribute("It binds 11434 for clients of Ollama."), attribute("The holder renews a lease.")]:
        [each] = annotations
        assert any(each["sparkstack"]["quote"] in passage.text for passage in _PASSAGES)


@pytest.mark.parametrize(
    "sentence",
    [
        "Whales are mammals and live in the sea.",
        "The gateway listens on port 9999.",  # a number that no passage has
        "The gateway listens on port 12.",  # one that stands with other words
        "I hope this helps!",
        NOT_FOUND,
    ],
)
def test_a_sentence_without_support_gets_no_number(sentence):
    assert attribute(sentence) == (sentence, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A lease lasts fifteen seconds [2].", "A lease lasts fifteen seconds. [2]"),
        ("A lease lasts fifteen seconds. [2]", "A lease lasts fifteen seconds. [2]"),
        ("A lease lasts fifteen seconds.[2] Nothing else.", "A lease lasts fifteen seconds. [2] Nothing else."),
        ("A lease lasts fifteen seconds [7].", "A lease lasts fifteen seconds. [2]"),
        ("A lease lasts fifteen seconds [1, 3].", "A lease lasts fifteen seconds. [2]"),
        ("A lease lasts fifteen seconds [passage 2].", "A lease lasts fifteen seconds. [2]"),
        ("Whales sing [1]. Loudly [12].", "Whales sing. Loudly."),
        ("Whales [3]sing.", "Whales sing."),
        ("An [open bracket and [a] letter.", "An [open bracket and [a] letter."),
        ("It ends in [1", "It ends in [1"),
    ],
)
def test_a_models_own_numbers_are_taken_out_and_the_right_ones_put_in(text, said):
    assert attribute(text)[0] == said


def test_a_models_number_helps_where_the_words_differ():
    sentence = "Whoever has one must ask for it anew, every three seconds"
    assert attribute(f"{sentence}.")[1] == []
    said, [annotation] = attribute(f"{sentence} [2].")
    assert said.endswith("[2]")
    assert annotation["file_id"] == "leases"


def test_an_answer_of_a_word_counts_together_with_its_question():
    said, [annotation] = attribute("8000.", "Which port does the gateway listen on?")
    assert said == "8000. [1]"
    assert annotation["sparkstack"]["quote"] == "The gateway listens on port 8000."
    assert attribute("Kitchen.", "Which port does the gateway listen on?")[1] == []


@pytest.mark.parametrize(
    "text",
    [
        "```python\nports = [1]\nport = ports[0]\n```",
        "Take `ports[0]` for it.",
        "# The gateway listens on port 8000\n",
        "| gateway | port 8000 |\n|---|---|",
    ],
)
def test_code_headings_and_tables_stay_as_they_are(text):
    assert attribute(text)[0] == text.rstrip("\n")


def test_each_line_of_a_list_is_a_sentence():
    said, annotations = attribute("Two facts:\n- The gateway listens on port 8000\n- A lease lasts fifteen seconds\n")
    assert said == "Two facts:\n- The gateway listens on port 8000 [1]\n- A lease lasts fifteen seconds [2]"
    assert len(annotations) == 2


def test_full_stops_inside_a_sentence_end_none():
    said, _ = attribute("The gateway listens, e.g. for Ollama clients, on port 11434. A lease lasts fifteen seconds.")
    assert said.count("[1]") == said.count("[2]") == 1
    assert "e.g. for" in said


def test_no_word_waits_for_the_end_of_its_sentence():
    attributor = Attributor(_PASSAGES, Retrieval(_PASSAGES, [], 0.9, "port?"))
    assert attributor.feed("The") == "The"
    assert attributor.feed(" gateway") == " gateway"
    assert attributor.feed(" listens on port 8000.") == " listens on port 8000."
    assert attributor.feed(" ") == ""
    assert attributor.feed("It") == " [1] It"


_TEXTS = st.lists(
    st.sampled_from(
        [
            "The gateway listens on port 8000.", "A lease lasts fifteen seconds", " ", "\n", "[1]", "[", "]", "[99]",
            "[passage 2]", "```", "`", "e.g.", ". ", "!", "Yes", "- ", "# ", "x[1]y", "\u00e9\U0001f600", ":",
        ]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(text=_TEXTS, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_an_answer_is_the_same_however_it_comes_in_pieces(text, cuts):
    edges = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert attribute(text, pieces=pieces or [""]) == attribute(text)


@settings(max_examples=60, deadline=None)
@given(text=_TEXTS)
def test_nothing_but_markers_and_whitespace_is_changed(text):
    def bare(some):
        return re.sub(r"\s|\[(?:passage )?[\d, ]+\]", "", some)

    if "`" not in text:
        assert bare(attribute(text)[0]) == bare(text)


def test_sentences_of_a_passage_are_found_with_lists_and_abbreviations():
    text = "Dr. Who came. Then, e.g. later, he left!\n\n- first\n- second\n1. third is 3.5 m long.\nEnd"
    found = [text[start:end] for start, end in sentence_spans(text)]
    assert found == [
        "Dr. Who came.",
        "Then, e.g. later, he left!",
        "- first",
        "- second",
        "1. third is 3.5 m long.",
        "End",
    ]
