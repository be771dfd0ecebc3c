"""Trial of the objective before a run: its schedules over the whole training, its terms on synthetic rows.

A term returns a sum over rows and the count of the whole batch. So the values of two half batches add up to the value
of the batch. They do not for a term that divides by its own count; such a term gives two workers another student. Terms
that relate the examples of a batch to each other are not tried on halves, since their batches are never cut.
"""

from __future__ import annotations

import math

import torch

from workers.errors import RequestError
from workers.losses import UNLABELLED, Batch, Outputs
from workers.losses.term import Sum, share
from workers.signals import BESIDE
from workers.specs.objective import DistillationSpec
from workers.specs.training import TrainingSpec
from workers.targets import kinds
from workers.training import objective
from workers.training.objective import OBJECTIVE, AtStep, Weighted
from workers.training.schedules import Moment
from workers.user_code import calls

ROWS = 6
MOMENTS = 1000
"""About how many steps the trial evaluates schedules at."""
SAME = 1e-3
"""Largest difference between the sum of both halves and the whole, relative to the larger of the whole and 1."""


def check(spec: DistillationSpec, training: TrainingSpec, steps: int, classes: int) -> None:
    """Try every term, and every schedule at steps of the whole training. steps: per epoch.

    Raises: `RequestError` for a term that raises, or returns anything but a finite sum and its count; for a schedule
    that leaves its range; where no term has a weight above 0 at any step.
    """
    goal = objective.build(spec)
    every = steps * training.epochs
    tried = [*range(0, every, max(1, every // MOMENTS)), every - 1]
    at_steps = [goal.at(Moment(k // steps, training.epochs, k % steps, steps)) for k in tried]
    if not any(at.terms for at in at_steps):
        raise RequestError(f"{OBJECTIVE}: no term has a weight above 0 at any step; expected at least one that has.")
    batch = _made_up(at_steps[0], spec, classes)
    for each in goal.terms:
        if not each.term.needs & BESIDE:  # the others are tried in a step of the student's training
            _check_term(each, batch, classes)


def _check_term(each: Weighted, batch: Batch, classes: int) -> None:
    logits = torch.randn(ROWS, classes).requires_grad_()
    value = share(_called(each, logits, batch), 1.0)
    if not value.requires_grad:
        raise RequestError(
            f"{OBJECTIVE}: the term '{each.label}' has no gradient by the student's logits. Expected a sum that "
            "follows from `outputs`: no detach(), no .item() and no numpy."
        )
    whole = value.item()
    if not math.isfinite(whole):
        raise RequestError(
            f"{OBJECTIVE}: the term '{each.label}' is {whole} on synthetic logits of ordinary size; expected a finite "
            "number. Guard logarithms and divisions in it."
        )
    if each.term.whole_batch:  # its batches are never cut, which `preflight` checks
        return
    halves = (slice(ROWS // 2), slice(ROWS // 2, ROWS))
    cut = sum(share(_called(each, logits[rows], _cut(batch, rows)), 1.0).item() for rows in halves)
    if not abs(cut - whole) <= SAME * max(1.0, abs(cut), abs(whole)):
        raise RequestError(
            f"{OBJECTIVE}: the term '{each.label}' is {whole:.4g} on a batch, and {cut:.4g} on its two halves "
            "together. Expected the sum over the rows, and as the count `batch.rows` or `batch.labelled_rows`, which "
            "are those of the whole batch."
        )


def _called(each: Weighted, logits: torch.Tensor, batch: Batch) -> Sum:
    called = f". It was called with logits {list(logits.shape)} and a batch of as many rows."
    with calls.checked(f"{OBJECTIVE}: the term '{each.label}' raised", called):
        returned = each.term(Outputs(logits), batch)
    if not isinstance(returned, tuple) or len(returned) != 2 or getattr(returned[0], "shape", None) != ():
        raise RequestError(
            f"{OBJECTIVE}: the term '{each.label}' returned {_told(returned)}; expected a sum, a tensor of shape [], "
            "and a count, `batch.rows` or `batch.labelled_rows`."
        )
    return returned


def _told(returned: object) -> str:
    shape = getattr(returned, "shape", None)
    return type(returned).__name__ + (f" of shape {list(shape)}" if isinstance(shape, tuple) else "")


def _made_up(at: AtStep, spec: DistillationSpec, classes: int) -> Batch:
    """Synthetic rows, one of them without a label."""
    labels = torch.arange(ROWS) % classes
    labels[1] = UNLABELLED
    soft = torch.softmax(torch.randn(ROWS, classes), dim=-1)
    targets = kinds.of_mean(soft, spec.dtype, spec.top_k, at.temperature)
    return Batch(labels, targets, ROWS, ROWS - 1)


def _cut(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.labels[rows], batch.soft.rows(rows), batch.rows, batch.labelled_rows)
