"""Export of the trained student as a model for other programs."""
