"""How good retrieval and answers are, on judged questions."""
