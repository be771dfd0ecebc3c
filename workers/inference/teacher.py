"""A teacher: one or several trained members that compute their weighted, softened probabilities.

It is plain torch, for CPU or GPU; `workers.inference.actor` makes it a Ray actor. Answers are sums of the hosted
members' contributions in fixed point (see `workers.ensemble`), so they do not depend on which members share a teacher.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from workers import ensemble, faults
from workers.artifacts.key import Key
from workers.data import arrays
from workers.data.arrays import MICRO_BATCH
from workers.data.collate import Collator, Inputs, collate, rows_of, split_rows, widened
from workers.device import device as own_device
from workers.errors import BadAnswer
from workers.models import checkpoints, outputs, predictor
from workers.models import provenance as model_provenance
from workers.models.precision import autocast
from workers.models.predictor import Predictor
from workers.models.stacking import Forward as Stacked
from workers.models.stacking import stacked, worth_stacking
from workers.models.torch_module import predictor_of
from workers.specs.base import Precision
from workers.specs.models import AnyModel

logger = logging.getLogger(__name__)

RESIDENT_BYTES = 2**28
"""Most bytes of inputs that stay on the device for all members; larger inputs are copied by micro-batch."""

Forward = Callable[[Inputs], Tensor]
"""Maps a batch of B examples to the logits of M members [M, P, K]."""
Waves = Generator[tuple[list[str], Forward]]
Batches = Mapping[Collator, Inputs]
"""The same examples as a batch per collator."""


@dataclass(frozen=True)
class Member:
    """One trained model: `weights` is the URI of its weights, in the file format of its kind."""

    name: str
    model: AnyModel
    weights: str


def follows_from(member: Member) -> dict[str, Any]:
    """The inputs that determine a member's outputs for given examples: its weights, its spec and its code."""
    return {"weights": checkpoints.sha256(member.weights), **model_provenance.of_model(member.model)}


def key_of(member: Member) -> Key:
    """The cache key of `follows_from`."""
    return Key("answers", 1, **follows_from(member))


def load(member: Member) -> Predictor:
    """The member's predictor."""
    return predictor.load(member.model, member.weights)


@dataclass
class Asked:
    """One request to a teacher.

    x: the models' input batch, perhaps in a narrower dtype (`arrays.as_tensor`); where members take different columns,
    a batch per collator. known: cached logits [P, K] float32, by member. computed: receives the logits of the other
    members, for the cache; None: there is no cache.
    """

    x: Inputs | Batches
    known: Mapping[str, Tensor] = field(default_factory=dict)
    computed: dict[str, Tensor] | None = None


