"""Verifiable problems: generators with disjoint splits, verifiers, the closed calculator, reward workers."""
