"""The data plane: all computation. It works without the orchestrator, and its maths without Ray."""

__version__ = "0.1.0"
"""Of Stillhouse, whose distribution the nodes of a job need not have. `pyproject.toml` reads it from here."""
