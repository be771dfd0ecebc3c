"""What another configuration or another cluster would change: outlooks of variations of a case. Pure.

A variation keeps the rates that were measured, so it never needs a second rehearsal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.plan.facts import Facts
from orchestrator.plan.outlook import Case, Outlook, outlook
from orchestrator.plan.plan import plan
from orchestrator.plan.rates import Rates
from workers.errors import RequestError

TOP_K = 64
"""Probabilities of a row that the variation with compressed soft targets stores."""
MANY = 1024
"""Classes from which compressed soft targets are proposed."""


LESS = 0.9
"""The most that a variation may take of what it saves, to be proposed."""
MUCH = 2**33
"""Bytes in storage from which less is proposed."""


@dataclass(frozen=True)
class Variation:
    """What changes, in words, and the outlook with it."""

    change: str
    outlook: Outlook


def variations(case: Case, rates: Rates, facts: Facts) -> Iterator[Variation]:
    """The outlook with each change that this run allows."""
    for change, varied in CHANGES.items():
        found = varied(case, facts)
        if found is None:
            continue
        try:
            other = replace(found[0], plan=plan(found[0].config, found[1]), machines=found[1].machines)
        except RequestError:  # the cluster cannot do it
            continue
        yield Variation(change, outlook(other, rates))


def fastest(of: Outlook, found: Sequence[Variation]) -> Variation | None:
    """The variation that saves most time; None where none saves a tenth."""
    best = min(found, key=lambda each: each.outlook.seconds, default=None)
    return best if best is not None and best.outlook.seconds < LESS * of.seconds else None


def smallest(of: Outlook, found: Sequence[Variation]) -> Variation | None:
    """The variation that stores least; None where none saves a tenth, or where that is little."""
    best = min(found, key=lambda each: each.outlook.stored, default=None)
    worth = best is not None and of.stored > MUCH and best.outlook.stored < LESS * of.stored
    return best if worth else None


Varied = tuple[Case, Facts] | None


def _more_teachers(case: Case, facts: Facts) -> Varied:
    """Twice the nodes for as many members; of any role where none is for them alone."""
    ensemble = case.config.ensemble
    if ensemble.count is None:
        ensemble = ensemble.model_copy(update={"size": case.plan.teachers.size})
    return replace(case, config=case.config.model_copy(update={"ensemble": ensemble})), _with_more(facts, "teacher")


def _more_workers(case: Case, facts: Facts) -> Varied:
    """Twice the student's workers, on as many more nodes."""
    if case.config.student.model.learner != "network":
        return None
    student = case.config.student.model_copy(update={"num_workers": 2 * case.plan.student.most})
    return replace(case, config=case.config.model_copy(update={"student": student})), _with_more(facts, "student")


def _with_more(facts: Facts, role: str) -> Facts:
    more = facts.machines.of(role).nodes
    return replace(facts, machines=replace(facts.machines, nodes=facts.machines.nodes + more))


def _halved(case: Case, facts: Facts) -> Varied:
    return _distilled(case, facts, dtype="float16") if case.config.distillation.dtype == "float32" else None


def _compressed(case: Case, facts: Facts) -> Varied:
    distillation = case.config.distillation
    if case.data.classes < MANY or distillation.top_k is not None or distillation.is_scheduled:
        return None
    return _distilled(case, facts, top_k=TOP_K)


def _distilled(case: Case, facts: Facts, **update: object) -> Varied:
    distillation = case.config.distillation.model_copy(update=update)
    return replace(case, config=case.config.model_copy(update={"distillation": distillation})), facts


CHANGES: Mapping[str, Callable[[Case, Facts], Varied]] = {
    "twice the nodes for members": _more_teachers,
    "twice the student's workers, on more nodes": _more_workers,
    "distillation.dtype: float16": _halved,
    f"distillation.top_k: {TOP_K}": _compressed,
}
"""Changes by their description: each returns the changed case and facts, or None where it does not apply."""
