"""Artifacts, the stored results of runs: identified by a key, committed by a record, reused across a storage."""
