"""Cross entropy with the labels, at T = 1: CE(y, softmax(z)). Its gradient does not depend on T, so it has no T^2."""

from __future__ import annotations

from torch.nn import functional

from workers.data.labels import UNLABELLED
from workers.losses.term import Batch, Outputs, Sum, Term
from workers.signals import Signal


class Hard(Term):
    """CE(y, softmax(z)) over the labelled rows; 0 where no row has a label."""

    needs = frozenset({Signal.LABELS})

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        loss = functional.cross_entropy(outputs.logits, batch.labels, ignore_index=UNLABELLED, reduction="sum")
        return loss, batch.labelled_rows
