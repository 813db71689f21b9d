"""Measure the semantic cache on pairs of questions: `python -m loadtests.rag_cache --embeddings-url URL`.

`same.tsv` has pairs that one answer fits, `different.tsv` pairs that look alike and want different answers. A hit on
the first kind saves a generation; a hit on the second is a wrong answer. Both are counted for cosines alone and with
the cache's own check of facts (`services.rag.answering.caching.same_facts`). The table is written into
docs/rag-pipeline.md between its marks. The near misses are chosen to be hard: in real traffic most pairs of questions
are nowhere near each other, so the rates are of these pairs and not of a day's questions.
"""

import argparse
import asyncio
from pathlib import Path

import numpy as np

from services.rag.answering.caching import same_facts, semantic_threshold
from services.rag.embedder import HttpEmbedder

_HERE = Path(__file__).parent
_PAGE = _HERE.parents[1] / "docs" / "rag-pipeline.md"
_BEGIN, _END = "<!-- rag_cache: begin -->", "<!-- rag_cache: end -->"
_THRESHOLDS = (0.80, 0.84, 0.86, 0.88, 0.90, 0.92, 0.94, 0.96, 0.98)


def read_pairs(name: str) -> list[tuple[str, str]]:
    """Return the pairs of a file, one a line, parted by a tab."""
    lines = (_HERE / name).read_text("utf-8").splitlines()
    return [(one, two) for one, two in (line.split("\t") for line in lines)]


async def cosines(pairs: list[tuple[str, str]], embedder: HttpEmbedder) -> np.ndarray:
    """Return the cosine of each pair, `(n_pairs,)`."""
    first = await embedder.embed([one for one, _ in pairs])
    second = await embedder.embed([two for _, two in pairs])
    return (first * second).sum(axis=1)


def table(agree_same: np.ndarray, agree_different: np.ndarray, near: np.ndarray, far: np.ndarray, in_use: float) -> str:
    """Return the shares of hits over thresholds as a Markdown table."""
    rows = [
        "| least cosine | hits, cosine alone | false hits | hits, facts checked | false hits |",
        "|---|---|---|---|---|",
    ]
    for threshold in _THRESHOLDS:
        cells = [
            _share(near >= threshold),
            _share(far >= threshold),
            _share((near >= threshold) & agree_same),
            _share((far >= threshold) & agree_different),
        ]
        mark = " (in use)" if threshold == in_use else ""
        rows.append(f"| {threshold:.2f}{mark} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _share(hits: np.ndarray) -> str:
    return f"{int(hits.sum())} of {len(hits)} ({hits.mean():.0%})"


def write_page(text: str) -> None:
    """Put the table between its marks."""
    page = _PAGE.read_text("utf-8")
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _PAGE.write_text(f"{before}{_BEGIN}\n{text}\n{_END}{after}", "utf-8")


async def measure(url: str, key: str, *, write: bool, show_misses: bool) -> None:
    """Embed the pairs, print the table and what is still wrong at the threshold in use."""
    embedder = HttpEmbedder(url, key)
    await embedder.open()
    try:
        same, different = read_pairs("same.tsv"), read_pairs("different.tsv")
        near, far = await cosines(same, embedder), await cosines(different, embedder)
        model = (await embedder.model()).id
    finally:
        await embedder.close()
    in_use = semantic_threshold(model)
    agree_same = np.array([same_facts(one, two) for one, two in same])
    agree_different = np.array([same_facts(one, two) for one, two in different])
    shares = table(agree_same, agree_different, near, far, in_use)
    text = f"{model}; {len(same)} paraphrases, {len(different)} near misses.\n\n{shares}"
    print(text)
    if show_misses:
        for (one, two), cosine in sorted(zip(different, far, strict=True), key=lambda each: -each[1]):
            if cosine >= in_use and same_facts(one, two):
                print(f"false hit {cosine:.3f}: {one} | {two}")
        for one, two in same:
            if not same_facts(one, two):
                print(f"held apart: {one} | {two}")
    if write:
        write_page(text)


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.rag_cache", description=__doc__)
    parser.add_argument("--embeddings-url", default="http://127.0.0.1:8011", help="the embeddings service")
    parser.add_argument("--embeddings-key", default="", help="its key, where it wants one")
    parser.add_argument("--write", action="store_true", help="put the table into docs/rag-pipeline.md")
    parser.add_argument("--misses", action="store_true", help="name the pairs that the threshold in use gets wrong")
    given = parser.parse_args()
    asyncio.run(measure(given.embeddings_url, given.embeddings_key, write=given.write, show_misses=given.misses))


if __name__ == "__main__":
    main()
