"""Other vector databases behind the same port, to compare with: not in the default install, not for the service.

Each does what it can do by itself; what it lacks is a VectorStoreError that says so.

| | terms (BM25) | filters | hybrid | safe on disk |
|---|---|---|---|---|
| Chroma | no | its own | no | each write |
| FAISS | no | after the search, over more and more hits | no | when it is closed or optimized |
| Milvus Lite | no IDF for vectors that come made: left out | its own | left out | each write |
"""

from services.rag.vectors import VectorStoreError


def lacks(database: str, feature: str) -> VectorStoreError:
    """Return the error for what a database can't do."""
    return VectorStoreError(f"{database} has no {feature} here: it is behind this port to be compared, take Qdrant")
