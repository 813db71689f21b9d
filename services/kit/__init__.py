"""Plumbing that two services or more share. It knows no domain word: no model, no prompt, no document."""
