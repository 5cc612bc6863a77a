"""Models on disk: where an argument leads, what comes in, what goes out, and the card that goes with it."""
