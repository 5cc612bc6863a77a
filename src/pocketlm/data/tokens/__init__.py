"""Tokenizer, token shards, mixtures of them."""
