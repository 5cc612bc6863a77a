"""Preferences: pairs and single judgements, their batches with reference log-probabilities, DPO, ORPO and KTO."""
