"""What a report has beside its figures: the curves of training, thinned out."""

from __future__ import annotations

import pytest

from orchestrator.stages import appendix
from workers.training.loop import Epoch


def history(count: int, best: int) -> list[Epoch]:
    accuracies = [0.9 if k == best else 0.5 for k in range(count)]
    same = {"train_loss": 1.0, "validation_nll": 1.0, "seconds": 1.0, "examples": 9}
    return [Epoch(epoch=k, validation_accuracy=each, **same) for k, each in enumerate(accuracies)]


@pytest.mark.parametrize(("count", "best"), [(1, 0), (200, 7), (201, 0), (401, 399), (1000, 2)])
def test_many_epochs_are_thinned_out_but_not_the_best_and_the_last(count: int, best: int) -> None:
    found = appendix._epochs(history(count, best))
    epochs = [each.epoch for each in found]
    assert epochs == sorted(set(epochs)) and len(epochs) <= appendix.MOST_EPOCHS + 2
    assert epochs[-1] == count
    assert [each.epoch for each in found if each.validation_accuracy == 0.9] == [best + 1]


def test_a_model_without_epochs_has_no_curve() -> None:
    assert appendix._epochs([]) == []
