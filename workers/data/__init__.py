"""Data sets: read, checked, numbered, augmented."""
