"""`pocketlm compare`: results of any origin in one form, their differences, and which sentence may be claimed."""
