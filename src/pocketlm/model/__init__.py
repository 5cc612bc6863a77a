"""Model room: the decoder, its head with loss, its key-value cache and the formats in which weights are stored."""
