"""The data plane: what computes. Usable without the orchestrator; the maths knows no Ray."""
