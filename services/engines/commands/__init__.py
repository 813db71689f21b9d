"""Verbs of the command line, one module each. Light: nothing heavy is imported before a verb needs it."""
