"""Intervals, tests and estimators: pure functions of numbers. They know nothing of models, tasks or runs."""