class Teacher:
    """Members on one device. `members` maps names to predictors or torch modules."""

    def __init__(
        self,
        members: Mapping[str, Predictor | nn.Module],
        precision: Precision = "auto",
        *,
        micro_batch: int = MICRO_BATCH,
        bits: Literal[32, 64] = 32,
        classes: int = 0,
        device: torch.device | None = None,
        collators: Mapping[str, Collator] = {},
    ) -> None:
        """micro_batch: examples per forward pass. bits: of the fixed point of answers. classes: required number of
        classes; 0: any. device: None for CUDA where available. collators: by member; the default takes every column.

        Raises: `RuntimeError` where torch does not see the device.
        """
        self.classes = classes
        self.device = own_device(device)
        self.precision = precision
        self.micro_batch = micro_batch
        self.fixed_point = ensemble.FIXED_POINT[bits]
        self.predictors = {name: predictor_of(member) for name, member in members.items()}
        self.collators = {name: collators.get(name, collate) for name in members}
        for module in self.modules.values():
            module.eval()
        self._forward: Stacked | None = None
        self._whole: set[str] = set()
        """Members that run entirely in float32, since bfloat16 would round their logits."""
        self._tries_again = False
        """Whether the caller retries after an out-of-memory error."""
        self._settle(_staying(self.modules, self.device))

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The members that are torch modules; only these can be moved, packed and stacked."""
        return {name: each.module for name, each in self.predictors.items() if each.module is not None}

    def _settle(self, staying: frozenset[str]) -> None:
        """Keep these modules on the device and the others in main memory until their turn."""
        self.staying = staying | (self.predictors.keys() - self.modules.keys())
        for name, each in self.predictors.items():
            each.to(self.device if name in self.staying else torch.device("cpu"))

    @property
    def takes_turns(self) -> bool:
        """Whether some members move to the device and leave it in every call."""
        return self._forward is None and len(self.staying) < len(self.predictors)

    def prepare(self, choice: bool | None, x: Inputs | Batches) -> bool:
        """Prepare each member for pieces like `x`, and decide whether to stack members.

        choice: stacked (True) or one by one (False); None: the faster way on a GPU, by measurement. On a CPU always one
        by one. Returns the decision.
        """
        tried = {name: self._own(x, name)[: self.micro_batch] for name in self.predictors}
        if self._forward is not None:
            self._forward = None
            self._settle(_staying(self.modules, self.device))
        for name, each in self.predictors.items():  # one at a time, since packing briefly doubles the memory
            with self._caught(name), self._on_device(name):
                if not each.prepare(tried[name], self.device, self.precision):
                    logger.warning("%s is computed in float32 as a whole: its last product cannot be told apart", name)
                    self._whole.add(name)
        modules = list(self.modules.values())
        first = next(iter(tried.values()))
        alike = len(modules) == len(self.predictors) and len({*self.collators.values()}) == 1
        if self.device.type == "cpu" or self.takes_turns or self._whole or not alike or not isinstance(first, Tensor):
            choice = False
        elif choice is None:
            with autocast(self.device, self.precision):
                choice = worth_stacking(modules, arrays.widened(first.to(self.device)))
        if choice and len(modules) > 1:
            self._forward = stacked(modules)
            self._settle(frozenset())  # the stack has its own copy of their weights
        return choice

    def _own(self, x: Inputs | Batches, name: str) -> Inputs:
        """The batch of the member's collator."""
        return x[self.collators[name]] if isinstance(x, Mapping) else x

    @torch.no_grad()
    def probe(self, x: Inputs | Batches) -> dict[str, NDArray[np.float32]]:
        """Each member's `outputs.probabilities` of a few examples, computed as in a pass: [n, K] float32."""
        found: dict[str, NDArray[np.float32]] = {}
        for names, forward in self._waves(self.predictors):
            answers = [forward(batch) for batch in self._own(x, names[0]).split(self.micro_batch)]
            each = [outputs.probabilities(logits).cpu().numpy() for logits in torch.cat(answers, dim=1)]
            found |= zip(names, each, strict=True)
        return found

    def soften_all(
        self, pieces: Sequence[Asked], *, temperature: float, weights: Mapping[str, float], combine: str | None
    ) -> list[Tensor]:
        """Sum over the hosted members of their contributions, p_k = softmax(v_k / T), for each piece.

        weights: of the requested members on this teacher; the weights of all teachers' members sum to 1. Returns for
        each piece [P, K] int32 or int64 fixed point on the CPU; `ensemble.mean` of the sum of all teachers' answers is
        the soft target. combine None: the members' logits [members, P, K] float32 instead. Members that take turns on
        the device move there once for all pieces.

        Where the device runs out of memory, the teacher retries with members taking turns, which changes no bit.
        Raises: `BadAnswer` where a member's logits have the wrong number of classes, or their softmax does not sum to
        1; `Fault` with the member's name for an exception in its code.
        """
        how = _How(temperature, weights, combine)
        self._tries_again = True
        try:
            return self._soften_all(pieces, how)
        except torch.OutOfMemoryError as error:
            logger.warning(
                "out of memory on %s; tried once more with as little on it as can be: %s", self.device, error
            )
        finally:
            self._tries_again = False
        self._clear_device()  # outside the handler, so that the failed attempt's memory is free
        return self._soften_all(pieces, how)

    def _clear_device(self) -> None:
        if self._forward is None:  # unstacking would use other kernels and change bits
            self._settle(frozenset())
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _soften_all(self, pieces: Sequence[Asked], how: _How) -> list[Tensor]:
        at_once = sum(each.nbytes for piece in pieces for each in _batches(piece.x)) <= RESIDENT_BYTES
        inputs = [_on(piece.x, self.device) if at_once else piece.x for piece in pieces]
        totals: list[list[Tensor]] = [[] for _ in pieces]
        if self._forward is not None and not any(piece.known for piece in pieces):
            waves = self._waves(self.predictors)
        else:
            waves = self._one_by_one(name for name in self.predictors if name in how.weights)
        with closing(waves):
            for wave in waves:
                for piece, x, total in zip(pieces, inputs, totals, strict=True):
                    self._add(wave, piece, self._own(x, wave[0][0]), total, how)
        together = torch.stack if how.combine is None else torch.cat
        return [together(total).cpu() for total in totals]

    def _add(self, wave: tuple[list[str], Forward], piece: Asked, x: Inputs, total: list[Tensor], how: _How) -> None:
        """Add the contributions of one wave of members to a piece's sums per micro-batch, or append their logits."""
        names, forward = wave
        known = piece.known.get(names[0])
        batches: Sequence[Any] = x.split(self.micro_batch)
        if known is not None:  # same cuts as the sums
            batches = known.to(self.device).split(split_rows(x, self.micro_batch))
        off = torch.zeros(len(names), device=self.device)
        computed: list[Tensor] = []
        for number, batch in enumerate(batches):
            logits = forward(batch) if known is None else batch.unsqueeze(0)
            expected = [rows_of(batch), self.classes or logits.shape[-1]]
            if list(logits.shape[1:]) != expected:
                raise BadAnswer(f"{names[0]} answers {list(logits.shape[1:])}; expected {expected}", names[0])
            if how.combine is None or (piece.computed is not None and known is None):
                computed.append(logits.cpu())
            probabilities = torch.softmax(logits / how.temperature, dim=-1)
            off = torch.maximum(off, (probabilities.sum(dim=-1) - 1).abs().amax(dim=1))  # propagates NaN
            for name, each in zip(names, probabilities, strict=True):
                if how.combine is None or name not in how.weights:
                    continue
                part = ensemble.contribution(each, how.weights[name], how.combine, self.fixed_point)
                if number < len(total):
                    total[number] += part
                else:
                    total.append(part)
        for name, by in zip(names, off.tolist(), strict=True):  # only now, since it synchronises the GPU
            if name in how.weights and not by <= ensemble.SUM_TOLERANCE:
                what = "NaN or infinity" if by != by else f"probabilities that sum to 1 only within {by:.2g}"
                what = f"{what}; expected probabilities that sum to 1. Check its weights and its forward pass"
                raise BadAnswer(f"{name} answers {what}", name)
        for k, name in enumerate(names if computed else ()):
            logits = torch.cat([each[k] for each in computed])
            if piece.computed is not None and known is None:
                piece.computed[name] = logits
            if how.combine is None and name in how.weights:
                total.append(logits)

    def _waves(self, asked: Container[str]) -> Waves:
        """Members in waves: a single wave if they are stacked, else one wave per member.

        A wave has its members' names, and a function from a micro-batch to their logits [M, b, K] float32.
        """
        if self._forward is not None:
            yield list(self.predictors), self._stacked(self._forward)
            return
        yield from self._one_by_one(name for name in self.predictors if name in asked)

    def _one_by_one(self, names: Iterable[str]) -> Waves:
        for name in names:
            with self._caught(name), self._on_device(name):
                yield [name], self._alone(name)

    def _alone(self, name: str) -> Forward:
        """The function from a batch to one member's logits [1, b, K]."""
        answer = self.predictors[name]

        def forward(batch: Inputs) -> Tensor:
            with self._caught(name):
                return answer(self._there(batch), self.precision).logits.unsqueeze(0)

        return forward

    def _stacked(self, together: Stacked) -> Forward:
        """The function from a batch to all members' logits [M, b, K], in one forward pass."""

        def forward(batch: Inputs) -> Tensor:
            with self._caught(""), autocast(self.device, self.precision):
                there = self._there(batch)
                assert isinstance(there, Tensor), "members of other inputs are not stacked"
                return together(there).float()

        return forward

    def _there(self, batch: Inputs) -> Inputs:
        """A batch on the device, in the models' dtype."""
        return widened(batch.to(self.device, non_blocking=True))

    @contextmanager
    def _caught(self, name: str) -> Iterator[None]:
        """Add the member's name to its exceptions, except to an out-of-memory error before the retry."""
        with faults.caught(name, but=(torch.OutOfMemoryError,) if self._tries_again else ()):
            yield

    def _on_device(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if name in self.staying else moved(self.modules[name], self.device)


def _batches(x: Inputs | Batches) -> Iterable[Inputs]:
    return x.values() if isinstance(x, Mapping) else (x,)


def _on(x: Inputs | Batches, device: torch.device) -> Inputs | Batches:
    if isinstance(x, Mapping):
        return {collator: batch.to(device, non_blocking=True) for collator, batch in x.items()}
    return x.to(device, non_blocking=True)


@dataclass(frozen=True)
class _How:
    """Arguments of `Teacher.soften_all` that are the same for all pieces."""

    temperature: float
    weights: Mapping[str, float]
    combine: str | None


@contextmanager
def moved(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a module's parameters and buffers to the device for the block; nothing is copied back."""
    tensors = [*module.parameters(), *module.buffers()]
    home = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device, non_blocking=True)
        yield
    finally:
        for tensor, data in zip(tensors, home, strict=True):
            tensor.data = data


def _staying(modules: Mapping[str, nn.Module], device: torch.device) -> frozenset[str]:
    """The members that stay on the device: as many as fit into half of its free memory; activations get the rest.

    Where not all fit, memory for the largest member is reserved, in which the others take turns.
    """
    if device.type != "cuda":
        return frozenset(modules)
    sizes = {
        name: sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
        for name, module in modules.items()
    }
    return _fitting(sizes, torch.cuda.mem_get_info(device)[0] // 2)


def _fitting(sizes: Mapping[str, int], room: int) -> frozenset[str]:
    if sum(sizes.values()) <= room:
        return frozenset(sizes)
    room -= max(sizes.values())
    staying = set()
    for name, size in sizes.items():
        if size <= room:
            room -= size
            staying.add(name)
    return frozenset(staying)
