"""Soft targets: how they are stored, compressed, laid out and cached."""
