"""Conversations to learn from: their forms, rules, duplicates, contamination and split."""
