"""Terms on hidden states: their cosine (Sanh et al. 2019) and their squared distance (Romero et al. 2015).

Where student and teacher have different widths, a learned linear projection takes the student's states to the teacher's
width (FitNets, Romero et al. 2015). It belongs to the objective and not to the student.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from workers.losses.layers import Pairs, aligned, example_means, pairs
from workers.losses.term import Batch, Outputs, Sum, Term, unfit
from workers.signals import Signal


class Layers(Term):
    """Compares layers of the student with layers of the teacher, pair by pair; a mean over the pairs.

    Layer 0 of a transformer is the output of its embeddings. Raises: `RequestError` for layers that do not exist.
    """

    needs = frozenset({Signal.HIDDEN_STATES})
    name: ClassVar[str] = ""
    """In the configuration."""

    def __init__(self, layers: Pairs = "last") -> None:
        self.layers = layers
        self.found: list[tuple[int, int]] = []

    def prepare(self, student: Outputs, teacher: Outputs) -> None:
        self.found = pairs(self.layers, len(student.hidden_states), len(teacher.hidden_states), self.name)
        self.wanted = {"hidden_states": {other for _, other in self.found}}

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        total = outputs.logits.new_zeros(())
        for number, (own, other) in enumerate(self.found):
            states = outputs.hidden_states[own], batch.teacher.hidden_states[other]
            total = total + self.total(number, *states, outputs.mask)
        return total / max(len(self.found), 1), batch.examples

    @abstractmethod
    def total(self, number: int, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The sum over the examples of two states as they are, a scalar. number: of the pair of layers."""


class Elements(Layers):
    """Compares the states of an example element by element: of a sequence [B, L, D], or of a map [B, C, H, W] or a
    volume [B, C, D, H, W], whose places are elements of width C."""

    version = 1  # in version 0 `hidden_cosine` and `hidden_mse` compared maps along their last axis
    least_elements = 1
    """Elements of an example, or places of its map, from which on the term says something."""

    def prepare(self, student: Outputs, teacher: Outputs) -> None:
        super().prepare(student, teacher)
        for own, other in self.found:
            given = student.hidden_states[own], teacher.hidden_states[other]
            one, another = aligned(*given)
            if one.shape[:-1] != another.shape[:-1]:
                raise unfit(
                    self.name,
                    f"compares hidden states {list(given[0].shape)} of the student with {list(given[1].shape)} of the "
                    "teacher. Expected one state for each element in both, or two maps [B, C, H, W].",
                )
            varies = student.mask is not None and given[0].ndim == 3  # L is that of the longest of these examples
            if one.shape[1] < self.least_elements and not varies:
                raise unfit(
                    self.name,
                    f"compares the elements of an example, and the student's layer {own} has a single state for each "
                    f"example, {list(given[0].shape)}. Expected a sequence [B, L, D] or a map [B, C, H, W].",
                )
            if student.mask is not None and given[0].ndim > 2 and one.shape[:2] != student.mask.shape:
                raise unfit(
                    self.name,
                    f"compares hidden states {list(given[0].shape)}, and the examples have {student.mask.shape[1]} "
                    "elements. Expected one state for each element or example.",
                )

    def total(self, number: int, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        return self.distance(*aligned(student, teacher), mask).sum()

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """[B] of states [B, L, D]. mask: [B, L], which elements are no padding; None: all."""


class Projected(Elements):
    """Compares states of one width, to which a learned projection takes the student's."""

    def __init__(self, layers: Pairs = "last", project: bool = False) -> None:
        """project: learn a projection even where both have one width."""
        super().__init__(layers)
        self.project = project

    def prepare(self, student: Outputs, teacher: Outputs) -> None:
        super().prepare(student, teacher)
        made = nn.ModuleDict()
        for number, (own, other) in enumerate(self.found):
            one, another = aligned(student.hidden_states[own], teacher.hidden_states[other])
            if self.project or one.shape[-1] != another.shape[-1]:
                made[str(number)] = nn.Linear(one.shape[-1], another.shape[-1], device=one.device)
        self.module = made if len(made) else None

    def total(self, number: int, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        states, wanted = aligned(student, teacher)
        if isinstance(self.module, nn.ModuleDict) and str(number) in self.module:
            states = self.module[str(number)](states)
        return self.distance(states, wanted, mask).sum()


class HiddenCosine(Projected):
    """1 - cos(h, g) of the student's state h and the teacher's g: 0 where they have one direction. DistilBERT.

    A state of length 0 has no direction: its cosine is 0, without a gradient, which would be of size 10^8.
    """

    name = "hidden_cosine"

    def distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        without = (student == 0).all(-1, keepdim=True)
        cosine = functional.cosine_similarity(student.masked_fill(without, 1.0), teacher, dim=-1)
        return example_means(1.0 - cosine.masked_fill(without.squeeze(-1), 0.0), mask)


class HiddenMSE(Projected):
    """|h - g|^2 / D of the student's state h and the teacher's g: the hints of FitNets."""

    name = "hidden_mse"

    def distance(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        return example_means((student - teacher).square().mean(-1), mask)
