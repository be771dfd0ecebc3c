"""Groups of classes that a generalist confuses, for specialists: K-means on the columns of the covariance matrix of its
predictions (Hinton, Vinyals and Dean 2015, section 5.1).

Classes that are predicted together have alike columns. Predictions are scaled to variance 1, which makes the covariance
a correlation. Otherwise the variances, the largest entries by far, keep all columns apart, and beside a few pairs most
classes stay in one group. Each group becomes a specialist's own classes, so it has at least two. K-means begins from
several draws, and the best result counts. A group that is too small takes a class of another group.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.data.arrays import Float64
from workers.evaluation.metrics import LogProbabilities

Groups = tuple[tuple[int, ...], ...]

LEAST = 2
"""Classes of a group."""
MOST_CLASSES = 8192
"""Most classes whose covariance matrix is computed: 512 MB in float64."""
DRAWS = 20
"""Beginnings of K-means."""
CHUNK_ROWS = 4096


def covariance(log_probabilities: Sequence[LogProbabilities]) -> Float64:
    """The covariance matrix [K, K] of the mean predictions of some models. log_probabilities: an array [N, K] each."""
    rows, classes = log_probabilities[0].shape
    total, products = np.zeros(classes), np.zeros((classes, classes))
    for start in range(0, rows, CHUNK_ROWS):
        each = [np.exp(p[start : start + CHUNK_ROWS].astype(np.float64)) for p in log_probabilities]
        mean = np.sum(each, axis=0) / len(each)
        total += mean.sum(axis=0)
        products += mean.T @ mean
    found: Float64 = products / rows - np.outer(total, total) / rows**2
    return found


def correlation(of: Float64) -> Float64:
    """The correlation matrix [K, K] of a covariance matrix. A class that is never predicted correlates with itself."""
    deviation = np.sqrt(np.diag(of))
    known = deviation > 0
    scale = np.where(known, deviation, 1.0)
    found: Float64 = of / np.outer(scale, scale)
    np.fill_diagonal(found, 1.0)
    return found


def groups(of: Float64, number: int, seed: int) -> Groups:
    """`number` groups of at least `LEAST` classes, each ascending, in the order of their first classes.

    of: the covariance matrix [K, K]. Each class is in one group. Raises: ValueError for fewer than 2 groups, or more
    than the classes suffice for.
    """
    if not 2 <= number <= len(of) // LEAST:
        raise ValueError(f"{number} groups of {len(of)} classes; expected 2 to {len(of) // LEAST}")
    columns, draw = correlation(of), np.random.default_rng(seed)
    tried = [_clustered(columns, number, draw) for _ in range(DRAWS)]
    label = min(tried, key=lambda each: _spread(columns, each, number))
    found = [tuple(np.flatnonzero(label == group).tolist()) for group in range(number)]
    return tuple(sorted(found))


def _clustered(columns: Float64, number: int, draw: np.random.Generator) -> NDArray[np.int64]:
    """The group [K] of each class by K-means, none of which is too small."""
    from scipy.cluster.vq import kmeans2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a group that becomes empty, which is filled
        _, label = kmeans2(columns, number, minit="++", seed=draw)
    return _filled(columns, label.astype(np.int64), number)


def _filled(columns: Float64, label: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """The groups after small ones took classes of larger ones: each time that which lies nearest beside its own."""
    label = label.copy()
    while True:
        sizes = np.bincount(label, minlength=number)
        small = int(sizes.argmin())
        if sizes[small] >= LEAST:
            return label
        held = [columns[label == k] if sizes[k] else columns for k in range(number)]
        centres = np.stack([each.mean(axis=0) for each in held])
        movable = np.flatnonzero(sizes[label] > LEAST)
        own = ((columns[movable] - centres[label[movable]]) ** 2).sum(axis=1)
        new = ((columns[movable] - centres[small]) ** 2).sum(axis=1)
        label[movable[int((new - own).argmin())]] = small


def _spread(columns: Float64, label: NDArray[np.int64], number: int) -> float:
    """The sum of squared distances of columns from the mean of their group."""
    of_each = [columns[label == k] for k in range(number)]
    return float(sum(((each - each.mean(axis=0)) ** 2).sum() for each in of_each))
