"""How long searches take, and what they miss, at 1,000, 10,000 and 100,000 chunks."""
