"""From a question to passages: named steps in a pipeline that a preset describes."""
