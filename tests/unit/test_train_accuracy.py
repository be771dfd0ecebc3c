"""Accuracy on what a network learns from, by epoch: of the steps' own outputs, and in every form of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.reporting import charts, markdown, plots, sections, tables
from orchestrator.reporting.report import EpochFigures
from orchestrator.stages import appendix
from tests.makers import blobs, in_memory
from tests.reports import full, plain
from workers.data.dataset import Split
from workers.losses import Batch, Outputs
from workers.specs.objective import DistillationSpec
from workers.specs.training import TrainingSpec
from workers.training import loader, loop, objective
from workers.training.loader import HardLabels
from workers.training.loop import HARD_LABELS, Epoch, Progress, Task
from workers.training.schedules import Moment
from workers.training.tally import Tally

STILL = TrainingSpec(epochs=2, batch_size=64, learning_rate=1e-12, optimizer="sgd")
SOFT = DistillationSpec(temperature=2.0, soft_weight=1.0, hard_weight=0.0)
CPU = torch.device("cpu")


def given(labelled: float = 1.0) -> Split:
    x, y = blobs(500, 1)
    return Split(x, np.where(np.arange(500) < 500 * labelled, y, -1))


def trained(split: Split, spec: TrainingSpec = STILL, *, soft: bool = False) -> Progress:
    torch.manual_seed(0)
    progress = loop.begin(nn.Linear(8, 3), spec, len(split))
    targets = np.full((500, 3), 1 / 3, np.float32)
    source: Any = in_memory(split, targets) if soft else HardLabels(split)
    task = Task(source, Split(*blobs(200, 2)), SOFT if soft else HARD_LABELS)
    for _ in loop.epochs(progress, task, spec, seed=0):
        pass
    return progress


def right(progress: Progress, split: Split) -> float:
    """The share of the labelled examples that the network gets right."""
    with torch.no_grad():
        predicted = progress.model(torch.from_numpy(split.x)).argmax(-1).numpy()
    return float((predicted == split.y)[split.y >= 0].mean())


@pytest.mark.parametrize(("soft", "labelled", "pieces"), [(False, 1.0, None), (True, 1.0, 20), (True, 0.3, None)])
def test_of_a_network_that_stands_still_it_is_the_accuracy(soft: bool, labelled: float, pieces: int | None) -> None:
    split, spec = given(labelled), STILL.model_copy(update={"micro_batch_size": pieces})
    progress = trained(split, spec, soft=soft)
    assert [epoch.train_accuracy for epoch in progress.history] == [right(progress, split)] * 2
    assert 0 < right(progress, split) < 1


def test_soft_targets_alone_have_none() -> None:
    assert [epoch.train_accuracy for epoch in trained(given(0.0), soft=True).history] == [None, None]


def test_it_changes_no_bit_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = STILL.model_copy(update={"learning_rate": 0.05, "epochs": 3})
    with_it = trained(given(), spec)
    monkeypatch.setattr(objective, "_correct", lambda logits, labels: None)
    without = trained(given(), spec)
    assert torch.equal(with_it.model.weight, without.model.weight)
    assert [e.train_loss for e in with_it.history] == [e.train_loss for e in without.history]
    assert with_it.history[-1].train_accuracy > with_it.history[0].train_accuracy


@pytest.mark.parametrize("world", [1, 2, 3])
def test_training_accuracy_adds_up_over_workers(world: int) -> None:
    split, goal = given(0.5), objective.build(HARD_LABELS)
    torch.manual_seed(0)
    model = nn.Linear(8, 3)

    def tally_of(rank: int) -> Tally:
        tally, at = Tally(goal, CPU), goal.at(Moment(0, 1, 0, 1))
        for batch in loader.batches(HardLabels(split), 0, 64, 0, CPU, rank=rank, world=world):
            tally.add(at, [at.loss(Outputs(model(batch.x)), batch).detached()], batch)
        return tally

    tallies = [tally_of(rank) for rank in range(world)]
    means = tallies[0].means(sum(tally.sums() for tally in tallies).tolist())
    progress = loop.begin(model, STILL, 500)
    assert means.accuracy == right(progress, split)


def test_it_is_of_positions() -> None:
    """Five elements of two examples, one without a label."""
    at = objective.build(HARD_LABELS).at(Moment(0, 1, 0, 1))
    logits = torch.eye(4)[[0, 1, 2, 3, 0]]
    batch = Batch(torch.tensor([0, 1, -1, 0, 0]), None, 5, 4, examples=2)
    correct = at.loss(Outputs(logits), batch).correct
    assert correct is not None and correct.item() == 3
    assert at.loss(Outputs(logits), replace(batch, labels=torch.full((5,), -1), labelled_rows=0)).correct is None


def test_histories_of_earlier_versions_are_read() -> None:
    progress = trained(given())
    state = progress.state()
    state["history"] = [{k: v for k, v in each.items() if k != "train_accuracy"} for each in state["history"]]
    again = loop.begin(nn.Linear(8, 3), STILL, 500)
    again.restore(state)
    assert [epoch.train_accuracy for epoch in again.history] == [None, None]
    (first, _) = appendix._epochs(again.history)
    assert first == EpochFigures(
        epoch=1, train_loss=progress.history[0].train_loss, validation_accuracy=again.history[0].validation_accuracy
    )
    assert appendix._epochs(progress.history)[1].train_accuracy == progress.history[1].train_accuracy


def history(*learned: float | None) -> list[dict[str, Any]]:
    return [
        {"epoch": k, "train_loss": 0.5, "validation_accuracy": 0.9 - k / 100, "train_accuracy": value}
        for k, value in enumerate(learned, 1)
    ]


def test_both_curves_are_drawn() -> None:
    report = full(training={"baseline": history(0.5, 0.75, 0.99), "student": history(None, None, None)})
    accuracy, _ = charts.training(report)
    assert "dashed: on the labelled examples that it learns from" in accuracy.title
    assert accuracy.svg.count("line dashed baseline") == 1 and "line dashed student" not in accuracy.svg
    assert "baseline on what it learns from: 99% after epoch 3" in accuracy.description
    section = sections.training(report)
    assert section is not None and [each.kind for each in section.blocks] == ["row", "table"]
    assert tables.training(report)[1:] == [["baseline", "3", "99.00%", "87.00%", "89.00% (epoch 1)"]]
    assert "| baseline | 3 | 99.00% | 87.00% | 89.00% (epoch 1) |" in markdown.markdown(report)


def test_reports_without_it_are_as_they_were() -> None:
    assert tables.training(full()) == tables.training(plain()) == []
    accuracy, _ = charts.training(full())
    assert accuracy.title == "Validation accuracy by epoch" and "dashed" not in accuracy.svg


def test_the_plot_of_mlflow_has_both() -> None:
    def of(learned: Sequence[float | None]) -> list[Epoch]:
        return [
            Epoch(epoch=k, train_loss=0.5, validation_accuracy=0.8, validation_nll=1.0, seconds=1.0, examples=9,
                  train_accuracy=value)
            for k, value in enumerate(learned)
        ]  # fmt: skip

    _, (validation, loss) = plots._subplots(2)
    plots.training_curves(validation, loss, full(), {"baseline": of([0.5, 0.9]), "student": of([None, None])})
    drawn = {line.get_label(): line.get_ydata() for line in validation.lines}
    assert list(drawn) == ["baseline", "baseline, on what it learns from", "student"]
    np.testing.assert_array_equal(drawn["baseline, on what it learns from"], [0.5, 0.9])
