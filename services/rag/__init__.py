"""Answers from documents: ingest, chunk, index, retrieve, answer with citations, evaluate."""
