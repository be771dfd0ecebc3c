"""What an ensemble would be worth, before it is trained: two or three members, and one network that trains longer.

It is a run of its own in the same storage, `<name>-worth`, so that the run proper reuses these members. Everything is
measured on the validation split, since the answer decides whether the others are trained.
"""

from __future__ import annotations

from orchestrator import pipeline
from orchestrator.config.run_config import RunConfig
from orchestrator.config.schema import MemberGroup
from orchestrator.observers.terminal import Screen
from orchestrator.pipeline import HELD_OUT, MEMBERS, Options
from orchestrator.reporting.content import Rows
from orchestrator.reporting.verdict import interval
from workers.errors import RequestError
from workers.evaluation.prospects import LONGER, Estimate, Forecast, forecast
from workers.specs import TrainingSpec

TRAINED = 3
"""Members that are trained, where the ensemble has more."""


def prospects(config: RunConfig, count: int | None, *, verbose: bool = False, screen: Screen | None = None) -> Forecast:
    """Train a few members of the ensemble, and foresee the accuracy of `count`; None: of as many as configured.

    Raises: `RequestError` for an ensemble whose members are loaded, or has too few of them.
    """
    count = count or config.ensemble.count
    if count is None:
        raise RequestError("ensemble.size: 'auto'. Expected a number, here or as `--members`.")
    if count < TRAINED:
        raise RequestError(
            f"--members: {count}; expected at least {TRAINED}, since two are trained to foresee the rest."
        )
    trained = min(TRAINED, count - 1)
    asked = _few(config, trained)
    options = Options(fresh=False, verbose=verbose, screen=screen or Screen(quiet=True))
    found = pipeline.executed(asked, (MEMBERS, HELD_OUT), options)[HELD_OUT]
    assert found.worth is not None
    sums = [each.of_blocks for each in found.sums.values()]
    longer = sums[trained] if len(asked.ensemble.groups) > 1 else None
    return forecast(sums[:trained], found.worth.best[trained - 1].of_blocks, longer, count, config.seed)


def _few(config: RunConfig, trained: int) -> RunConfig:
    """The run of a few members, and of a network that is trained longer where its recipe has epochs."""
    ensemble = config.ensemble
    group = ensemble.groups[0]
    if group.training is None or len(ensemble.groups) > 1:
        raise RequestError(
            "ensemble: `worth` trains some of the members and foresees the others. Expected `model` and `training` of "
            "members of one kind; of members that exist, `stillhouse run` reports what each is worth."
        )
    groups = [MemberGroup(model=group.model, size=trained, training=group.training)]
    if isinstance(group.training, TrainingSpec):
        longer = group.training.model_copy(update={"epochs": LONGER * group.training.epochs})
        groups.append(MemberGroup(model=group.model, size=1, training=longer))
    few = ensemble.model_copy(
        update={"members": tuple(groups), "model": None, "training": None, "size": "auto", "weights": "uniform"}
    )
    return config.model_copy(update={"name": f"{config.name}-worth", "ensemble": few, "seeds": 1})


def rows(found: Forecast) -> Rows:
    """The forecast as a table."""

    def row(name: str, of: Estimate | None, sign: str = "") -> list[list[str]]:
        if of is None:
            return []
        low, value, high = (f"{100 * each:{sign}.2f}" for each in (of.low, of.value, of.high))
        return [[name, value, f"{low} to {high}"]]

    return [
        ["on the validation split", "accuracy, %", "95% interval"],
        *row("one member", found.one),
        *row(f"{found.trained} members, trained", found.together),
        *row(f"{found.count} members, foreseen", found.members),
        *row(f"gain of {found.count} members over one", found.gain, "+"),
        *row(f"one network, {LONGER} times the training", found.longer),
        *row(f"one network, {found.count} times the training, foreseen", found.as_much),
    ]


def verdict(found: Forecast) -> str:
    """The forecast in sentences."""
    gain = found.gain
    points = f"{100 * gain.value:+.2f} points ({interval((gain.low, gain.high))})"
    parts = [
        f"{found.count} members are foreseen to gain {points} over one, from {found.examples:,} validation examples."
    ]
    if gain.low <= 0 <= gain.high:
        parts.append("That is not resolved: a larger validation split, or another member, would tell more.")
    if found.beats is not None:
        parts.append(
            f"With a probability of {found.beats:.0%} they are more accurate than one network with {found.count} times "
            "the training."
        )
    return " ".join(parts)
