"""Arms of several seeds compared: what the stage `study` is made of."""
