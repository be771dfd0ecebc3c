"""Checks that saved weights reproduce the trained network, in the training process and in another one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from workers import storage
from workers.data.arrays import spread
from workers.data.examples import Examples
from workers.errors import RunError
from workers.inference.teacher import Member, load
from workers.models import checkpoints, predictor
from workers.models.comparison import ALONE, SAME, apart, lost
from workers.models.predictor import Inputs, Predictor
from workers.models.torch_module import TorchPredictor
from workers.seeds import seeded

KEPT_ROWS = 32
"""Validation rows for the comparison."""
SAME_ON_GPU = 1e-2
"""`SAME` for a GPU, where kernels may add in another order each time and products are less precise."""
ANSWERS, LOGITS = "answers.pt", "logits"
"""File beside the weights with their outputs in the training process, until another process has compared them."""


def check_network(module: nn.Module, kept: Mapping[str, Tensor], member: Member, x: Examples) -> None:
    """`check_saved` of a trained network. kept: the saved state dict, which is loaded into `module`."""
    module.load_state_dict(kept)
    check_saved(TorchPredictor(module.eval()), member, x, next(module.parameters()).device)


def check_saved(trained: Predictor, member: Member, x: Examples, device: torch.device) -> None:
    """Load `member` as all later stages do, and compare its outputs with those of the trained model.

    x: rows to compare on. The outputs stay beside the weights for `check_elsewhere`.
    Raises: `RunError` where the outputs differ.
    """
    with seeded(0), torch.no_grad():
        loaded, batch = load(member).to(device), _compared(member, x, device)
        answers = trained(batch).logits
        by = apart(answers, loaded(batch).logits)
    if not by <= (SAME_ON_GPU if device.type == "cuda" else SAME):
        raise RunError(
            f"{member.name} answers differently once its weights are saved and loaded, by {by:.2g} of its largest "
            f"logit on {len(batch)} validation examples. {lost(trained, loaded)} Train it again afterwards."
        )
    checkpoints.save_state({LOGITS: answers.float().cpu()}, storage.join(storage.parent(member.weights), ANSWERS))


def check_elsewhere(member: Member, x: Examples) -> None:
    """Compare the outputs of saved weights in this process with those in the training process.

    x: the rows of `check_network`. Raises: `RunError` where the network depends on the process that builds it.
    """
    uri = storage.join(storage.parent(member.weights), ANSWERS)
    there = checkpoints.load_state(uri)
    if there is None:
        return
    with seeded(0), torch.no_grad():
        logits = there[LOGITS]
        by = apart(logits, load(member)(_compared(member, x, logits.device)).logits)
    storage.remove(uri)
    if not by <= ALONE:
        raise RunError(
            f"{member.name} answers differently in another process, with the same weights, by {by:.2g} of its largest "
            f"logit on {min(KEPT_ROWS, len(x))} validation examples. Its factory or forward pass follows from the "
            "process: the order of a set, hash(), a process id, the time or an environment variable. Use sorted(...) "
            "and constants instead, and train it again."
        )


def _compared(member: Member, x: Examples, device: torch.device) -> Inputs:
    """The examples of the comparison, as the model's collator builds them."""
    return predictor.collator(member.model)(x, spread(len(x), KEPT_ROWS)).to(device)
