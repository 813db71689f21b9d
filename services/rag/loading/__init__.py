"""Files to documents: one file a format. Runs in worker processes, never on the event loop."""
