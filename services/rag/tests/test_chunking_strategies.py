"""How each chunker cuts a document that somebody might write."""

import time
from itertools import pairwise

import numpy as np
import pytest

from services.rag.chunking import chunk, tokenizer_counter
from services.rag.chunking.cutting import context_of
from services.rag.chunking.sentences import sentence_starts
from services.rag.documents import Block, Document
from services.rag.library import ChunkOptions

COUNTER = tokenizer_counter()


def sentences_of(text: str) -> list[str]:
    starts = [*sentence_starts(text), len(text)]
    return [text[a:b].strip() for a, b in pairwise(starts)]


def prose(sentences: int, word: str = "lantern") -> str:
    return " ".join(f"Here is sentence {number} about one {word}." for number in range(sentences))


def document(*blocks: Block) -> Document:
    return Document("Handbook", "text/markdown", blocks)


def section(path: tuple[str, ...], *texts: str) -> tuple[Block, ...]:
    return (Block(path[-1], "heading", None, path), *(Block(text, "text", None, path) for text in texts))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith met Mr. Jones. They talked.", ["Dr. Smith met Mr. Jones.", "They talked."]),
        ("See Fig. 3 and e.g. Table 2. Then go on.", ["See Fig. 3 and e.g. Table 2.", "Then go on."]),
        ("It costs 3.14 euros. J. R. Tolkien paid.", ["It costs 3.14 euros.", "J. R. Tolkien paid."]),
        ('He said "Stop." She did.', ['He said "Stop."', "She did."]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("Das gilt z. B. hier. Und bzw. Dort auch.", ["Das gilt z. B. hier.", "Und bzw. Dort auch."]),
        ("你好。我们走吧。很好。", ["你好。", "我们走吧。", "很好。"]),
        ("Title line\n\nA paragraph", ["Title line", "A paragraph"]),
        ("- one item\n- another item", ["- one item", "- another item"]),
        ("open the file config.yaml. then go", ["open the file config.yaml. then go"]),
    ],
)
def test_sentences_end_where_a_reader_would_say(text, sentences):
    assert sentences_of(text) == sentences


@pytest.mark.parametrize("text", ["." * 200_000, ".\n" * 50_000, "\n " * 100_000, "a.) " * 50_000, '."' * 100_000])
def test_sentences_take_linear_time(text):
    began = time.process_time()
    sentence_starts(text)
    assert time.process_time() - began < 2


def test_fixed_windows_overlap_by_as_many_words_as_asked():
    words = [f"w{number}" for number in range(500)]
    counts = COUNTER.count(words)
    chunks = chunk(document(Block(" ".join(words))), ChunkOptions("fixed", 64, 16), COUNTER)
    cost = dict(zip(words, counts, strict=True))
    for before, after in pairwise(chunks):
        first = words.index(after.text.split()[0])
        repeated = words[first : words.index(before.text.split()[-1]) + 1]
        tokens = sum(cost[each] for each in repeated)
        assert tokens <= 16 < tokens + cost[words[first - 1]]
        assert before.tokens <= 64 < before.tokens + cost[words[words.index(before.text.split()[-1]) + 1]]


def test_fixed_windows_without_overlap_repeat_nothing():
    text = prose(60)
    chunks = chunk(document(Block(text)), ChunkOptions("fixed", 50, 0), COUNTER)
    assert " ".join(each.text for each in chunks) == text


def test_sentence_chunks_are_whole_sentences_and_repeat_whole_ones():
    text = prose(40)
    sentences = sentences_of(text)
    chunks = chunk(document(Block(text)), ChunkOptions("sentence", 60, 20), COUNTER)
    assert len(chunks) > 4
    for before, after in pairwise(chunks):
        ours, theirs = sentences_of(before.text), sentences_of(after.text)
        assert set(ours) <= set(sentences)
        repeated = [each for each in theirs if each in ours]
        assert repeated == ours[-len(repeated) :]
        assert 0 < sum(COUNTER.count(repeated)) <= 20


def test_a_sentence_above_the_limit_is_cut_between_words():
    text = "word " * 200 + "end."
    chunks = chunk(document(Block(text)), ChunkOptions("sentence", 50, 0), COUNTER)
    assert [each.tokens for each in chunks] == [50, 50, 50, 50, 2]


