"""Networks: built by a factory, tried before a run, filled with weights, made fast."""
