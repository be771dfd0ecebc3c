"""The training loop, its objective, its loader and its Ray tasks."""
