"""Generation: one batched key-value-cache engine for rollouts, evaluation, chat and the server."""
