"""Accumulates an epoch's losses: the total and each term, as sums that can be added over workers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.training.objective import AtStep, Loss, Objective


class Tally:
    """The losses of an epoch on one worker: batch means, summed over the steps."""

    def __init__(self, objective: Objective, device: torch.device) -> None:
        self.labels = [each.label for each in objective.terms]
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.of_terms = [torch.zeros_like(self.total) for _ in self.labels]
        self.floors = [0.0] * (1 + len(self.labels))
        """For the total and each term, the teachers' entropy: the lower bound of a cross entropy."""
        self.steps, self.counted = 0, [0] * len(self.labels)

    def add(self, at: AtStep, losses: Sequence[Loss], entropy: float, rows: int) -> None:
        """Add a step.

        losses: of the pieces of this worker's cut. entropy: in nats, summed over the cut's targets. rows: of the whole
        batch, over all workers.
        """
        for loss in losses:
            self.total += loss.total
            if len(self.labels) > 1:  # a single term is the total
                for number, value, count in loss.of_terms:
                    self.of_terms[number].add_(value, alpha=1.0 / max(count, 1))
        for number, term, weight in at.terms:
            times = term.entropy_weight(at.temperature)
            self.floors[0] += weight * times * entropy / rows
            self.floors[1 + number] += times * entropy / rows
            self.counted[number] += 1
        self.steps += 1

    def sums(self) -> Tensor:
        """[1 + terms] float64: the total and each term, less the teachers' entropy; the caller adds over workers."""
        found = torch.stack([self.total, *self.of_terms])
        return found - torch.tensor(self.floors, dtype=torch.float64, device=found.device)

    def means(self, sums: Sequence[float]) -> tuple[float, dict[str, float]]:
        """The mean loss of a step, and with several terms the mean of each.

        The mean of a term is unweighted, over the steps in which its weight was above 0. sums: over all workers.
        """
        total, *of_terms = sums
        found = zip(self.labels, of_terms, self.counted, strict=True)
        several = {label: value / counted for label, value, counted in found if counted}
        return total / self.steps, several if len(self.labels) > 1 else {}
