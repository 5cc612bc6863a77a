"""Evaluation items, and documents that hold them."""
