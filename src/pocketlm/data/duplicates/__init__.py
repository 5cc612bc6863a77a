"""Exact and near-duplicate documents, repeated segments and spans."""
