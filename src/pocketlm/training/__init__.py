"""Training room: one trainer for every stage; objectives and batch sources are handed to it."""
