"""Backups of what the stack keeps: folders where it runs as processes, volumes where it runs as containers."""
