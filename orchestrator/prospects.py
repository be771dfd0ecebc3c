"""What an ensemble would be worth, before it is trained: two or three members, and single networks beside them.

One such network trains longer, and one is larger if the user names what makes it so.

It is a run of its own in the same storage, `<name>-worth`, so that the run proper reuses these members. Everything is
measured on the validation split, since the answer decides whether the others are trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator import execution
from orchestrator.config import names
from orchestrator.config.ensemble import EnsembleSpec, MemberGroup
from orchestrator.config.initial import PREVIOUS
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.terminal import Screen
from orchestrator.pipeline import HELD_OUT, MEMBERS
from orchestrator.reporting.tables import significant
from orchestrator.stages.context import Options
from workers.errors import RequestError
from workers.evaluation.prospects import Forecast, Single, forecast
from workers.evaluation.tasks import ENSEMBLE, Totals
from workers.models import predictor
from workers.seeds import seeded
from workers.specs.models import AnyModel, Network
from workers.specs.training import TrainingSpec

TRAINED = 3
"""Members that are trained, where the ensemble has more."""
LONGER = 2
"""How many times as long the network trains that is compared with the members."""
LEAST_RATIO = 1.5
"""How much larger a larger network is at least; a smaller step says nothing of a much larger one."""
TRAINING, SIZE = "training", "size"
"""What a single network has more of, in the words of the verdict."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request. members: how many to forecast; None: as many as configured. larger: a larger network than a member."""

    members: int | None = None
    larger: AnyModel | None = None


def prospects(config: RunConfig, asked: Asked, *, verbose: bool = False, screen: Screen | None = None) -> Forecast:
    """Train a few members of the ensemble, and single networks, and forecast the accuracy of more members.

    Raises: `RequestError` for an ensemble whose members are loaded, or has too few of them, and for a network that is
    not larger.
    """
    count = config.ensemble.count if asked.members is None else asked.members
    if count is None:
        raise RequestError("ensemble.size: 'auto'. Expected a number, here or as `--members`.")
    if count < TRAINED:
        key = "--members" if asked.members is not None else "ensemble.size"
        raise RequestError(f"{key}: {count}; expected at least {TRAINED}, since two are trained to foresee the rest.")
    trained = min(TRAINED, count - 1)
    member, singles = _groups(config, asked, trained)
    few = config.ensemble.model_copy(
        update={
            "members": (member, *singles.values()),
            "model": None,
            "training": None,
            "sample": "all",
            "initial": None,
            "size": "auto",
            "weights": "uniform",
            "stop_when_flat": None,
        }
    )
    options = Options(verbose=verbose, screen=screen or Screen(quiet=True), part_of=config.name)
    results = execution.executed(_untaught(config, few), (MEMBERS, HELD_OUT), options)
    more = {TRAINING: float(LONGER), SIZE: _ratio([each.member.model for each in results[MEMBERS]])}
    return forecast_from(results[HELD_OUT], {name: more[name] for name in singles}, count, config.seed)


def _untaught(config: RunConfig, few: EnsembleSpec) -> RunConfig:
    """The run of members alone. Its checks try a student beside a member, and these are alike."""
    hidden = config.distillation.hidden.model_copy(update={"member": 0})
    distillation = config.distillation.model_copy(update={"hidden": hidden})
    return config.part(names.WORTH, ensemble=few, distillation=distillation)


def forecast_from(found: Totals, more: Mapping[str, float], count: int, seed: int) -> Forecast:
    """The forecast from what was measured: the members, then single networks. more: what each of these has more of, and
    how many times as much."""
    assert found.worth is not None
    sums = [of.of_blocks for name, of in found.sums.items() if name != ENSEMBLE]
    trained = len(sums) - len(more)
    rivals = {name: Single(more=times, sums=of) for (name, times), of in zip(more.items(), sums[trained:], strict=True)}
    return forecast(sums[:trained], found.worth.best[trained - 1].of_blocks, rivals, count, seed)


def _groups(config: RunConfig, asked: Asked, trained: int) -> tuple[MemberGroup, dict[str, MemberGroup]]:
    """The members that are trained, and single networks by what they have more of: training where the recipe has
    epochs, and size where a larger one is given."""
    ensemble = config.ensemble
    group = ensemble.groups[0]
    if group.training is None or len(ensemble.groups) > 1:
        raise RequestError(
            "ensemble: `worth` trains some of the members and foresees the others. Expected `model` and `training` of "
            "members of one kind; of members that exist, `stillhouse run` reports what each is worth."
        )
    if group.initial == PREVIOUS:
        raise RequestError(
            "ensemble.initial: previous. `worth` foresees members that are alike, and each of these has trained longer "
            "than the one before. `stillhouse run` reports what each is worth."
        )
    singles = {}
    if isinstance(group.training, TrainingSpec):
        longer = group.training.model_copy(update={"epochs": LONGER * group.training.epochs})
        singles[TRAINING] = group.model_copy(update={"size": 1, "training": longer})
    if asked.larger is not None:
        _check_larger(group.model, asked.larger)
        singles[SIZE] = group.model_copy(update={"model": asked.larger, "size": 1})
    return group.model_copy(update={"size": trained}), singles


def _check_larger(model: AnyModel, larger: AnyModel) -> None:
    if not isinstance(model, Network) or not isinstance(larger, Network):
        other = larger if isinstance(model, Network) else model
        raise RequestError(
            f"--larger: the size of {other.label} is not known. Expected a network as member and larger model; leave "
            "--larger out."
        )
    ratio = _ratio([model, larger])
    if ratio < LEAST_RATIO:
        raise RequestError(
            f"--larger: the network has {significant(ratio)} times the weights of a member; expected at least "
            f"{LEAST_RATIO:g} times, such as by a key of `ensemble.model.kwargs` that makes it wider."
        )


def _ratio(models: Sequence[AnyModel]) -> float:
    """The weights of the last of these networks, over those of the first; 1 where they are no networks."""
    if any(not isinstance(model, Network) for model in models):
        return 1.0
    with seeded(0):
        first, last = (predictor.kind_of(model).made(model) for model in (models[0], models[-1]))
    sizes = [sum(each.numel() for each in network.parameters()) for network in (first, last)]
    return float(sizes[1]) / float(sizes[0])
