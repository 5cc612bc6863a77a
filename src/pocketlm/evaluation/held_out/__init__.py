"""Held-out text: bits per byte under a model and under byte n-grams fitted on the same bytes."""
