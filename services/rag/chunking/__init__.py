"""Documents to chunks: one file a way to cut."""
