"""What is tried of every network before a run: a step, saved weights loaded again, answers on odd rows."""
