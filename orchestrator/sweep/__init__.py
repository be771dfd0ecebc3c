"""Sweeps: runs over a grid of values, or a search, that share members, logits, baselines and soft targets."""
