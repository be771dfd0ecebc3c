"""Models: building, checking, loading and saving weights, and optimising inference."""
