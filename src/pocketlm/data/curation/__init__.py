"""The whole corpus: units, global steps, held-out text, files and figures of a curated corpus."""
