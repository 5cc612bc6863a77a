"""Reinforcement learning from verifiable rewards: advantages and loss, the run, its alarms."""
