"""Engines: which models there are, what a model file is, and the processes that serve them."""
