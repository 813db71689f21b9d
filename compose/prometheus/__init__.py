"""Prometheus' configuration, rendered from one template, and its rules."""
