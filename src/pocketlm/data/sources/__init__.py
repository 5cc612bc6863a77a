"""Text from files, archives, hubs and object stores to rows."""
