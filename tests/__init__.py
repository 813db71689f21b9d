"""Tests of what crosses services. A package, so that no other top-level `tests` can hide it."""
