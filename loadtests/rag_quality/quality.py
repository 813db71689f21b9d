"""Rankings of every question by every way to search, and by every way to cut."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from loadtests.rag_quality.collection import CORPUS, Searcher, cut_corpus, write
from loadtests.rag_quality.models import LocalEmbedder, LocalReranker
from services.kit.resampling import interval, paired
from services.rag.evaluating import measures
from services.rag.evaluating.measures import Scores, documents_of, score
from services.rag.evaluating.questions import Qrels, Question, Split, read_qrels, read_questions
from services.rag.library import ChunkOptions
from services.rag.metrics import RagMetrics
from services.rag.vectors.edge import EdgeVectorStore

K = 10
SEARCHES = ("dense", "bm25", "hybrid", "hybrid-rerank")
SINGLES = ("dense", "bm25")
CHUNKERS = ("fixed", "sentence", "heading", "semantic")


@dataclass(frozen=True)
class Evidence:
    """What the decision "not in the documents" looks at, for one question."""

    id: str
    answerable: bool
    similarity: float
    overlap: float


@dataclass(frozen=True)
class Measured:
    """One way to cut, searched in several ways.

    Args:
        scores: by search, of each answerable question in the questions' order.
        evidence: of all questions, by the hybrid search.
    """

    chunks: int
    mean_tokens: float
    scores: Mapping[str, Sequence[Scores]]
    evidence: Sequence[Evidence]


def questions(split: Split) -> list[Question]:
    """Return the corpus's questions of a split."""
    return read_questions(CORPUS / "questions.jsonl", split)


def judgements() -> Qrels:
    """Return the corpus's judgements."""
    return read_qrels(CORPUS / "qrels.txt")


async def measure(
    options: ChunkOptions,
    split: Split,
    embedder: LocalEmbedder,
    reranker: LocalReranker,
    searches: Sequence[str] = SEARCHES,
) -> Measured:
    """Cut the corpus, write it into Qdrant's engine in a folder of its own, and ask all questions of a split."""
    from services.rag.answering.deciding import overlap

    cuts = cut_corpus(options, embedder)
    qrels = judgements()
    scores: dict[str, list[Scores]] = {name: [] for name in searches}
    evidence: list[Evidence] = []
    with tempfile.TemporaryDirectory(prefix="rag-quality-") as folder:
        store = EdgeVectorStore(Path(folder) / "store")
        try:
            await write(store, "quality", cuts, embedder)
            searcher = Searcher(store, "quality", embedder, reranker, RagMetrics(CollectorRegistry()))
            for question in questions(split):
                for name in searches:
                    found = await searcher.search(question.text, name)
                    if question.answerable:
                        ranked = documents_of(each.name for each in found.passages)
                        scores[name].append(score(ranked, qrels[question.id], K))
                    if name == "hybrid":
                        shared = overlap(question.text, found.passages)
                        nearest = found.best_similarity or 0.0
                        evidence.append(Evidence(question.id, question.answerable, nearest, shared))
        finally:
            await store.close()
    tokens = sum(each.chunk.tokens for each in cuts) / len(cuts)
    return Measured(len(cuts), tokens, scores, evidence)


def values(scores: Sequence[Scores], name: str) -> list[float]:
    """Return one measure of each question."""
    return [float(getattr(each, name)) for each in scores]


def summary(scores: Mapping[str, Sequence[Scores]], against: str) -> dict[str, Any]:
    """Return means with intervals, and differences to one of the ways, question by question."""
    return {
        name: {
            "judged": sum(each.judged for each in found) / len(found),
            **{measure: asdict(interval(values(found, measure))) for measure in measures.NAMES},
            "against": {
                measure: asdict(paired(values(found, measure), values(scores[against], measure)))
                for measure in measures.NAMES
            }
            if name != against
            else None,
        }
        for name, found in scores.items()
    }


def best_of(scores: Mapping[str, Sequence[Scores]], names: Sequence[str]) -> str:
    """Return the one of these with the highest mean nDCG."""
    return max(names, key=lambda name: sum(values(scores[name], "ndcg")))
