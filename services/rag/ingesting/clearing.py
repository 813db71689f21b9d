"""Points that must go: of documents that were removed, and of versions that are no longer wanted."""

from collections.abc import Sequence

from services.rag.ingesting.batching import Run
from services.rag.ingesting.rows import DocumentRow
from services.rag.ingesting.waiting import Patience
from services.rag.vectors import VectorStore
from services.rag.vectors.filters import Filter, OneOf, eq, every


async def clear_stale(store: VectorStore, patience: Patience, runs: Sequence[Run], *, keep_live: bool = False) -> None:
    """Remove the points of every version of these documents but the one that stays.

    Args:
        keep_live: what was searchable before stays (the new version is not to be); else the new version stays.
    """
    by_collection: dict[str, list[Run]] = {}
    for run in runs:
        if keep_live or run.row.dirty or run.row.live_version not in ("", run.row.version):
            by_collection.setdefault(run.row.collection, []).append(run)
    for collection, several in by_collection.items():
        stale = OneOf("version", tuple(_staying(several, keep_live=keep_live)), "nin")
        where = every(_of_documents([run.row for run in several]), stale)
        assert where is not None
        await patience.insist(lambda collection=collection, where=where: store.delete(collection, where))  # type: ignore[misc]


def _staying(runs: Sequence[Run], *, keep_live: bool) -> list[str]:
    # A version belongs to one document (its id is in the hash), so that one list serves several documents.
    return [run.row.live_version if keep_live else run.row.version for run in runs]


async def remove_points(store: VectorStore, rows: Sequence[DocumentRow]) -> None:
    """Remove the points of documents of one collection and one state: all, or of a cancelled one the unfinished.

    Raises:
        VectorStoreError
    """
    where: Filter | None = _of_documents(rows)
    live = tuple(row.live_version for row in rows if row.live_version)
    if rows[0].state == "cancelling" and live:
        where = every(where, OneOf("version", live, "nin"))
    assert where is not None
    await store.delete(rows[0].collection, where)


def _of_documents(rows: Sequence[DocumentRow]) -> Filter:
    ids = tuple(row.id for row in rows)
    return eq("document_id", ids[0]) if len(ids) == 1 else OneOf("document_id", ids)
