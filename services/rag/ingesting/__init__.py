"""Ingest as jobs: resumable, idempotent, exact."""
