"""Checks the output of a model: it has to be logits for each class, one row per position."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from workers.data.collate import Inputs, described, rows_of
from workers.errors import RequestError
from workers.models.ask import ask
from workers.models.predictor import Predictor
from workers.user_code import calls


def answers(predictor: Predictor, label: str, batch: Inputs, classes: int, role: str) -> Tensor:
    """Logits [P, `classes`] of `predictor` in evaluation mode; restores the module's mode afterwards.

    Raises: `RequestError` where the predictor raises or returns anything else.
    """
    failed = f"{role} model {label} failed on a batch of {described(batch)}:"
    with calls.checked(failed, ""), torch.no_grad(), _evaluated(predictor.module):
        returned = ask(predictor.module, batch) if predictor.module is not None else predictor(batch).logits
    return logits_of(returned, label, batch, classes, role=role)


@contextmanager
def _evaluated(module: nn.Module | None) -> Iterator[None]:
    """A module in evaluation mode for the length of the block."""
    was_training = module is not None and module.training
    if module is not None:
        module.eval()
    try:
        yield
    finally:
        if module is not None:
            module.train(was_training)


def logits_of(returned: object, label: str, batch: Inputs, classes: int, *, role: str, when: str = "") -> Tensor:
    """The output `returned` for `batch`. Raises: `RequestError` unless it is a tensor [P, `classes`].

    when: the model's mode, for the message.
    """
    expected = [rows_of(batch), classes]
    found: object = type(returned).__name__
    if isinstance(returned, Tensor):
        found = list(returned.shape)
        if found == expected and returned.layout == torch.strided and not returned.is_complex():
            return returned.as_subclass(Tensor)
        if found == expected:
            found = f"{returned.dtype} {found} ({returned.layout})"
    raise RequestError(
        f"{role} model {label} returned {found} for a batch of {len(batch)}{when}; expected logits "
        f"{expected}, one for each of the {classes} classes (of the labels in data.train, or `data.classes`), and "
        "nothing beside them. Change the model's last layer or what it returns, correct the label, or set "
        "`data.classes`."
    )
