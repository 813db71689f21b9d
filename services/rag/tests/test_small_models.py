import pytest

from services.rag.answering.attributing import Attributor
from services.rag.answering.small_models import INTRODUCTION, Repetition
from services.rag.retrieving.trace import Retrieval
from services.rag.tests.scripted import make_passage

_PASSAGES = [
    make_passage(
        "# Ports\n\nThe gateway listens on port 8000 for every client. Keys are optional.", document="gateway"
    ),
    make_passage("A lease lasts fifteen seconds. Its holder renews it every three seconds.", document="leases"),
]


def hear(text):
    watch = Repetition()
    said = "".join(watch.feed(character) for character in text)
    return said + watch.finish(), watch.found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "The engine is promised to take it. Something else. The engine is promised to take it. And more.",
            "The engine is promised to take it. Something else. ",
        ),
        (
            "- a line of four words\n- another line\n- a line of four words\n",
            "- a line of four words\n- another line\n",
        ),
    ],
)
def test_a_sentence_that_was_said_is_not_said_again_and_ends_the_answer(text, said):
    assert hear(text) == (said, True)


def test_a_sentence_without_an_end_is_cut_when_it_goes_round():
    said, found = hear("It is made up of parts that " * 20)
    assert found
    assert len(said) < 200


@pytest.mark.parametrize(
    "text",
    [
        "The gateway listens on port 8000. The engines service listens on port 8010. Both ask for a key. ",
        "Yes. Yes. Yes. It does. It does. ",
        "| a | b | c | d | e | f |\n| 1 | 2 | 3 | 4 | 5 | 6 |\n",
        "a long sentence of many words, all of them others: " + " ".join(map(str, range(100))),
        "",
    ],
)
def test_what_only_resembles_itself_goes_on_as_it_is(text):
    assert hear(text) == (text, False)


def test_what_has_no_support_is_followed_by_the_sentences_nearest_to_the_question():
    attributor = Attributor(_PASSAGES, Retrieval(_PASSAGES, [], 0.9, "Which port does the gateway listen on?"))
    said = attributor.feed("Whales live in the sea.") + attributor.finish()
    said += attributor.quote(INTRODUCTION, 2)
    assert said.startswith(
        "Whales live in the sea." + INTRODUCTION + "\n> The gateway listens on port 8000 for every client. [1]"
    )
    for each in attributor.annotations:
        marker = f"[{each['sparkstack']['number']}]"
        assert said[each["index"] : each["index"] + len(marker)] == marker
    assert attributor.annotations[0]["sparkstack"]["quote"] == "The gateway listens on port 8000 for every client."


def test_passages_that_share_no_word_with_the_question_are_not_quoted():
    attributor = Attributor(_PASSAGES, Retrieval(_PASSAGES, [], 0.9, "Who composed Tosca?"))
    assert attributor.quote(INTRODUCTION, 2) == ""
    assert attributor.annotations == []
