"""One script per figure that the README quotes: `python -m bench.NAME` prints it and writes bench/results/NAME.json."""
