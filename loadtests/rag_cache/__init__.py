"""How often the semantic cache would give a wrong answer, over thresholds."""
