"""What the stack did, how well, and whether it is getting worse: records, feedback, cost, drift, evaluation."""
