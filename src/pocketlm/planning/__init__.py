"""Planning room: what a recipe will take, before it is run."""
