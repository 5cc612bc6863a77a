"""The report: what a run made, from what, and how well, read from its folder. Imports only the pipeline: no torch."""
