"""The objective: weighted terms, evaluated at a step of the training.

Every process that trains builds it from the specification. At a step, it is a temperature and the terms with a weight
above 0. The loss of a batch is the sum of weight * sum / count over the terms, added in their order. `workers.losses`
has the terms themselves, and `schedules` the change of a number over time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from workers.errors import RequestError
from workers.losses import TERMS, Batch, Outputs, Term
from workers.losses.term import Function, share
from workers.signals import BESIDE, Signal
from workers.specs.base import FactorySpec, OwnKind
from workers.specs.objective import LEAST_TEMPERATURE, DistillationSpec, ScheduleSpec, TermSpec
from workers.targets.kinds import KINDS, kind_of
from workers.training import schedules
from workers.training.schedules import SCHEDULES, Moment, Value, fixed
from workers.user_code import kinds, provenance

TEMPERATURE, OBJECTIVE = "distillation.temperature", "distillation.objective"


@dataclass(frozen=True)
class Weighted:
    """A term of the objective. label: its name in the history, unique in the objective."""

    label: str
    term: Term
    weight: Value


class Loss(NamedTuple):
    """The loss of a piece of a batch.

    total: [] the piece's share of the batch's mean. of_terms: for each term with a weight above 0 its number, its sum
    over the piece (detached), and the count of the whole batch. correct: [] int64, the rows whose likeliest class is
    their label; None in a batch without labels.
    """

    total: Tensor
    of_terms: Sequence[tuple[int, Tensor, int]]
    correct: Tensor | None = None

    def detached(self) -> Loss:
        return self._replace(total=self.total.detach())


@dataclass(frozen=True)
class AtStep:
    """The objective at one step. terms: number, term and weight, for each weight above 0."""

    temperature: float
    terms: tuple[tuple[int, Term, float], ...]

    def loss(self, outputs: Outputs, batch: Batch) -> Loss:
        """The loss of a piece of a batch; 0 with a gradient of 0 where no weight is above 0."""
        total: Tensor | None = None
        found = []
        for number, term, weight in self.terms:
            value, count = term(outputs, batch)
            part = share((value, count), weight)
            total = part if total is None else total + part
            found.append((number, value.detach(), count))
        correct = _correct(outputs.logits, batch.labels) if batch.labelled_rows else None
        nothing = outputs.logits[:0].sum()  # 0 with a gradient of 0, whatever the logits are
        if total is None:
            return Loss(nothing, found, correct)
        if batch.beside is not None:  # then no term may reach the last layers, and workers exchange all gradients
            total = total + nothing
        return Loss(total, found, correct)


@dataclass(frozen=True)
class Objective:
    """The objective of a training: terms in the order of their addition, and the temperature of the targets."""

    terms: tuple[Weighted, ...]
    temperature: Value

    def at(self, moment: Moment) -> AtStep:
        """The objective at a step. Raises: `RequestError` where a schedule gives an invalid weight or T."""
        return self._at(moment) if self._changes else self._as_it_stays

    @property
    def beside(self) -> frozenset[Signal]:
        """The signals of a member beside the student that some term needs."""
        return frozenset().union(*(each.term.needs for each in self.terms)) & BESIDE

    @property
    def whole_batch(self) -> str:
        """The label of the first term that relates all examples of a batch to each other; empty without one."""
        return next((each.label for each in self.terms if each.term.whole_batch), "")

    @cached_property
    def module(self) -> nn.ModuleDict:
        """The learned parameters of all terms, by number; after `prepare`."""
        found = {str(number): each.term.module for number, each in enumerate(self.terms)}
        return nn.ModuleDict({number: module for number, module in found.items() if module is not None})

    @property
    def wanted(self) -> dict[str, set[int]] | None:
        """The layers of a member that the terms compare, by field of `Outputs`, after `prepare`; None: all."""
        found: dict[str, set[int]] = {}
        for term in (each.term for each in self.terms if each.term.needs & BESIDE):
            if term.wanted is None:
                return None
            for name, layers in term.wanted.items():
                found[name] = found.get(name, set()) | {*layers}
        return found

    def prepare(self, student: Outputs, teacher: Outputs) -> None:
        """Settle what depends on the shapes of student and member, from outputs of a few examples.

        Raises: `RequestError` where a term cannot compare them.
        """
        for each in self.terms:
            if each.term.needs & BESIDE:
                each.term.prepare(student, teacher)

    @cached_property
    def _changes(self) -> bool:
        return not all(value.is_fixed for value in (self.temperature, *(each.weight for each in self.terms)))

    @cached_property
    def _as_it_stays(self) -> AtStep:
        return self._at(Moment(0, 1, 0, 1))

    def _at(self, moment: Moment) -> AtStep:
        weights = [each.weight.at(moment) for each in self.terms]
        weighted = enumerate(zip(self.terms, weights, strict=True))
        return AtStep(
            self.temperature.at(moment),
            tuple((number, each.term, weight) for number, (each, weight) in weighted if weight > 0.0),
        )


@torch.no_grad()
def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    """The rows [] int64 whose likeliest class is their label; it stays on the device, so that no step waits for it."""
    return (logits.argmax(-1) == labels).sum()


def build(spec: DistillationSpec) -> Objective:
    """The objective that `spec` describes.

    Raises: `RequestError` for an unknown term or schedule, settings that it does not accept, or a term that needs a
    signal that neither the soft targets nor the members offer.
    """
    on = [term for term in spec.every_term if not term.is_off]
    labels = _labels([term.term for term in on])
    terms = [
        Weighted(label, _term(term), _value(f"{OBJECTIVE}: the weight of '{label}'", term.weight))
        for label, term in zip(labels, on, strict=True)
    ]
    objective = Objective(tuple(terms), _value(TEMPERATURE, spec.temperature, LEAST_TEMPERATURE))
    _check_needs(objective, spec)
    return objective


@contextmanager
def named(key: str) -> Iterator[None]:
    """Errors in the block name the objective by `key`, such as that of a stage, instead of `OBJECTIVE`."""
    try:
        yield
    except RequestError as error:
        if OBJECTIVE not in str(error):
            raise
        raise RequestError(str(error).replace(OBJECTIVE, key)) from error


def _labels(names: Sequence[str]) -> list[str]:
    """Unique labels: a repeated name gets a number, as in `soft`, `soft-2`."""
    return [name if names.index(name) == k else f"{name}-{names[:k].count(name) + 1}" for k, name in enumerate(names)]


def _term(spec: TermSpec) -> Term:
    made: Any = kinds.make(OBJECTIVE, spec.term, TERMS, spec.kwargs, spec.folder)
    if not callable(made):
        raise RequestError(
            f"{OBJECTIVE}: '{spec.term}' made {type(made).__name__}; expected a `workers.losses.Term`, or what is "
            "called with (outputs, batch) and returns a sum and a count."
        )
    return made if isinstance(made, Term) else Function(made)


def _value(key: str, of: float | ScheduleSpec, least: float = 0.0) -> Value:
    if not isinstance(of, ScheduleSpec):
        return fixed(key, of)
    made = schedules.make(f"{key}.schedule", of, SCHEDULES, "the share of the way from `from` to `to`")
    return Value(key, of.start, of.start if of.end is None else of.end, made, by=of.by, least=least)


def _check_needs(objective: Objective, spec: DistillationSpec) -> None:
    """Raise `RequestError` where a term needs a signal that is missing."""
    offered = KINDS[kind_of(spec.top_k)].targets.offers | {Signal.LABELS}
    for each in objective.terms:
        unknown = [need for need in each.term.needs if need not in set(Signal)]
        if unknown:
            raise RequestError(
                f"{OBJECTIVE}: '{each.label}' needs '{unknown[0]}'; expected some of {', '.join(Signal)}."
            )
        missing = sorted(need for need in each.term.needs if need not in offered | BESIDE)
        if missing:
            raise RequestError(
                f"{OBJECTIVE}: the term '{each.label}' needs {' and '.join(missing)}; this run has "
                f"{', '.join(sorted(offered))}. `distillation.top_k` keeps no logits outside the top: leave it out, or "
                "the term."
            )


def follows_from(spec: DistillationSpec) -> dict[str, Any]:
    """The objective's part of a cache key, without its targets: plain JSON values, with digests of the user's code."""
    on = [term for term in spec.every_term if not term.is_off]
    labels = _labels([term.term for term in on])
    return {
        "temperature": _of_number(spec.temperature),
        "dtype": spec.dtype,
        "top_k": spec.top_k,
        "terms": labels,
        "objective": {
            label: {**_of_kind(term, term.term), "weight": _of_number(term.weight)}
            for label, term in zip(labels, on, strict=True)
        },
    }


def _of_number(value: float | ScheduleSpec) -> Any:
    return {**_of_kind(value, value.schedule)} if isinstance(value, ScheduleSpec) else value


def _of_kind(spec: OwnKind, name: str) -> dict[str, Any]:
    plain = spec.model_dump(mode="json", exclude={"folder", "depends_on", "weight"})
    if isinstance(spec, TermSpec) and name in TERMS and TERMS[name].version:
        plain["version"] = TERMS[name].version
    if ":" not in name:
        return plain
    factory = FactorySpec(factory=name, kwargs=spec.kwargs, folder=spec.folder, depends_on=spec.depends_on)
    called = provenance.of_factory(factory, lambda: kinds.make(OBJECTIVE, name, {}, spec.kwargs, spec.folder))
    return {**plain, **called}
