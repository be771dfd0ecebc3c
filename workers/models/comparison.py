"""Compares the outputs of two models with the same weights, and explains a difference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.errors import first_few
from workers.models.lost_state import differing_state
from workers.models.predictor import Predictor

SAME = 1e-4
"""Tolerance for logits of the same rows and weights, relative to the largest: kernels add in different orders."""
ALONE = 1e-2
"""Tolerance between a row alone and in a batch, since the batch size selects the kernel."""
NOTHING = 1e-7
"""Added to the largest logit, to avoid a division by 0."""
SHOWN = 3
"""Names that a message shows of a list."""


def lost(one: Predictor, loaded: Predictor) -> str:
    """Describe the state of a model that `loaded` lacks, although it has the weights, and the fix."""
    if one.module is None or loaded.module is None:
        return "Expected `load` to read all that the answers follow from."
    found = differing_state(one.module, loaded.module)
    kinds = f": {some(found)}" if found else " (plain attributes, buffers with persistent=False, globals)"
    return (
        f"It has state outside its state_dict, which is not saved and is made again from another seed{kinds}. Keep it "
        "with self.register_buffer(name, tensor), or compute it without random numbers."
    )


def apart(one: Tensor, other: Tensor) -> float:
    """The largest difference of logits [B, K], relative to the largest logit; NaN where one of them holds NaN."""
    if not one.numel():
        return 0.0
    one, other = one.double(), other.double()
    return float((one - other).abs().amax() / (one.abs().amax() + NOTHING))


def finite(values: Tensor) -> Tensor:
    """[N] bool: which rows are finite throughout."""
    found: Tensor = torch.atleast_1d(torch.isfinite(values))
    return found.flatten(1).all(dim=1) if found.dim() > 1 else found


def some(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    return first_few(names, SHOWN, "'{}'".format)
