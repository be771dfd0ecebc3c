"""Metrics of predictions: of single networks and of the ensemble."""
