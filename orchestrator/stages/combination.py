"""How the members of a run answer together, where that is no mean of fixed weights."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.config.ensemble import EnsembleSpec
from workers.inference.teacher import Member
from workers.specs.members import ExampleRule, SpecialistRule
from workers.specs.models import special_of


def rule_of(ensemble: EnsembleSpec, members: Sequence[Member]) -> ExampleRule | None:
    """The rule that needs all members' answers to an example: that of specialists where there are any, else the
    configured rule for weights; None: all examples have the same weights."""
    special = [special_of(member.model) for member in members]
    if any(special):
        return SpecialistRule(classes=tuple(() if own is None else own.ids for own in special))
    return ensemble.of_examples


def needed(members: Sequence[Member], weights: Sequence[float]) -> list[float]:
    """The weights by which the pool decides whether it can go on: without a generalist specialists do not answer.

    weights: of the members in the mean.
    """
    special = [special_of(member.model) is not None for member in members]
    return [0.0 if own else weight for own, weight in zip(special, weights, strict=True)]
