"""Published benchmarks: upstream's definitions, and the files that they read."""
