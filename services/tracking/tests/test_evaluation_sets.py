"""Sets of questions: what a file may have, and where a mistake in it is."""

import json

import pytest

from services.tracking.evaluation.sets import SetError, find_set, read_set, shipped, write_rows

ROW = {"id": "q1", "prompt": "What is the capital of France?", "scorer": "contains", "reference": "Paris"}


def written(tmp_path, *rows, page=""):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    if page:
        path.with_suffix(".yaml").write_text(page)
    return path


def test_the_shipped_sets_say_what_they_are_and_under_which_licence():
    names = {path.stem for path in shipped()}
    assert {"basics", "arithmetic", "choices", "formats", "reading"} <= names
    for path in shipped():
        each = read_set(path)
        assert each.description, path
        assert each.licence == "Apache-2.0", path
        assert each.version, path
        # Some forty answers of a short length end in about a minute on two cores.
        assert sum(question.max_tokens for question in each.questions) <= 2000, path


def test_what_the_page_says_holds_for_all_questions_that_say_nothing_of_it(tmp_path):
    page = "system: Be short.\nmax_tokens: 20\nscorer: exact\nlicence: CC0"
    bare = {"id": "q2", "prompt": "Two?", "reference": "two", "kind": "words"}
    own = {**ROW, "system": "Be long.", "max_tokens": 90}
    found = read_set(written(tmp_path, bare, own, page=page))
    assert [question.scorer_kind for question in found.questions] == ["exact", "contains"]
    assert [question.max_tokens for question in found.questions] == [20, 90]
    assert [question.messages[0]["content"] for question in found.questions] == ["Be short.", "Be long."]
    assert (found.name, found.licence, found.questions[0].kind) == ("mine", "CC0", "words")


def test_choices_stand_below_the_prompt_and_messages_are_sent_as_they_are(tmp_path):
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello. What is it?"},
        {"role": "user", "content": "Say yes."},
    ]
    chosen = {"id": "c", "prompt": "Which?", "choices": ["red", "blue"], "scorer": "choice", "reference": "A"}
    chat = {"id": "m", "messages": messages, "scorer": "contains", "reference": "yes"}
    found = read_set(written(tmp_path, chosen, chat)).questions
    assert found[0].prompt == "Which?\nA. red\nB. blue"
    assert list(found[1].messages) == messages


def test_a_schema_is_sent_along_unless_the_question_says_not(tmp_path):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    forced = {"id": "f", "prompt": "?", "scorer": "json_schema", "schema": schema}
    asked = forced | {"id": "a", "send_schema": False}
    found = read_set(written(tmp_path, forced, asked)).questions
    assert found[0].response_format["json_schema"]["schema"] == schema
    assert found[1].response_format is None


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "has no questions"),
        (["{"], "line 1: not JSON"),
        (["[1]"], "line 1: not an object"),
        ([ROW, ROW], "line 2: the id q1 stands there twice"),
        ([ROW, {**ROW, "id": ""}], "line 2: a question needs an `id`"),
        ([{**ROW, "refrence": "Paris"}], "line 1: unknown refrence; known are choices, id"),
        ([{**ROW, "scorer": "fuzzy"}], "line 1: q1: there is no scorer 'fuzzy'"),
        ([{**ROW, "prompt": None}], "q1 needs a `prompt` or `messages`, one of them"),
        ([{**ROW, "messages": []}], "q1 needs a `prompt` or `messages`, one of them"),
        (
            [{**ROW, "prompt": None, "messages": [{"role": "robot", "content": ""}]}],
            "must be a list of {role, content}",
        ),
        ([{**ROW, "max_tokens": 0}], "`max_tokens` of q1 must be a number of 1 or more"),
    ],
)
def test_a_mistake_is_told_by_its_line(tmp_path, rows, says):
    with pytest.raises(SetError) as refused:
        read_set(written(tmp_path, *rows))
    assert says in str(refused.value)


@pytest.mark.parametrize("page", ["- a list", "colour: red", "{"])
def test_a_page_that_is_none_is_refused(tmp_path, page):
    with pytest.raises(SetError):
        read_set(written(tmp_path, ROW, page=page))


def test_the_digest_is_of_the_questions_and_not_of_where_they_stand(tmp_path):
    found = read_set(written(tmp_path, {"id": "q1", "prompt": "Two?", "reference": "two"}, page="scorer: exact"))
    copy = tmp_path / "elsewhere.jsonl"
    write_rows(copy, found.rows)
    assert read_set(copy).digest == found.digest
    write_rows(copy, [{**found.rows[0], "reference": "three"}])
    assert read_set(copy).digest != found.digest


def test_a_set_is_found_by_name_or_by_path(tmp_path):
    assert find_set("basics") in shipped()
    path = written(tmp_path, ROW)
    assert find_set(str(path)) == path
    with pytest.raises(SetError, match="there is no set basic: give the path of a JSON-lines file, or one of arithm"):
        find_set("basic")
