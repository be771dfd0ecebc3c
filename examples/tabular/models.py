"""What learns letters: networks, forests and boosted trees."""

from typing import Any

from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from torch import nn


def net(hidden: int, layers: int = 1, dropout: float = 0.0, *, inputs: int = 16, classes: int = 26) -> nn.Module:
    """ReLU layers, from 16 numbers to 26 logits or as given."""
    found: list[nn.Module] = []
    for layer in range(layers):
        found += [nn.Linear(hidden if layer else inputs, hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*found, nn.Linear(hidden, classes))


def forest(trees: int) -> Any:
    """Trees on bootstrap samples (Breiman 2001)."""
    return RandomForestClassifier(trees)


def extra(trees: int) -> Any:
    """Trees with random cuts (Geurts, Ernst and Wehenkel 2006)."""
    return ExtraTreesClassifier(trees)


def boosted(rounds: int, leaves: int = 31, rate: float = 0.1) -> Any:
    """Boosted trees on histograms, one tree a class and round (Friedman 2001; Ke et al. 2017)."""
    return HistGradientBoostingClassifier(max_iter=rounds, max_leaf_nodes=leaves, learning_rate=rate)
