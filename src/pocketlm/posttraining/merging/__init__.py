"""Merging: methods over state dicts, candidates scored on the selection split, and the rule that chooses."""
