"""Trials of every network before a run: a training step, saved weights loaded again, outputs on odd rows."""
