"""Accumulates an epoch's losses, the total and each term, and correct answers: sums that can be added over workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from workers.training.loader import Batch
from workers.training.objective import AtStep, Loss, Objective


class Means(NamedTuple):
    """An epoch over all workers. loss: the mean of a step. terms: with several terms the mean of each, unweighted, over
    the steps in which its weight was above 0. accuracy: over the rows with a label, each as the step that learned from
    it had it; None without any."""

    loss: float
    terms: dict[str, float]
    accuracy: float | None


class Tally:
    """The losses of an epoch on one worker: batch means, summed over the steps."""

    def __init__(self, objective: Objective, device: torch.device) -> None:
        self.labels = [each.label for each in objective.terms]
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.of_terms = [torch.zeros_like(self.total) for _ in self.labels]
        self.floors = [0.0] * (1 + len(self.labels))
        """For the total and each term, the teachers' entropy: the lower bound of a cross entropy."""
        self.steps, self.counted = 0, [0] * len(self.labels)
        self.correct, self.labelled_rows = torch.zeros_like(self.total), 0

    def add(self, at: AtStep, losses: Sequence[Loss], batch: Batch) -> None:
        """Add a step. losses: of the pieces of this worker's cut of the batch."""
        entropy, rows = batch.entropy, batch.rows
        for loss in losses:
            self.total += loss.total
            if loss.correct is not None:
                self.correct += loss.correct
            if len(self.labels) > 1:  # a single term is the total
                for number, value, count in loss.of_terms:
                    self.of_terms[number].add_(value, alpha=1.0 / max(count, 1))
        for number, term, weight in at.terms:
            times = term.entropy_weight(at.temperature)
            self.floors[0] += weight * times * entropy / rows
            self.floors[1 + number] += times * entropy / rows
            self.counted[number] += 1
        self.labelled_rows += batch.labelled_rows
        self.steps += 1

    def sums(self) -> Tensor:
        """[2 + terms] float64: correct answers, then the total and each term, less the teachers' entropy; the caller
        adds over workers."""
        found = torch.stack([self.correct, self.total, *self.of_terms])
        return found - torch.tensor([0.0, *self.floors], dtype=torch.float64, device=found.device)

    def means(self, sums: Sequence[float]) -> Means:
        """The means of the epoch. sums: over all workers."""
        correct, total, *of_terms = sums
        found = zip(self.labels, of_terms, self.counted, strict=True)
        several = {label: value / counted for label, value, counted in found if counted}
        accuracy = correct / self.labelled_rows if self.labelled_rows else None
        return Means(total / self.steps, several if len(self.labels) > 1 else {}, accuracy)
