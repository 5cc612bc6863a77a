"""Documents: sources, quality gates, duplicates, contamination, tokenizer, token shards, chat form."""
