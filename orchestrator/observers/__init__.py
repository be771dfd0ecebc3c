"""What is told of a run while it goes on: terminal, events.jsonl, MLflow."""
