"""The network of generalist, specialists and student."""

from torch import nn


def net(hidden: int, dropout: float = 0.1, *, inputs: int = 16, classes: int = 26) -> nn.Module:
    """Two ReLU layers, from the 16 numbers of a letter to 26 logits or as given."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )
