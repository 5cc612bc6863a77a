"""Evaluation: lm-evaluation-harness as the scorer, local tasks, and the statistics of what it finds."""
