"""What runs compute and keep: known by a key, committed by a record, found again in a whole storage."""
