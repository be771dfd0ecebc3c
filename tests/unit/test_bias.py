"""The bias of some classes: found where these are predicted as often as they occur, and added to their logits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax

from workers.errors import RequestError
from workers.evaluation import bias

CLASSES = np.array([3])


def drawn(rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """True logits [N, 5] and labels drawn from them."""
    draw = np.random.default_rng(0)
    logits = 2.0 * draw.standard_normal((rows, 5))
    p = np.exp(log_softmax(logits, axis=1))
    return logits, (p.cumsum(axis=1) > draw.random((rows, 1))).argmax(axis=1)


@pytest.mark.parametrize("classes", [[3], [0, 4]])
@pytest.mark.parametrize("missing", [3.5, -2.0, 0.0])
def test_a_bias_that_was_taken_away_is_found_again(classes: list[int], missing: float) -> None:
    logits, labels = drawn()
    chosen = np.array(classes)
    wrong = logits.copy()
    wrong[:, chosen] -= missing
    given = log_softmax(wrong, axis=1).astype(np.float32)
    found = bias.fitted(given, labels, chosen)
    assert found == pytest.approx(missing, abs=0.15)
    repaired = bias.corrected(given, chosen, missing)
    assert np.allclose(repaired, log_softmax(logits, axis=1), atol=1e-5)
    share = np.exp(bias.corrected(given, chosen, found))[:, chosen].sum(axis=1).mean()
    assert share == pytest.approx(np.isin(labels, chosen).mean(), abs=1e-5)

    def likelihood(of: float) -> float:
        return float(bias.corrected(given, chosen, of)[np.arange(len(labels)), labels].mean())

    assert likelihood(found) > max(likelihood(found - 0.1), likelihood(found + 0.1))


def test_examples_without_a_label_do_not_count() -> None:
    logits, labels = drawn(500)
    given = log_softmax(logits - 2.0 * np.eye(5)[3], axis=1).astype(np.float32)
    more = np.concatenate([given, given[:100]]), np.concatenate([labels, np.full(100, -1)])
    assert bias.fitted(*more, CLASSES) == bias.fitted(given, labels, CLASSES)


def test_a_class_without_probability_gets_the_largest_bias() -> None:
    given = np.full((10, 5), -np.inf, np.float32)
    given[:, 0] = 0.0
    assert bias.fitted(given, np.array([3, 0] * 5), CLASSES) == bias.MOST


def test_labels_of_these_classes_alone_say_nothing() -> None:
    for labels, share in ((np.full(10, 3), "100%"), (np.array([0, -1, 1]), "0%")):
        with pytest.raises(RequestError, match=f"{share} of the training labels"):
            bias.check(labels, [3])
    bias.check(np.array([0, 3]), [3])
