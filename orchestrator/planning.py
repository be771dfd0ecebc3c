"""What a run would do, before it does anything: `stillhouse plan`.

The facts come from the data and from the cluster or its file, the rates from a rehearsal or from shapes. The outlook is
computed from these by `orchestrator.plan`, which is pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.cluster import cluster_file, connection
from orchestrator.cluster.resources import Machines
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.terminal import Screen
from orchestrator.plan import plan_file
from orchestrator.plan import rates as estimated
from orchestrator.plan.designs import Design, designs
from orchestrator.plan.facts import DataFacts, Facts
from orchestrator.plan.fit import misfits
from orchestrator.plan.outlook import Case, Outlook
from orchestrator.plan.plan import plan
from orchestrator.plan.rates import GPU_FLOPS, Rates
from orchestrator.plan.what_if import Variation, fastest, smallest, variations
from orchestrator.plan.whole import Runs, Timed, whole
from orchestrator.plan.workload import Workload
from orchestrator.rehearsal import EPOCH_S, rehearse
from orchestrator.reporting.content import Rows
from orchestrator.reporting.tables import hours
from orchestrator.run_folder import owned
from orchestrator.stages import preflight
from workers import json_text, storage
from workers.data import loading
from workers.data.dataset import Dataset
from workers.data.memory import size
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


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A plan, and what it rests on. probed: training examples of the rehearsal; 0: rates are estimated from shapes."""

    name: str
    outlook: Outlook
    probed: int
    misfits: tuple[str, ...]
    variations: tuple[Variation, ...]
    designs: tuple[Design, ...] = ()


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
        data, work = dataclasses.replace(data, examples=asked.examples), work.of_size(asked.examples)
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


def rows(found: Planned) -> Rows:
    """The plan as a table."""
    header = ["stage", "where", "seconds", "core h", "GPU h", "moved", "stored", "memory of a process"]
    total = found.outlook
    return [
        header,
        *(
            [
                each.name,
                each.where,
                duration(each.seconds),
                hours(each.core_hours),
                hours(each.gpu_hours),
                _bytes(each.moved),
                _bytes(each.stored),
                _bytes(each.memory),
            ]
            for each in total.stages
        ),
        ["together", "", duration(total.seconds), hours(total.core_hours), hours(total.gpu_hours),
         _bytes(total.moved), _bytes(total.stored), ""],
    ]  # fmt: skip


def what_if(found: Planned) -> Rows:
    """The variations as a table."""

    def row(name: str, of: Outlook) -> list[str]:
        return [name, duration(of.seconds), f"the {of.bound_by}", _bytes(of.moved), _bytes(of.stored)]

    return [
        ["what if", "together", "bound by", "moved", "stored"],
        row("as configured", found.outlook),
        *(row(each.change, each.outlook) for each in found.variations),
    ]


def of_designs(found: Planned) -> Rows:
    """The ways to store large soft targets as a table; empty where they are small."""
    header = [
        "soft targets",
        "stored",
        "an epoch reads for",
        "and computes for",
        "streaming saves",
        "together",
        "holds",
    ]
    rows = [
        [
            f"{each.name} (as configured)" if each.configured else each.name,
            size(each.stored),
            duration(each.read_s),
            duration(each.computed_s),
            duration(each.streamed_s) if each.streamed_s else "-",
            duration(each.seconds),
            "yes" if each.holds else "no",
        ]
        for each in found.designs
    ]
    return [header, *rows] if rows else []


def _of_design(found: Planned) -> list[str]:
    """Whether large soft targets hold as they are configured, and what does otherwise."""
    own = next((each for each in found.designs if each.configured), None)
    if own is None:
        return []
    if own.holds:
        return [f"Soft targets hold as configured, {own.name}: {_reasons(own)}."]
    other = next((each for each in found.designs if each.holds), None)
    instead = f"What holds: {other.name}, {_reasons(other)}." if other else "No other way to store them holds, either."
    return [f"Soft targets do not hold as configured, {own.name}: {_reasons(own)}. {instead}"]


def _reasons(of: Design) -> str:
    """The figures by which a design holds or not."""
    room = " and storage has less room" if of.lacks_storage else ""
    read = f"an epoch reads for {duration(of.read_s)} and computes for {duration(of.computed_s)}"
    return f"they take {size(of.stored)}{room}, {read}"


def verdict(found: Planned) -> str:
    """The plan in sentences."""
    of, lines = found.outlook, []
    basis = (
        f"from a rehearsal on {found.probed:,} training examples"
        if found.probed
        else "from shapes alone, and so within a factor of some three"
    )
    price = "" if of.price is None else f", {of.price:,.2f} at the prices given"
    lines.append(f"About {duration(of.seconds)}{price}, {basis}. Bound by the {of.bound_by}.")
    faster, smaller = fastest(of, found.variations), smallest(of, found.variations)
    if faster is not None:
        lines.append(f"What saves most time: {faster.change}, {duration(faster.outlook.seconds)} instead.")
    if smaller is not None:
        instead = f"{size(smaller.outlook.stored)} instead of {size(of.stored)}"
        lines.append(f"What saves most storage: {smaller.change}, {instead}.")
    lines += _of_design(found)
    lines += [f"Does not fit: {each}" for each in found.misfits]
    return "\n".join(lines)


def as_json(found: Planned) -> str:
    """The plan as JSON: the outlook, what it rests on, what does not fit, and the variations."""
    content: dict[str, Any] = {
        "name": found.name,
        "probed_examples": found.probed,
        **_described(found.outlook),
        "does_not_fit": list(found.misfits),
        "designs": [dataclasses.asdict(each) | {"holds": each.holds} for each in found.designs],
        "what_if": {each.change: _described(each.outlook) for each in found.variations},
    }
    return json_text.dumps(content, indent=2) + "\n"


def _described(of: Outlook) -> dict[str, Any]:
    totals = {"stored": of.stored, "moved": of.moved, "core_hours": of.core_hours, "gpu_hours": of.gpu_hours}
    return {**dataclasses.asdict(of), **totals}


def duration(seconds: float) -> str:
    """Seconds in readable form: `42 s`, `7 min`, `3.1 h`, `12 days`."""
    for limit, unit, digits in ((120, 1, "{:.0f} s"), (7200, 60, "{:.0f} min"), (172800, 3600, "{:.1f} h")):
        if seconds < limit:
            return digits.format(seconds / unit)
    return f"{seconds / 86400:,.1f} days"


def _bytes(count: int) -> str:
    return size(count) if count else "-"
