"""The engine: recipes, fingerprints, artifacts, ledger, runner. Knows no torch and no stage."""
