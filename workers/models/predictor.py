"""What a member or a student is once it is trained: inputs -> outputs, whatever computes them.

`KINDS` names the class of each kind of model, which is a file of its own. Nothing else asks of which kind a model is:
a teacher, an evaluation and a trial call `load`, and then the predictor. What only a torch module can do (be packed,
stacked, lent to a device) is done where `Predictor.module` is one.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers.data.collate import Collator
from workers.data.collate import Inputs as Inputs
from workers.errors import RequestError
from workers.models.outputs import Outputs as Outputs
from workers.specs import AnyModel, Precision
from workers.user_code import factories

KINDS = {
    "python": "workers.models.torch_module:TorchPredictor",
    "onnx": "workers.models.onnx:OnnxPredictor",
    "sklearn": "workers.models.sklearn:SklearnPredictor",
}
"""The class of each kind, imported when a model of it is loaded."""
FLOOR = 2.0**-24
"""Smallest probability of a model that answers with probabilities: half a step of float32 just below 1. A smaller one,
such as the exact 0 of a forest, counts as this much, so that its logarithm is finite."""


class Predictor(ABC):
    """A trained model that answers. The answer for a row follows from that row alone."""

    module: nn.Module | None = None
    """The torch module that computes, where one does."""

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return 0

    @classmethod
    @abstractmethod
    def load(cls, model: Any, weights: str) -> Self:
        """The trained model that `model` describes. weights: URI of the file with what it learned.

        Raises: `RequestError` where the file is missing, damaged, or of another model. No code of the file is run.
        """

    @abstractmethod
    def __call__(self, x: Inputs, precision: Precision = "float32") -> Outputs:
        """Answer a batch of B examples on the predictor's device: one dense column is a tensor [B, ...] float32 or
        int64, others come as `NamedInputs`. Callers turn gradients off.

        precision: of matrix products, where the kind has a choice.
        """

    @classmethod
    def settled(cls, model: Any, weights: str, x: Inputs) -> tuple[Any, tuple[str, ...]]:
        """`model` with what it leaves open decided on some real examples, and notes for the user.

        x: [B, ...] as models take it.
        """
        return model, ()

    @classmethod
    def collator(cls, model: Any) -> Collator:
        """What makes the batches that `model` takes. Models whose collators are equal share them."""
        return Collator(model.inputs)

    @classmethod
    def made(cls, model: Any) -> Any:
        """What the model's code makes of it before anything is learned; looked at to know what it follows from."""
        return None

    def to(self, device: torch.device) -> Self:
        """Move what it computes with to a device. Returns itself."""
        return self

    def prepare(self, x: Inputs, device: torch.device, precision: Precision) -> bool:
        """Make ready for many batches like `x`, in main memory. Returns whether it computes in `precision`."""
        return True


@dataclass(frozen=True)
class Lessons:
    """What an estimator is fitted to, all of it in memory.

    x: [N, ...] float32 or int64. targets: [N, K] float32, a distribution over the classes for each row. weights: [N]
    float32 above 0, of each row, with a mean of 1. labels: [N] int64, where every target is one class; None where some
    are soft. seed: of all that is drawn.
    """

    x: NDArray[Any]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    seed: int

    @property
    def classes(self) -> int:
        return int(self.targets.shape[1])


class Fittable(Predictor):
    """A model that learns by one `fit`, in a process of its own."""

    @classmethod
    @abstractmethod
    def fit(cls, model: Any, lessons: Lessons, how: str) -> Self:
        """A new model, fitted. how: `FitSpec.fit`. Raises: `RequestError` where it cannot learn from these."""

    @abstractmethod
    def dump(self) -> bytes:
        """The content of the file that `load` reads."""

    def notes(self) -> tuple[str, ...]:
        """What the user should know of what was fitted."""
        return ()


def kind_of(model: AnyModel) -> type[Predictor]:
    """The class of a model's kind. Raises: `RequestError` where a class of the user's own is none."""
    if model.kind in KINDS:
        module, _, name = KINDS[model.kind].partition(":")
        found: Any = getattr(importlib.import_module(module), name)
    else:
        found = factories.load(model.kind, getattr(model, "folder", ""))
    if not (isinstance(found, type) and issubclass(found, Predictor)):
        raise RequestError(
            f"kind '{model.kind}' is {found!r}; expected a subclass of workers.models.predictor.Predictor."
        )
    return found


def collator(model: AnyModel) -> Collator:
    """What makes the batches that the model takes."""
    return kind_of(model).collator(model)


def load(model: AnyModel, weights: str) -> Predictor:
    """A trained model. Raises: as `Predictor.load`."""
    return kind_of(model).load(model, weights)


def fittable(model: AnyModel) -> type[Fittable]:
    """The class of a model that is fitted. Raises: `RequestError` where its kind cannot be."""
    found = kind_of(model)
    if not issubclass(found, Fittable):
        raise RequestError(
            f"the model {model.label} of kind '{model.kind}' is to be trained, and {found.__name__} has no `fit`. "
            "Expected a subclass of workers.models.predictor.Fittable, or a `path` that it is loaded from."
        )
    return found


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logits from probabilities [B, K]: at least `FLOOR` each, scaled to sum to 1, their logarithms in float32."""
    kept = probabilities.clamp_min(FLOOR)
    return (kept / kept.sum(dim=-1, keepdim=True)).log().float()


def dense(x: Inputs, kind: str) -> Tensor:
    """The batch of a model that takes one dense column. Raises: `RequestError` where it is none."""
    if isinstance(x, Tensor):
        return x
    raise RequestError(
        f"{kind} takes one dense column, and is given {', '.join(x.columns)}. Expected one in `inputs`, which names "
        "the columns that a model takes, and one label an example."
    )


def missing(package: str, extra: str, kind: str) -> RequestError:
    """The error where the package that a kind needs is not installed."""
    return RequestError(
        f"a model of kind '{kind}' needs the package {package}, which is not installed on this machine. Install it by "
        f"`pip install 'stillhouse[{extra}]'`, on every node."
    )
