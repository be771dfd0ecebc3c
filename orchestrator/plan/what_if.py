"""What another configuration or another cluster would change: outlooks of variations of a case. Pure.

A variation keeps the rates that were measured, so it never needs a second rehearsal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.cluster import resources
from orchestrator.config.ensemble import FIRST_MEMBERS
from orchestrator.plan.facts import Facts
from orchestrator.plan.outlook import Case, Outlook
from orchestrator.plan.whole import Runs, whole
from workers.errors import RequestError
from workers.specs.models import Network
from workers.training import objective

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
    """What changes, in words, and the outlook with it. chosen: whether the user can choose it."""

    change: str
    outlook: Outlook
    chosen: bool = True


def variations(runs: Runs) -> Iterator[Variation]:
    """The outlook with each change that these runs allow."""
    for change, varied in CHANGES.items():
        try:
            other = runs.changed(varied)
        except RequestError:  # the cluster cannot do it
            continue
        if other is not None:
            yield Variation(change, whole(other), varied is not _flat)


def fastest(of: Outlook, found: Sequence[Variation]) -> Variation | None:
    """The variation that saves most time; None where none saves a tenth."""
    chosen = [each for each in found if each.chosen]
    best = min(chosen, key=lambda each: each.outlook.seconds, default=None)
    return best if best is not None and best.outlook.seconds < LESS * of.seconds else None


def smallest(of: Outlook, found: Sequence[Variation]) -> Variation | None:
    """The variation that stores least; None where none saves a tenth, or where that is little."""
    chosen = [each for each in found if each.chosen]
    best = min(chosen, key=lambda each: each.outlook.stored, default=None)
    worth = best is not None and of.stored > MUCH and best.outlook.stored < LESS * of.stored
    return best if worth else None


def _flat(case: Case) -> Case | None:
    """The members of the first round alone."""
    ensemble = case.config.ensemble
    first = max(FIRST_MEMBERS, resources.at_once(case.plan.teachers, case.machines))
    if ensemble.stop_when_flat is None or ensemble.count is None or ensemble.count <= first:
        return None
    return _configured(case, ensemble=ensemble.model_copy(update={"size": first}))


def _more_teachers(case: Case) -> Case:
    """Twice the nodes for as many members; of any role where none is for them alone."""
    ensemble = case.config.ensemble
    if ensemble.count is None:
        ensemble = ensemble.model_copy(update={"size": case.plan.teachers.size})
    return _with_more(_configured(case, ensemble=ensemble), "teacher")


def _more_workers(case: Case) -> Case | None:
    """Twice the student's workers, on as many more nodes."""
    whole = any(objective.build(stage.loss).whole_batch for stage in case.config.training_stages)
    if not isinstance(case.config.student.model, Network) or whole:
        return None
    student = case.config.student.model_copy(update={"num_workers": 2 * case.plan.student.most})
    return _with_more(_configured(case, student=student), "student")


def _with_more(case: Case, role: str) -> Case:
    facts, more = case.facts, case.machines.of(role).nodes
    machines = replace(facts.machines, nodes=facts.machines.nodes + more)
    return replace(case, facts=Facts(facts.data, machines, facts.beside_bytes))


def _halved(case: Case) -> Case | None:
    return distilled(case, dtype="float16") if case.config.distillation.dtype == "float32" else None


def _compressed(case: Case) -> Case | None:
    distillation = case.config.distillation
    if case.data.classes < MANY or distillation.top_k is not None or distillation.is_scheduled:
        return None
    return distilled(case, top_k=TOP_K)


def distilled(case: Case, **update: object) -> Case:
    """The case with other settings of `distillation`. Raises: `RequestError` where a term cannot learn from these."""
    changed = _configured(case, distillation=case.config.distillation.model_copy(update=update))
    for stage in changed.config.training_stages:
        objective.build(stage.loss)
    return changed


def _configured(case: Case, **update: object) -> Case:
    return replace(case, config=case.config.model_copy(update=update))


CHANGES: Mapping[str, Callable[[Case], Case | None]] = {
    "`stop_when_flat` stops after its first round": _flat,
    "twice the nodes for members": _more_teachers,
    "twice the student's workers, on more nodes": _more_workers,
    "distillation.dtype: float16": _halved,
    f"distillation.top_k: {TOP_K}": _compressed,
}
"""Changes by their description: each returns the changed case, or None where it does not apply."""
