"""docs/rag.md speaks of today's constants, and its differences are those of its own figures."""

import re

from loadtests.rag_quality.report import TARGET
from services.rag.answering.deciding import THRESHOLDS
from services.rag.library import ChunkOptions
from services.rag.retrieving.steps.searching import Hybrid

PAGE = TARGET.read_text(encoding="utf-8")


def table(part: str) -> list[list[str]]:
    found = re.search(rf"<!-- {part} -->\n(.*?)<!-- end of {part} -->", PAGE, re.DOTALL)
    assert found, part
    rows = [line.strip("|").split("|") for line in found[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows if not set("".join(row)) <= set("-:")]


def mean(cell: str) -> float:
    return float(cell.split()[0])


def test_every_part_was_measured() -> None:
    assert {row[0] for row in table("searches")[1:]} == {"dense", "BM25", "hybrid", "hybrid + rerank"}
    assert {row[0] for row in table("chunkers")[1:]} == {"fixed", "sentence", "heading", "semantic"}
    assert {row[0] for row in table("latency")[1:]} >= {"1,000", "10,000", "100,000"}


def test_hybrid_is_not_below_the_better_single_way_by_more_than_a_hundredth_or_the_page_says_so() -> None:
    found = {row[0]: mean(row[1]) for row in table("searches")[1:]}
    lost = found["hybrid"] < max(found["dense"], found["BM25"]) - 0.01
    assert lost == ("**A loss: hybrid is" in PAGE)


def test_each_difference_is_that_of_its_rows() -> None:
    for part, against, ndcg, difference in (("searches", "dense", 1, 4), ("chunkers", ChunkOptions().chunker, 3, 6)):
        rows = {row[0]: row for row in table(part)[1:]}
        for name, row in rows.items():
            if name != against:
                assert abs(mean(row[difference]) - (mean(row[ndcg]) - mean(rows[against][ndcg]))) < 0.0015, name


def test_the_constants_that_it_names_are_those_that_are_used() -> None:
    defaults = Hybrid()
    words = " ".join(PAGE.split())
    assert f"BM25's ranks for {defaults.terms_weight:g} of the vectors'" in words
    assert f"such as `max_wal_size min_wal_size`, for {defaults.keywords_weight:g}" in words
    assert f"The constant of the fusion is {defaults.constant:g}" in words


def test_the_threshold_that_it_shows_is_the_one_that_is_shipped() -> None:
    shipped = THRESHOLDS["all-minilm-l6-v2"]
    assert f"shipped: {shipped.overlap_weight:.2f} and {shipped.least:.3f}" in {row[0] for row in table("threshold")}


def test_retrieval_at_ten_thousand_chunks_is_as_quick_as_promised() -> None:
    fast = {row[0]: float(row[3]) for row in table("latency")[1:] if row[1] == "fast"}
    assert fast["10,000"] < 40
