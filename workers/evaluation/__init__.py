"""Metrics of predictions, of networks and of their mixture."""
