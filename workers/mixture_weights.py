"""Mixture weights per example: a member's weight in the mean depends on all members' outputs for the example.

A rule gets probabilities [M, N, K] float64 of M members, and returns weights [M, N] >= 0, which are scaled to sum to 1
over the members. Constant weights are plain numbers and need no rule. A rule needs the outputs of all members in one
process, so teachers return the logits of each member instead of sums (`workers.inference.reduce`). So does the rule of
generalists and specialists (`workers.specialists`), which has no weights, but an answer of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workers import ensemble, specialists
from workers.errors import RequestError
from workers.specs.base import FactorySpec
from workers.specs.members import ExampleRule, ExampleWeights, SpecialistRule
from workers.user_code import calls, factories, provenance

Rule = Callable[[Tensor], Tensor]
KEY = "ensemble.weights"
TRIED = 4
"""Number of members and of examples in the trial of a user's rule."""


def by_entropy(probabilities: Tensor) -> Tensor:
    """exp(-H(p_m)), the inverse perplexity of each output: confident members weigh more, by a factor of at most K."""
    entropy: Tensor = torch.special.entr(probabilities).sum(dim=-1)
    return (-entropy).exp()


def by_agreement(probabilities: Tensor) -> Tensor:
    """exp(-KL(p_m || p)) with p the unweighted mean of the members: outliers weigh less."""
    mean = ensemble.average(probabilities)
    return (-torch.xlogy(probabilities, probabilities / mean.clamp_min(1e-300)).sum(dim=-1)).exp()


RULES: dict[str, Rule] = {"entropy": by_entropy, "agreement": by_agreement}


def rule(spec: ExampleWeights) -> Rule:
    """The function of the rule that a configuration names."""
    if not isinstance(spec, FactorySpec):
        return RULES[spec]
    return factories.bound(spec)


def of_examples(spec: ExampleWeights, probabilities: Tensor, present: Tensor | None = None) -> Tensor:
    """Weights [M, N] float64 that sum to 1 over the members.

    probabilities: [M, N, K] float. present: [M, N] bool, the members with an output for each example; None: all. A rule
    only gets the members that are present, and the others have the weight 0.

    Raises: `RequestError` where a user's rule raises or returns an invalid value.
    """
    values = probabilities.to(torch.float64)
    if present is None or bool(present.all()):
        return _scaled(spec, values)
    weights = values.new_zeros(values.shape[:2])
    for members, rows in ensemble.by_pattern(present):
        weights[members.unsqueeze(1), rows] = _scaled(spec, values[members][:, rows])
    return weights


def mean(spec: ExampleWeights, probabilities: Tensor, combine: str, present: Tensor | None = None) -> Tensor:
    """The members' weighted mean [N, K] float32 by a rule; its bits do not depend on the order of the members.

    probabilities, present: as in `of_examples`.
    """
    weights = of_examples(spec, probabilities, present)
    return ensemble.average(probabilities.to(torch.float64), weights, combine).to(torch.float32)


def soft_mean(
    spec: ExampleRule, logits: Tensor, temperature: float, combine: str, present: Tensor | None = None
) -> Tensor:
    """The members' answer by a rule, softened by T: [N, K] float32.

    logits: [M, N, K] float32. A rule for weights gets each member's softened probabilities. The answer of generalists
    and specialists is softened as a whole, as if it were that of one network: the mass of a dustbin would grow with T
    by the number of its classes. present: as in `of_examples`.
    """
    if not isinstance(spec, SpecialistRule):
        return mean(spec, torch.softmax(logits / temperature, dim=-1), combine, present)
    answer = together(spec, torch.softmax(logits.to(torch.float64), dim=-1), present)
    return torch.softmax(answer.clamp_min(specialists.TINY).log() / temperature, dim=-1).to(torch.float32)


def together(spec: SpecialistRule, probabilities: Tensor, present: Tensor | None = None) -> Tensor:
    """The answer [N, K] float64 of generalists and specialists at T = 1.

    probabilities: [M, N, K] float64. present: as in `of_examples`.
    """
    if present is None or bool(present.all()):
        return specialists.answer(probabilities, spec.classes)
    found = torch.empty_like(probabilities[0])
    for members, rows in ensemble.by_pattern(present):
        classes = spec.among(members.tolist()).classes
        found[rows] = specialists.answer(probabilities[members.unsqueeze(1), rows], classes)
    return found


def follows_from(spec: ExampleRule) -> Any:
    """The inputs that determine the weights, as JSON values: the name of a rule, or the user's code and its inputs."""
    if isinstance(spec, SpecialistRule):
        return {"specialists": spec.model_dump(mode="json")["classes"]}
    if not isinstance(spec, FactorySpec):
        return spec
    inputs = provenance.of_factory(spec, lambda: try_out(spec))
    return {**spec.model_dump(mode="json", exclude={"folder", "depends_on"}), **inputs}


def try_out(spec: ExampleWeights) -> None:
    """Validate a rule with random probabilities. Raises: as `of_examples`."""
    logits = torch.randn(TRIED, TRIED, TRIED, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    of_examples(spec, torch.softmax(logits, dim=-1))


def _scaled(spec: ExampleWeights, probabilities: Tensor) -> Tensor:
    shape = list(probabilities.shape[:2])
    called = f". It was called with probabilities {list(probabilities.shape)} float64."
    with calls.checked(f"{KEY}: {spec} raised", called):
        found = torch.as_tensor(rule(spec)(probabilities), dtype=torch.float64)
    if list(found.shape) != shape:
        raise RequestError(
            f"{KEY}: {spec} returned {list(found.shape)}; expected weights {shape}, members x examples. Correct the "
            "function."
        )
    totals = found.sort(dim=0).values.sum(dim=0)  # an order that does not depend on that of the members
    if not (bool((found >= 0).all()) and bool((totals > 0).all()) and bool(torch.isfinite(totals).all())):
        raise RequestError(
            f"{KEY}: {spec} returned weights that are not finite, below 0, or 0 for all members; expected finite "
            "weights >= 0, one above 0 for each example. Correct the function."
        )
    return found / totals
