"""One load: from a recipe to an engine that answers, with a guard beside it and a receipt behind it."""
