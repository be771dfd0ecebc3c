"""Checks the teachers' outputs before a pass begins.

Each teacher has computed the same few examples twice at its start (`workers.inference.actor`). These checks compare the
outputs of all: the number of classes, finite values, and the order of classes against the labels and each other. For
one member per node, they also compare with the driver's own copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from workers.data.arrays import Index
from workers.data.collate import Inputs
from workers.errors import RunError
from workers.evaluation import class_order
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.models import outputs
from workers.targets.soft_targets import Numerics

Probabilities = NDArray[np.float32]

AGREEMENT, ROUGH_AGREEMENT = 1e-4, 0.25
"""Largest difference of one member's probabilities on two machines: with equal numerics, with a GPU or bfloat16."""
SAME_CODE = "Install the same code and versions on all nodes"
"""What to do where a member has other outputs on another node."""


def check(probes: Mapping[str, Probabilities], labels: Index, classes: int) -> tuple[str, ...]:
    """Check the `probes`, probabilities [n, K] of each member; returns notes for the user.

    labels: [n] of the examples, -1 for none. Raises: `RunError` where they are implausible.
    """
    for name, probe in probes.items():
        if probe.shape != (len(labels), classes):
            raise RunError(
                f"{name} returned outputs {list(probe.shape)}; expected {[len(labels), classes]}. Correct the model's "
                "last layer, or use the checkpoint of this task."
            )
        if not np.isfinite(probe).all():
            raise RunError(
                f"{name} returned NaN or infinity; expected finite probabilities. Replace its weights, or train it "
                "again."
            )
    known = labels >= 0
    mean = np.mean(list(probes.values()), axis=0)
    notes = [_check_order("the ensemble", mean[known], labels[known], "the labels say")]
    for name in probes if len(probes) >= 3 else ():
        others = np.mean([probe for other, probe in probes.items() if other != name], axis=0).argmax(axis=1)
        notes.append(_check_order(name, probes[name], others, "the others say"))
    return tuple(filter(None, notes))


def apart(one: Probabilities, other: Probabilities) -> float:
    """The largest difference of two answers [n, K] to the same examples; infinite where they differ in shape."""
    return float(np.abs(one - other).max()) if one.shape == other.shape else math.inf


def check_copy(probe: Probabilities, member: Member, x: Inputs, numerics: Numerics) -> None:
    """Raise `RunError` where a teacher's output for `x` differs from that of the driver's copy on its CPU."""
    with torch.no_grad():
        own = outputs.probabilities(teacher.load(member)(x).logits).numpy()
    off = apart(probe, own)
    alike = numerics.device == "cpu" and numerics.precision != "bfloat16"
    expected = AGREEMENT if alike else ROUGH_AGREEMENT
    if not off <= expected:
        raise RunError(
            f"{member.name} answers its teacher's process and the driver differently, by up to {off:.2g} (expected "
            f"{expected:g}). {SAME_CODE}, and remove from the model what depends on the process: set order, hash(), "
            "process id, time."
        )


def _check_order(of: str, probabilities: Probabilities, reference: Index, named: str) -> str:
    """A note where classes are permuted against `reference`, and the answers are not sure; empty without one.

    Raises: `RunError` where they are sure.
    """
    found = class_order.swapped(probabilities.argmax(axis=1), reference, class_order.confidence(probabilities))
    if found is None:
        return ""
    if not found.sure:
        return class_order.note(of, named, found)
    raise RunError(f"{of} seems to have its classes in another order: what {named} is {found.pairs}. {class_order.FIX}")
