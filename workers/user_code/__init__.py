"""The user's own code: how a factory is found, what it reaches and reads, and a digest of that."""
