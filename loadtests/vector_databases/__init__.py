"""Qdrant's engine, Qdrant's pure-Python store, Chroma, FAISS and Milvus Lite, side by side on the same vectors."""
