"""How fast documents become searchable, without embeddings and with them, and how near that is to embedding alone."""
