"""Terms on hidden states: their cosine (Sanh et al. 2019) and their squared distance (Romero et al. 2015).

Where student and teacher have different widths, a learned linear projection takes the student's states to the teacher's
width (FitNets, Romero et al. 2015). It belongs to the objective and not to the student.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn
from torch.nn import functional

from workers.errors import RequestError
from workers.losses.layers import Pairs, example_means, pairs
from workers.losses.term import Batch, Outputs, Sum, Term
from workers.signals import Signal


class HiddenStates(Term):
    """The distance of hidden states [B, L, D], a mean over each example's elements and over the pairs of layers.

    Layer 0 is the output of the embeddings. Raises: `RequestError` for layers that do not exist.
    """

    needs = frozenset({Signal.HIDDEN_STATES})
    name = ""

    def __init__(self, layers: Pairs = "last", project: bool = False) -> None:
        """project: learn a projection even where both have one width."""
        self.layers, self.project = layers, project
        self.found: list[tuple[int, int]] = []

    def prepare(self, student: Outputs, teacher: Outputs) -> None:
        self.found = pairs(self.layers, len(student.hidden_states), len(teacher.hidden_states), self.name)
        made = nn.ModuleDict()
        for number, (own, other) in enumerate(self.found):
            one, another = student.hidden_states[own], teacher.hidden_states[other]
            if one.shape[:-1] != another.shape[:-1]:
                raise RequestError(
                    f"distillation.objective: the term '{self.name}' compares hidden states {list(one.shape)} of the "
                    f"student with {list(another.shape)} of the teacher. Expected one state for each element in both."
                )
            if student.mask is not None and one.ndim > 2 and one.shape[:2] != student.mask.shape:
                raise RequestError(
                    f"distillation.objective: the term '{self.name}' compares hidden states {list(one.shape)}, and the "
                    f"examples have {student.mask.shape[1]} elements. Expected one state for each element or example."
                )
            if self.project or one.shape[-1] != another.shape[-1]:
                made[str(number)] = nn.Linear(one.shape[-1], another.shape[-1], device=one.device)
        self.module = made if len(made) else None
        self.wanted = {"hidden_states": {other for _, other in self.found}}

    def __call__(self, outputs: Outputs, batch: Batch) -> Sum:
        total = outputs.logits.new_zeros(())
        for number, (own, other) in enumerate(self.found):
            states = outputs.hidden_states[own]
            if isinstance(self.module, nn.ModuleDict) and str(number) in self.module:
                states = self.module[str(number)](states)
            distances = self.distance(states, batch.teacher.hidden_states[other])
            total = total + example_means(distances, outputs.mask).sum()
        return total / max(len(self.found), 1), batch.examples

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """[B, L] of states [B, L, D]."""


class HiddenCosine(HiddenStates):
    """1 - cos(h, g) of the student's state h and the teacher's g: 0 where they have one direction. DistilBERT."""

    name = "hidden_cosine"

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return 1.0 - functional.cosine_similarity(student, teacher, dim=-1)


class HiddenMSE(HiddenStates):
    """|h - g|^2 / D of the student's state h and the teacher's g."""

    name = "hidden_mse"

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean(-1)
