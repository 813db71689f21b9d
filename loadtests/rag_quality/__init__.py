"""How well the RAG service finds what it should, and how quickly: the figures of docs/rag.md."""
