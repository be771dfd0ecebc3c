"""A teacher: one or several trained members that answer with their weighted, softened probabilities.

Plain torch, for a GPU or none; `workers.teacher_actor` puts it behind Ray. Answers are sums of the hosted members'
contributions in fixed point (see `workers.ensemble`), so it does not matter which members share a teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import checkpoints, ensemble, evaluate, faults, models, provenance
from workers.errors import BadAnswer
from workers.inputs import MICRO_BATCH
from workers.packing import packed
from workers.precision import autocast, computed_in
from workers.specs import ModelSpec, Precision
from workers.stacking import Forward, one_by_one, stacked, worth_stacking

RESIDENT_BYTES = 2**28
"""Of inputs that lie on the device all at once, for each member in turn; more go there by the micro-batch."""


@dataclass(frozen=True)
class Member:
    """One trained network: `weights` is the URI of its safetensors."""

    name: str
    model: ModelSpec
    weights: str


def follows_from(member: Member) -> dict[str, Any]:
    """What a member's answers follow from, besides what it is asked: its weights, its spec, its code."""
    return {"weights": checkpoints.sha256(member.weights), **provenance.of_model(member.model)}


def load(member: Member) -> nn.Module:
    """The member's module with its weights, in evaluation mode."""
    module = models.build(member.model)
    checkpoints.load(module, member.weights)
    return module.eval()


