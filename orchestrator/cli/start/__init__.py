"""`stillhouse init`: looks at the user's data and checkpoints, and writes a configuration for them."""
