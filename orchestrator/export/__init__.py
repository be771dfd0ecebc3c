"""The trained student as a model for others."""
