"""Supervised fine-tuning: examples from problems, conversations, samples and replayed text; batches and the loss."""
