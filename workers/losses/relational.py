"""The terms on relations between the examples of a batch: relational distillation (RKD), Park et al. 2019."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from workers.losses.hidden_states import HiddenStates
from workers.losses.term import Batch, Outputs, Sum

EPSILON = 1e-8


class Relational(HiddenStates):
    """The Huber distance of relations between examples, of student and teacher; a mean over all relations.

    An example is the mean of its state over elements or places, a vector. Relations are between all examples of a
    batch, so a batch is computed at once, by one worker.
    """

    same_width = False
    whole_batch = True

    def distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        raise NotImplementedError("relations are of several examples, not of one")

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        total = outputs.logits.new_zeros(())
        for own, other in self.found:
            states = outputs.hidden_states[own], batch.teacher.hidden_states[other]
            vectors, others = (_vectors(each, outputs.mask) for each in states)
            if len(vectors) == 1:  # the last batch of an epoch may have one example, which has no relation
                total = total + 0.0 * vectors.sum()
                continue
            with torch.no_grad():
                wanted = self.relations(others)
            total = total + batch.examples * functional.smooth_l1_loss(self.relations(vectors), wanted)
        return total / max(len(self.found), 1), batch.examples

    def relations(self, vectors: Tensor) -> Tensor:
        """Of vectors [B, D]."""
        raise NotImplementedError


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
        """[B, B, B]: of example i the cosine between the directions to j and k."""
        towards = functional.normalize(vectors[None] - vectors[:, None], dim=2)
        return towards @ towards.transpose(1, 2)


def _vectors(state: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of each example's elements, [B, D], without padding."""
    if state.ndim == 4:
        return state.mean((2, 3))
    if state.ndim == 2:
        return state
    if mask is None or state.shape[:2] != mask.shape:
        return state.flatten(1, -2).mean(1)
    kept = mask.to(state.dtype).unsqueeze(-1)
    return (state * kept).sum(1) / kept.sum(1).clamp_min(1.0)
