"""What a run would do, before it does anything: `stillhouse plan`.

The facts come from the data and from the cluster or its file, the rates from a rehearsal or from shapes. The outlook is
computed from these by `orchestrator.plan`, which is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.cluster import cluster_file, connection
from orchestrator.cluster.resources import Machines
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.terminal import Screen
from orchestrator.plan import plan_file
from orchestrator.plan import rates as estimated
from orchestrator.plan.designs import designs
from orchestrator.plan.facts import DataFacts, Facts
from orchestrator.plan.fit import misfits
from orchestrator.plan.outlook import Case
from orchestrator.plan.plan import plan
from orchestrator.plan.rates import GPU_FLOPS, Rates
from orchestrator.plan.summary import Planned
from orchestrator.plan.what_if import variations
from orchestrator.plan.whole import Runs, Timed, whole
from orchestrator.plan.workload import Workload
from orchestrator.rehearsal import EPOCH_S, rehearse
from orchestrator.run_folder import owned
from orchestrator.stages import preflight
from workers import storage
from workers.data import loading
from workers.data.dataset import Dataset
from workers.errors import RequestError
from workers.models.profile import Profile, profile


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request for a plan.

    cluster: a file with the machines; None: those of this machine, or of the cluster in RAY_ADDRESS. probe: whether to
    rehearse. examples: plan for a transfer set of this size instead of that of the data. gpu_flops: operations per
    second of one GPU, where rates are estimated.
    """

    cluster: str | None = None
    probe: bool = True
    examples: int | None = None
    gpu_flops: float = GPU_FLOPS


def planned(config: RunConfig, asked: Asked, *, verbose: bool = False, screen: Screen | None = None) -> Planned:
    """Plan a run. Trains nothing but the rehearsal; a plan of the data as it is stays in the run's folder.

    Raises: `RequestError` where the run would, or the cluster's file is none; `RunError` where the rehearsal fails.
    """
    screen = screen or Screen(quiet=True)
    if asked.examples is not None and asked.examples < 1:
        raise RequestError(f"--examples: {asked.examples}; expected at least 1.")
    if not asked.gpu_flops > 0:
        raise RequestError(f"--gpu-tflops: {asked.gpu_flops / 1e12:g}; expected a number above 0.")
    other = None if asked.cluster is None else cluster_file.machines(asked.cluster)
    probe = asked.probe and (other is None or (not other.cuda and _has_no_cuda()))
    keeps = probe and other is None and asked.examples is None
    if keeps:  # before the rehearsal, which takes a minute
        owned.check(config, fresh=False)
    if not probe:
        screen.wait_for("reading the data")
        dataset = loading.load(config.every_split, config.seed)
        runs, probed = from_shapes(config, dataset, other or _machines(config, verbose, screen), asked), 0
    else:
        runs, probed = _rehearsed(config, other, asked, verbose=verbose, screen=screen)
    found = whole(runs)
    if keeps:
        reason = plan_file.write(runs.first.case.config, runs.first.outlook)
        if reason:
            screen.say(f"The plan is not kept for the report of the run: {reason}.")
    free = storage.free_bytes(config.storage) if other is None else None
    return Planned(
        name=config.name,
        outlook=found,
        probed=probed,
        misfits=tuple(misfits(runs, found, free)),
        variations=tuple(variations(runs)),
        designs=designs(runs, free),
    )


def from_shapes(config: RunConfig, dataset: Dataset, machines: Machines, asked: Asked) -> Runs:
    """All runs, with rates from the operations of each network."""

    def timed(of: RunConfig) -> Timed:
        own = dataset if of.every_split == config.every_split else loading.load(of.every_split, of.seed)
        case = _case(of, own, machines, asked)
        return Timed(case, estimated.of_shapes(case.config, case.plan, case.profiles, asked.gpu_flops))

    return Runs(timed(config), {name: timed(each) for name, each in config.of_students().items()})


def _rehearsed(
    config: RunConfig, other: Machines | None, asked: Asked, *, verbose: bool, screen: Screen
) -> tuple[Runs, int]:
    """All runs, with the rates of a rehearsal; and the number of its training examples."""
    estimates: list[Runs] = []

    def share(dataset: Dataset, machines: Machines) -> float:
        runs = from_shapes(config, dataset, other or machines, asked)
        estimates.append(runs)
        of_data = Workload.of(dataset)
        slowest_s = max(_slowest(each.rates, of_data) for each in (runs.first, *runs.students.values()))
        part = min(1.0, EPOCH_S / slowest_s)
        screen.wait_for(f"a rehearsal on {round(part * of_data.train):,} of {of_data.train:,} training examples")
        return part

    found = rehearse(config, share, verbose=verbose)
    (runs,) = estimates
    students = {name: Timed(each.case, found.students[name]) for name, each in runs.students.items()}
    return Runs(Timed(runs.first.case, found.rates), students), found.work.train


def _slowest(rates: Rates, work: Workload) -> float:
    """Seconds of the longest epoch."""
    trainings = [each for each in (*rates.members, rates.baseline, *rates.student) if each is not None]
    most = max(work.train, work.transfer)
    return max(each.epoch_s(most, work.validation) for each in trainings)


def _case(config: RunConfig, dataset: Dataset, machines: Machines, asked: Asked) -> Case:
    config = preflight.settled(config, dataset)
    data, work = DataFacts.of(dataset), Workload.of(dataset)
    if asked.examples is not None:
        asked_for = work.of_size(asked.examples)
        data, work = data.of_size(asked.examples, asked_for.everything / work.everything), asked_for
    facts = Facts(data, machines, preflight.beside_bytes(config))
    return Case(config=config, facts=facts, plan=plan(config, facts), work=work, profiles=_profiles(config, dataset))


def _profiles(config: RunConfig, dataset: Dataset) -> Mapping[str, Profile | None]:
    needed = [f"{key}.model" for key in (*config.ensemble.keys(), "student")]
    return {key: profile(config.models[key], dataset.train.x) for key in needed}


def _has_no_cuda() -> bool:
    """Whether a rehearsal here would measure cores. Of a cluster that is not yet connected it is taken so."""
    here = connection.expected()
    return here is None or not here.cuda


def _machines(config: RunConfig, verbose: bool, screen: Screen) -> Machines:
    """The machines of a run here: of this machine, or of the running cluster."""
    here = connection.expected()
    if here is not None:
        return here
    with connection.connect(config.ensemble.start_timeout_s, verbose=verbose, wait_for=screen.wait_for) as machines:
        return machines
