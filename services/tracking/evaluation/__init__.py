"""Evaluation: models on sets of questions, runs that are kept, and what is compared with what."""
