"""The terms on relations between the examples of a batch: relational distillation (RKD), Park et al. 2019."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from workers.losses.hidden_states import Layers
from workers.losses.layers import elements

EPSILON = 1e-8
CLOSE = 1e-5
"""Share of the mean distance below which two examples are at one place: what is left is rounding."""


class Relational(Layers):
    """The Huber distance of relations between examples, of student and teacher; a mean over all relations.

    An example is the mean of its state over elements or places, a vector, of any width. Relations are between all
    examples of a batch, so a batch is computed at once, by one worker.
    """

    whole_batch = True

    def total(self, number: int, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        vectors, others = _vectors(student, mask), _vectors(teacher, mask)
        if len(vectors) == 1:  # the last batch of an epoch may have one example, which has no relation
            return 0.0 * vectors.sum()
        with torch.no_grad():
            wanted = self.relations(others)
        return len(vectors) * functional.smooth_l1_loss(self.relations(vectors), wanted)

    @abstractmethod
    def relations(self, vectors: Tensor) -> Tensor:
        """Of vectors [B, D]."""


class RelationalDistance(Relational):
    """Distances of pairs of examples over their mean in the batch (RKD-D)."""

    name = "relational_distance"

    def relations(self, vectors: Tensor) -> Tensor:
        """[B (B - 1) / 2]."""
        distances = functional.pdist(vectors)
        return distances / distances.mean().clamp_min(EPSILON)


class RelationalAngle(Relational):
    """Cosines of the angles at each example between two others (RKD-A)."""

    name = "relational_angle"

    def relations(self, vectors: Tensor) -> Tensor:
        """[B, B, B]: of example i the cosine between the directions to j and k; 0 where one of them is at its place."""
        apart = vectors[None] - vectors[:, None]
        lengths = apart.norm(dim=2, keepdim=True)
        without = lengths.detach() <= CLOSE * lengths.detach().mean()  # the gradient of a direction is 1 / length
        towards = apart / lengths.masked_fill(without, torch.inf)
        cosines: Tensor = towards @ towards.transpose(1, 2)
        return cosines


def _vectors(state: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each example's elements, [B, D], without padding."""
    each = elements(state)
    if mask is None or each.shape[:2] != mask.shape:
        return each.flatten(1, -2).mean(1)
    kept = mask.to(each.dtype).unsqueeze(-1)
    return (each * kept).sum(1) / kept.sum(1).clamp_min(1.0)
