"""A bias for some classes' logits, so that a network predicts them as often as they occur.

A student whose transfer set left classes out, or held few others, knows them better than it predicts them: its biases
are those of what it saw. One common bias, found on examples with labels, repairs most of it (Hinton, Vinyals and Dean
2015, section 3). It is the maximum of the likelihood, where these classes' mean probability is their share of labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.data.arrays import Float64, Index
from workers.errors import RequestError

MOST = 100.0
"""The largest bias, far beyond what a network of float32 can need."""


def check(labels: Index, classes: Sequence[int]) -> None:
    """Raise `RequestError` unless there are labels [P] both of these classes and of others; -1 is no label."""
    share = float(np.isin(labels[labels >= 0], classes).mean())
    if not 0.0 < share < 1.0:
        raise RequestError(
            f"evaluation.corrected_classes: {share:.0%} of the training labels are of these classes, which says "
            "nothing of a bias. Expected labels both of these classes and of others."
        )


def fitted(log_probabilities: NDArray[np.float32], labels: Index, classes: Index) -> float:
    """The bias of the largest likelihood.

    log_probabilities: [P, K] at T = 1. labels: [P] class ids; -1, of no label, is left out. classes: ids of those that
    get the bias; some labels are of these, and some are not (`check`).
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    known = labels >= 0
    share = float(np.isin(labels[known], classes).mean())
    odds = _log_odds(log_probabilities[known].astype(np.float64), classes)

    def excess(bias: float) -> float:
        return float(expit(odds + bias).mean()) - share

    if excess(-MOST) > 0 or excess(MOST) < 0:  # certain of the wrong classes, whatever the bias
        return MOST if excess(MOST) < 0 else -MOST
    return float(brentq(excess, -MOST, MOST, xtol=1e-6))


def corrected(log_probabilities: NDArray[np.float32], classes: Index, bias: float) -> NDArray[np.float32]:
    """The log-probabilities [P, K] with the bias added to the logits of some classes."""
    moved = log_probabilities.astype(np.float64)
    moved[:, classes] += bias
    found: NDArray[np.float32] = (moved - np.logaddexp.reduce(moved, axis=1, keepdims=True)).astype(np.float32)
    return found


def _log_odds(log_p: Float64, classes: Index) -> Float64:
    """log p(any of these classes) - log p(any other), [P]."""
    others = np.setdiff1d(np.arange(log_p.shape[1]), classes)
    found: Float64 = np.logaddexp.reduce(log_p[:, classes], axis=1) - np.logaddexp.reduce(log_p[:, others], axis=1)
    return found
