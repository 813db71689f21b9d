"""How soon injected drift is found, and how often unchanged windows alarm."""
