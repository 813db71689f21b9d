"""What is measured of a request, and what is not."""

# ruff: noqa: RUF001

import json

import pytest

from services.tracking.drift.features import is_json, is_refusal, measure, repetition
from services.tracking.drift.languages import LANGUAGES, language_of
from services.tracking.tests.samples import record

SENTENCES = {
    "en": "How do I restore the database from the dump that was made yesterday?",
    "de": "Wie kann ich die Datenbank aus der Sicherung von gestern wieder einspielen?",
    "fr": "Comment est-ce que je peux restaurer la base avec la sauvegarde d'hier ?",
    "es": "¿Cómo puedo restaurar la base de datos con la copia que hice por la noche?",
    "it": "Come posso ripristinare la base di dati con la copia che ho fatto ieri?",
    "pt": "Como eu restauro o banco de dados com a cópia que não foi feita por mim?",
    "nl": "Hoe kan ik de databank herstellen van een kopie die ik niet zelf heb gemaakt?",
    "sv": "Hur kan jag återställa databasen från en kopia som inte är min?",
    "pl": "Jak można odtworzyć bazę z kopii, która nie jest już aktualna i czy to się uda?",
    "tr": "Bu veritabanı için bir yedek var mı ve nasıl daha çok yer açılır?",
    "ru": "Как восстановить базу данных из вчерашней копии?",
    "el": "Πώς επαναφέρω τη βάση δεδομένων;",
    "ja": "昨日のバックアップからデータベースを復元するには？",
    "zh": "如何从昨天的备份恢复数据库？",
    "ko": "어제 백업에서 데이터베이스를 어떻게 복원합니까?",
    "ar": "كيف يمكنني استعادة قاعدة البيانات؟",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_is_known_by_its_language(language):
    assert language_of(SENTENCES[language]) == language
    assert language in LANGUAGES


@pytest.mark.parametrize("text", ["", "42 + 17 = ?", "SELECT 1;", "pg_dump", "x" * 5000])
def test_what_says_too_little_has_no_language(text):
    assert language_of(text) == "und"


def test_features_hold_no_text():
    secret = "Ada Lovelace wants to know what the weather is"
    found = measure(record(prompt=secret, answer=secret, sampled=True, format_asked=True, tools_offered=2))

    assert "Ada" not in json.dumps(found)
    assert found["prompt_language"] == found["answer_language"] == "en"
    assert found["prompt_characters"] == len(secret)


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m really sorry, that is nothing I may do",
        "As an AI language model, I have no opinion.",
        "Unfortunately I cannot answer this.",
        "Es tut mir leid, das weiß ich nicht.",
        "Lo siento, no puedo ayudarte.",
        "Je suis désolé, mais cela n'est pas possible.",
    ],
)
def test_refusals_are_known_by_their_phrases(answer):
    assert is_refusal(answer)
    assert measure(record(answer=answer))["refusal"] is True


@pytest.mark.parametrize(
    "answer",
    ["The capital is Paris.", "You cannot drop a table that others refer to.", "a" * 400 + " I'm sorry, but no"],
)
def test_answers_are_no_refusals(answer):
    assert not is_refusal(answer)


def test_a_wanted_format_that_was_missed_is_a_failure():
    asked = {"format_asked": True}
    assert measure(record(answer='{"a": 1}', **asked))["format_failure"] is False
    assert measure(record(answer='```json\n{"a": 1}\n```', **asked))["format_failure"] is False
    assert measure(record(answer='{"a": 1', **asked))["format_failure"] is True
    assert measure(record(answer="", tool_calls=1, **asked))["format_failure"] is False
    assert "format_failure" not in measure(record(answer="a word"))
    assert not is_json("[" * 100_000)


def test_a_tool_call_that_was_written_as_text_is_a_failure():
    offered = {"tools_offered": 2}
    assert measure(record(answer='{"name": "weather", "arguments": {}}', **offered))["tool_failure"] is True
    assert measure(record(answer="<tool_call>weather", **offered))["tool_failure"] is True
    assert measure(record(answer="", **offered))["tool_failure"] is True
    assert measure(record(answer="", tool_calls=1, **offered))["tool_failure"] is False
    assert measure(record(answer="It is sunny.", **offered))["tool_failure"] is False
    assert measure(record(answer='{"weather": "sunny"}', **offered))["tool_failure"] is False


def test_an_answer_in_a_loop_repeats_itself():
    assert repetition("one two three four five six") == 0
    assert repetition("no way out " * 40) > 0.9
    assert repetition("") == 0


def test_of_a_failed_request_only_the_prompt_is_measured():
    found = measure(record(status=502, prompt="What is this?", answer=""))

    assert set(found) == {"version", "prompt_characters", "prompt_language"}
