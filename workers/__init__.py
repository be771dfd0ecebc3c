"""The data plane: all computation. It works without the orchestrator, and its maths without Ray."""
