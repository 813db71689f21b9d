"""What embeddings cost over HTTP, beside the same model called directly; what reranking costs a candidate."""
