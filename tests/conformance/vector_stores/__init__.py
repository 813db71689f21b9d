"""One suite for every vector store: each must give the answers of a reference that is worked out by hand."""
