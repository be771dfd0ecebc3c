"""The plan of a run: all decisions that precede its first stage."""
