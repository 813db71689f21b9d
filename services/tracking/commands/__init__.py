"""Verbs of the command line. Light: nothing heavy is imported before a verb needs it."""
