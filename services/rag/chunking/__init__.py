"""Documents to chunks: one file a way to cut."""

from services.rag.chunking.counting import TokenCounter, tokenizer_counter
from services.rag.chunking.cutting import chunk
from services.rag.chunking.semantic import Embed

__all__ = ["Embed", "TokenCounter", "chunk", "tokenizer_counter"]
