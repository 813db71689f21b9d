"""Reading, cutting and embedding over Ray Data, for more documents than one machine takes: docs/rag-at-scale.md."""
