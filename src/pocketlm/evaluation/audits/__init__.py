"""`pocketlm audit-sample`: one training document traced, with every gate that it passed."""
