"""The answer of generalists and specialists together (Hinton, Vinyals and Dean 2015, section 5.4).

A specialist m tells its own classes S_m apart, and answers all others as one. It is active for an example whose most
probable class, by the generalists' mean p_g, is in S_m. The answer is the distribution q that minimises

    KL(p_g || q) + sum over active m of KL(p_m || q),

where q is compared with p_m on S_m and on all other classes together. The problem is convex. For one active specialist
it has a closed form, which is where the steps begin: classes outside S_m keep the proportions of p_g. For several that
overlap the steps are those of expectation-maximisation (Dempster, Laird and Rubin 1977): each p_m's mass of the other
classes is divided among them as by q, and q is the mean of p_g and the p_m so completed.

Each example is computed by itself, and sums over members do not depend on their order, so that no bit follows from the
order of the members or from which examples are computed together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workers import ensemble

GAP = 1e-10
"""Nats of the objective for each of its terms, above the minimum, at which the steps of an example end."""
TINY = 2.0**-1022
"""The smallest normal float64, which a mass is at least divided by."""
MOST_STEPS = 2000
"""Steps at which they end at last. The distance to the minimum falls at least as 1 / steps."""


def answer(probabilities: Tensor, classes: Sequence[Sequence[int]]) -> Tensor:
    """The answer [N, K] float64 of some members.

    probabilities: [M, N, K] float64. classes: the own classes of each member; empty for a generalist. Where there is no
    generalist, the mean of the specialists takes its place, so that every choice of members has an answer.
    """
    general = [k for k, own in enumerate(classes) if not own] or list(range(len(classes)))
    special = [k for k, own in enumerate(classes) if own]
    mean = _sum([probabilities[k] for k in general]) / len(general)
    return combined(mean, probabilities[special], [classes[k] for k in special])


def combined(generalist: Tensor, specialists: Tensor, classes: Sequence[Sequence[int]]) -> Tensor:
    """The answer [N, K] float64 of generalists and specialists.

    generalist: [N, K] float64, the generalists' mean p_g. specialists: [M, N, K] float64 probabilities; only the sum of
    those outside a specialist's own classes counts. classes: the own classes of each, neither none nor all of them.
    """
    found = generalist.clone()
    if not len(specialists):
        return found
    own = torch.zeros(len(classes), generalist.shape[-1], dtype=torch.bool, device=generalist.device)
    for mine, ids in zip(own, classes, strict=True):
        mine[list(ids)] = True
    for members, rows in ensemble.by_pattern(own[:, generalist.argmax(dim=-1)]):  # those active
        if len(members):
            found[rows] = _together(generalist[rows], specialists[members.unsqueeze(1), rows], own[members])
    return found


def _together(generalist: Tensor, specialists: Tensor, own: Tensor) -> Tensor:
    """The answer [n, K] for examples of the same active specialists, [A, n, K]. own: [A, K] bool."""
    own = own.unsqueeze(1)
    known = _sum([generalist, *(specialists * own)])
    others = (specialists * ~own).sum(dim=-1, keepdim=True)
    found = _step(generalist.clamp_min(TINY), known, others, ~own)
    left = torch.arange(len(found), device=found.device)
    for _ in range(MOST_STEPS):
        before = found[left]
        after = _step(before, known[left], others[:, left], ~own)
        found[left] = after
        rises = (after / before.clamp_min(TINY)).amax(dim=-1) > 1 + GAP  # bounds the distance to the minimum
        left = left[rises]
        if not len(left):
            break
    return found


def _step(q: Tensor, known: Tensor, others: Tensor, rest: Tensor) -> Tensor:
    """One step of expectation-maximisation from q [n, K].

    known: [n, K], mass whose class is known. others: [A, n, 1], the mass of all other classes of each specialist.
    rest: [A, 1, K] bool, which classes these are.
    """
    of_rest = q * rest
    mass = of_rest.sum(dim=-1, keepdim=True)
    shares = torch.where(mass > 0, of_rest / mass.clamp_min(TINY), rest / rest.sum(dim=-1, keepdim=True))
    total = _sum([known, *(others * shares)])
    return total / total.sum(dim=-1, keepdim=True)


def _sum(of: Sequence[Tensor]) -> Tensor:
    """A sum in an order that does not depend on that of the terms."""
    return torch.stack(list(of)).sort(dim=0).values.sum(dim=0)
