"""A run's folder: its names and its lock."""
