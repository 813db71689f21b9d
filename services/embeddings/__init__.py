"""Embeddings and reranking, batched, behind OpenAI's and Cohere's wire formats."""
