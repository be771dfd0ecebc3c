"""The stages of a run, from preflight to evaluation."""
