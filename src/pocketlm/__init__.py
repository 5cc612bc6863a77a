"""pocketlm: train small language models on one GPU, with every number auditable."""

__version__ = "0.1.0"
