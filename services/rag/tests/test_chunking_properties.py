"""What holds of every chunker and every document: tried on documents that nobody would write."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from services.rag.chunking import chunk, tokenizer_counter
from services.rag.chunking.counting import TokenCounter, TokenizerCounter
from services.rag.documents import Block, Chunk, Document
from services.rag.library import ChunkOptions

CHUNKERS = ("fixed", "sentence", "heading", "semantic")
MINILM = tokenizer_counter()


def byte_counter() -> TokenCounter:
    """A counter whose words don't add up: each is counted with the space before it."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces = {each: number for number, each in enumerate(sorted(alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return TokenizerCounter(tokenizer)


BYTES = byte_counter()

_words = st.one_of(
    st.text(min_size=1, max_size=12),
    st.sampled_from(
        ["Dr.", "end.", "Ende!", "\n", "\n\n", "- item", "1. ", "你好吗。", "unbelievable", "e.g.", "a" * 300, "한국어"]
    ),
)
_texts = st.lists(_words, min_size=1, max_size=60).map(" ".join).filter(lambda text: bool(text.strip()))
_paths = st.lists(st.sampled_from("ABC"), max_size=3).map(tuple)
_blocks = st.builds(
    Block,
    text=_texts,
    kind=st.sampled_from(["text", "heading", "code", "table"]),
    page=st.one_of(st.none(), st.integers(1, 9)),
    heading_path=_paths,
)
documents = st.lists(_blocks, min_size=1, max_size=12).map(lambda each: Document("A title", "text/plain", tuple(each)))


def by_letters(texts) -> np.ndarray:
    """Vectors that differ where the letters do."""
    vectors = np.array([[1 + text.count(each) for each in "aeiouns"] for text in texts], np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def cut(document: Document, chunker: str, tokens: int, overlap: int, counter: TokenCounter) -> list[Chunk]:
    return chunk(document, ChunkOptions(chunker, tokens, overlap), counter, by_letters)


@pytest.mark.parametrize("counter", [MINILM, BYTES], ids=["minilm", "bytes"])
@pytest.mark.parametrize("chunker", CHUNKERS)
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(document=documents, tokens=st.integers(16, 80), share=st.floats(0, 0.5))
def test_no_chunk_is_above_the_limit_and_every_character_is_in_one(document, tokens, share, chunker, counter):
    chunks = cut(document, chunker, tokens, int(tokens * share), counter)
    assert [each.index for each in chunks] == list(range(len(chunks)))
    assert [each.tokens for each in chunks] == counter.count([each.text for each in chunks])
    assert max(each.tokens for each in chunks) <= tokens
    assert_covered(document, chunks)
    assert chunks == cut(document, chunker, tokens, int(tokens * share), counter)


def assert_covered(document: Document, chunks: list[Chunk]) -> None:
    """Walk through the document's characters, white space apart: each chunk goes on where those before it ended."""
    whole = "".join("".join(block.text.split()) for block in document.blocks)
    reached = 0
    for each in chunks:
        text = "".join(each.text.split())
        # It may repeat some of what came before, but leaves no gap.
        begins = [at for at in range(reached + 1) if whole.startswith(text, at)]
        assert begins, f"{each.text!r} isn't what follows {whole[:reached][-40:]!r}"
        reached = max(reached, *(at + len(text) for at in begins))
    assert reached == len(whole)


@pytest.mark.parametrize("chunker", CHUNKERS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(document=documents, tokens=st.integers(16, 80))
def test_page_and_headings_are_those_of_the_text(document, tokens, chunker):
    # Each block's text is made its own, so that a chunk's first word tells where it is from.
    own = Document(
        document.title,
        document.media_type,
        tuple(
            Block(f"\u4e00{chr(0x5000 + number)} {block.text}", block.kind, block.page, block.heading_path)
            for number, block in enumerate(document.blocks)
        ),
    )
    for each in cut(own, chunker, tokens, 0, MINILM):
        if each.text[0] == "\u4e00" and len(each.text) > 1:
            block = own.blocks[ord(each.text[1]) - 0x5000]
            assert each.page == block.page
            assert each.heading_path == block.heading_path[: len(each.heading_path)]
            if chunker != "heading":
                assert each.heading_path == block.heading_path


def test_a_tokenizer_file_that_cuts_and_pads_is_told_not_to(tmp_path: Path):
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[PAD]": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_counter(tmp_path / "tokenizer.json").count(["a " * 20, "a"]) == [20, 1]


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*nowhere\.json"):
        tokenizer_counter(tmp_path / "nowhere.json")
