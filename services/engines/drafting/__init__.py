"""Drafts of recipes from a model's own files."""