class Teacher:
    """Members on one device. `modules` maps a member's name to its module."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        precision: Precision = "auto",
        micro_batch: int = MICRO_BATCH,
        bits: Literal[32, 64] = 32,
        classes: int = 0,
    ) -> None:
        """micro_batch: examples a forward pass. bits: of the fixed point that it answers in. classes: as many as each
        answer must have; 0: whatever it has."""
        self.classes = classes
        self.device = evaluate.device()
        self.precision = precision
        self.micro_batch = micro_batch
        self.fixed_point = ensemble.FIXED_POINT[bits]
        self.modules = {name: module.eval() for name, module in modules.items()}
        self.resident = _fit(self.modules.values(), self.device)
        if self.resident:
            for module in self.modules.values():
                module.to(self.device)
        self._forward: Forward | None = None

    def prepare(self, choice: bool | None, x: Tensor) -> bool:
        """Choose how members are computed, by trying it on `x` [N, ...]: on a CPU with packed layers (`packing`).

        choice: stacked (True) or one by one (False); None: whichever is faster. Returns what was chosen.
        """
        if self.device.type == "cpu" and computed_in(self.device, self.precision) == "float32":
            for name, module in self.modules.items():  # one after another: each is there twice meanwhile
                self.modules[name] = packed(module, x[: self.micro_batch])
                if self.modules[name] is not module:
                    choice = False  # packed weights are no parameters that could be stacked
        members = list(self.modules.values())
        if choice is None:
            choice = self.resident and worth_stacking(members, x[: self.micro_batch].to(self.device))
        self._forward = stacked(members) if choice and self.resident and len(members) > 1 else None
        return choice

    @torch.no_grad()
    def probe(self, x: Tensor) -> dict[str, NDArray[np.float32]]:
        """What each member says of a few examples, as it would in a pass: probabilities [n, K] float32 at T = 1."""
        found = {}
        for names, forward in self._forwards({}, self.modules):
            answers = [forward(number, batch) for number, batch in enumerate(x.split(self.micro_batch))]
            for name, said in zip(names, torch.softmax(torch.cat(answers, dim=1), dim=-1).cpu().numpy(), strict=True):
                found[name] = said
        return found

    @torch.no_grad()
    def soften(
        self,
        x: Tensor,
        *,
        temperature: float,
        weights: Mapping[str, float],
        combine: str,
        known: Mapping[str, Tensor] = {},
        keep: Callable[[str, Tensor], None] | None = None,
    ) -> Tensor:
        """Sum over the hosted members of their contributions, p_k = softmax(v_k / T).

        x: [N, ...] as the models take it. weights: of the hosted members that are asked, of weights that sum to 1 over
        all members everywhere. Returns [N, K] int32 or int64 fixed point on the CPU; `ensemble.mean` of the sum of all
        teachers' answers is the soft target.

        known: logits [N, K] float32 of members that need not be computed. keep(name, logits) gets those of the others.

        Raises: `BadAnswer` where a member's logits are not of so many classes, or their softmax does not sum to 1.
        """
        total: list[Tensor] = []
        at_once = x.nbytes <= RESIDENT_BYTES
        batches = (x.to(self.device, non_blocking=True) if at_once else x).split(self.micro_batch)
        for names, forward in self._forwards(known, weights):
            off = torch.zeros(len(names), device=self.device)
            said: list[Tensor] = []
            for number, batch in enumerate(batches):
                logits = forward(number, batch)
                if logits.shape[1:] != (len(batch), self.classes or logits.shape[-1]):
                    raise BadAnswer(
                        f"{names[0]} answers {list(logits.shape[1:])}; expected {[len(batch), self.classes]}", names[0]
                    )
                if keep is not None and names[0] not in known:
                    said.append(logits.cpu())
                probabilities = torch.softmax(logits / temperature, dim=-1)
                off = torch.maximum(off, (probabilities.sum(dim=-1) - 1).abs().amax(dim=1))  # NaN stays NaN
                for name, each in zip(names, probabilities, strict=True):
                    if name not in weights:
                        continue
                    part = ensemble.contribution(each, weights[name], combine, self.fixed_point)
                    if number < len(total):
                        total[number] += part
                    else:
                        total.append(part)
            for name, by in zip(names, off.tolist(), strict=True):  # only now, since asking a GPU waits for it
                if name in weights and not by <= ensemble.SUM_TOLERANCE:
                    what = "NaN or infinity" if by != by else f"probabilities that sum to 1 only within {by:.2g}"
                    raise BadAnswer(f"{name} answers {what}", name)
            if keep is not None and said:
                for k, name in enumerate(names):
                    keep(name, torch.cat([logits[k] for logits in said]))
        return torch.cat(total).cpu()

    def _forwards(
        self, known: Mapping[str, Tensor], asked: Container[str]
    ) -> Iterator[tuple[list[str], Callable[[int, Tensor], Tensor]]]:
        """The members that are computed together, wave after wave: all that are stacked, or each for itself.

        Each wave has its members' names and what gives their logits [M, b, K] float32 for a micro-batch, its number
        first. Members that do not fit on the device all at once are there only while they compute.
        """

        def computed(forward: Forward, names: Sequence[str]) -> Callable[[int, Tensor], Tensor]:
            def answer(_: int, batch: Tensor) -> Tensor:
                with faults.caught(names[0] if len(names) == 1 else ""), autocast(self.device, self.precision):
                    return forward(batch.to(self.device, non_blocking=True)).float()

            return answer

        if self._forward is not None and not known:
            yield list(self.modules), computed(self._forward, list(self.modules))
            return
        for name, module in self.modules.items():
            if name not in asked:
                continue
            if name in known:
                yield [name], self._read(known[name])
                continue
            yield [name], computed(one_by_one([module if self.resident else module.to(self.device)]), [name])
            if not self.resident:
                module.to("cpu")

    def _read(self, logits: Tensor) -> Callable[[int, Tensor], Tensor]:
        """Logits [N, K] that are known, as if they were computed."""
        pieces = logits.to(self.device).split(self.micro_batch)
        return lambda number, _: pieces[number].unsqueeze(0)


def _fit(modules: Iterable[nn.Module], device: torch.device) -> bool:
    """Whether all the modules fit on the device, with half of what is free left for what they compute."""
    if device.type != "cuda":
        return True
    needed = sum(t.numel() * t.element_size() for m in modules for t in (*m.parameters(), *m.buffers()))
    return needed <= torch.cuda.mem_get_info(device)[0] // 2