def test_sections_that_fit_are_chunks_with_their_headings():
    blocks = section(("Guide", "Install"), prose(12)) + section(("Guide", "Run"), prose(12, "ship"))
    chunks = chunk(document(*blocks), ChunkOptions("heading", 200, 40), COUNTER)
    assert [each.heading_path for each in chunks] == [("Guide", "Install"), ("Guide", "Run")]
    assert chunks[0].text == f"Install\n\n{prose(12)}"
    assert chunks[0].context == "Handbook > Guide > Install"


def test_small_sections_stay_together_under_their_parent():
    blocks = (
        section(("Guide",), "Short.") + section(("Guide", "A"), prose(2)) + section(("Guide", "B"), prose(2, "ship"))
    )
    (only,) = chunk(document(*blocks), ChunkOptions("heading", 200, 40), COUNTER)
    assert only.heading_path == ("Guide",)
    assert only.context == "Handbook > Guide"


def test_small_sections_of_different_parents_stay_apart():
    blocks = section(("One", "A"), prose(2)) + section(("Two", "B"), prose(2))
    chunks = chunk(document(*blocks), ChunkOptions("heading", 200, 40), COUNTER)
    assert [each.heading_path for each in chunks] == [("One", "A"), ("Two", "B")]


def test_a_long_section_is_cut_between_paragraphs_and_its_parts_overlap_by_sentences():
    path = ("Guide", "Long")
    blocks = section(path, prose(10), prose(10, "ship"), prose(10, "harbour"))
    chunks = chunk(document(*blocks), ChunkOptions("heading", 150, 30), COUNTER)
    assert {each.heading_path for each in chunks} == {path}
    for before, after in pairwise(chunks):
        assert sentences_of(after.text)[0] in sentences_of(before.text)
    # The next section is no part of that one: nothing of it is repeated.
    other = chunk(document(*blocks, *section(("Other",), prose(12, "moon"))), ChunkOptions("heading", 150, 30), COUNTER)
    assert other[-1].text.startswith("Other\n\nHere is sentence 0 about one moon.")


@pytest.mark.parametrize("kind", ["code", "table"])
def test_code_and_tables_that_fit_are_not_cut(kind):
    lines = "\n".join(f"    row_{number} = {number}" for number in range(20))
    blocks = (
        *section(("Guide",), prose(12)),
        Block(lines, kind, None, ("Guide",)),
        Block(prose(12), "text", None, ("Guide",)),
    )
    chunks = chunk(document(*blocks), ChunkOptions("heading", 200, 0), COUNTER)
    assert len(chunks) > 1
    assert sum(lines.strip() in each.text for each in chunks) == 1


def test_code_above_the_limit_is_cut_between_lines():
    lines = [f"value_{number} = {number}" for number in range(100)]
    chunks = chunk(document(Block("\n".join(lines), "code")), ChunkOptions("heading", 64, 0), COUNTER)
    assert [line for each in chunks for line in each.text.split("\n")] == lines


def test_meaning_cuts_where_the_subject_changes():
    def embed(texts):
        sums = np.array([[text.count("lantern") + 0.01, text.count("engine") + 0.01] for text in texts], np.float32)
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)

    blocks = (Block(prose(12)), Block(prose(12, "engine")))
    chunks = chunk(document(*blocks), ChunkOptions("semantic", 200, 0), COUNTER, embed)
    assert [each.text for each in chunks] == [prose(12), prose(12, "engine")]


def test_meaning_without_a_model_is_refused():
    with pytest.raises(ValueError, match="give embed, or choose heading"):
        chunk(document(Block("text")), ChunkOptions("semantic", 64, 0), COUNTER)


def test_page_is_that_of_the_first_character():
    blocks = (Block(prose(5), "text", 3), Block(prose(5, "ship"), "text", 4))
    chunks = chunk(document(*blocks), ChunkOptions("fixed", 30, 0), COUNTER)
    assert [each.page for each in chunks] == sorted(each.page for each in chunks)
    assert {each.page for each in chunks} == {3, 4}
    assert all(("ship" in each.text) <= (each.page == 4 or "lantern" in each.text) for each in chunks)


def test_a_word_without_an_end_is_bounded_by_characters():
    chunks = chunk(document(Block("x" * 300_000)), ChunkOptions("heading", 200, 40), COUNTER)
    assert max(len(each.text) for each in chunks) <= 200 * 16
    assert "".join(each.text for each in chunks) == "x" * 300_000


def test_a_long_path_keeps_the_title_and_the_nearest_headings():
    context = context_of("Book", [f"A heading of some length, number {number}" for number in range(9)])
    assert context.startswith("Book > ")
    assert context.endswith("number 8")
    assert len(context) <= 160
    assert context_of("Book", ["Book", "Part"]) == "Book > Part"
