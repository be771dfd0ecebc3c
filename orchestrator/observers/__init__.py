"""Observers of a run: terminal, events.jsonl, MLflow."""
