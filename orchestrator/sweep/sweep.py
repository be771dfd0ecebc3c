"""`stillhouse sweep`: from the axes to one table, a page, heat maps and a parent run in MLflow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray

from orchestrator.cluster import connection
from orchestrator.cluster.resources import Machines
from orchestrator.config import grid, loading, names
from orchestrator.config.grid import Axis, Point, Range
from orchestrator.config.run_config import RunConfig
from orchestrator.observers.mlflow_sweep import TrackedSweep
from orchestrator.observers.terminal import Screen
from orchestrator.plan import students
from orchestrator.reporting import report as reports
from orchestrator.reporting import sweep_page, sweeps
from orchestrator.reporting.content import Table
from orchestrator.reporting.markdown import table
from orchestrator.reporting.sweeps import MAPS, RECORD, Sweep, SweptRun, swept
from orchestrator.run_folder import lock
from orchestrator.run_folder.lock import Lock
from orchestrator.stages import preflight
from orchestrator.sweep.processes import Job, Processes, digest
from orchestrator.sweep.proposals import Proposals, of_grid, of_search, side_by_side
from workers import storage
from workers.errors import RequestError, RunError, naming

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 4
"""Trials that a search proposes at a time. Each batch follows from the outcomes of the earlier ones, so the number is
the same on every cluster: a search then repeats."""
KEEP = "distillation.keep"
OF_MEANS = (
    "distillation.temperature",
    "distillation.top_k",
    "distillation.dtype",
    "ensemble.combine",
    "ensemble.weights",
)
"""Keys whose change takes no forward pass of a teacher, where the members' logits are kept."""
TEXT, PAGE = "sweep.md", "sweep.html"
"""Files in the sweep's folder, besides those that `sweeps` names."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request. path: of the configuration. over: axes as in `--over`. trials: of a search; None: the whole grid.
    batch: trials that a search proposes at a time; None: `BATCH`."""

    path: str
    overrides: Sequence[str] = ()
    over: Sequence[str] = ()
    trials: int | None = None
    batch: int | None = None


def sweep(base: RunConfig, asked: Asked, *, verbose: bool = False, screen: Screen | None = None) -> tuple[Sweep, str]:
    """Execute a sweep; returns its outcome and its folder, `<storage>/<name>-sweep`.

    base: the configuration at `asked.path`, with its overrides.

    Raises: `RequestError` where a point is no valid configuration, or another sweep or something else has the folder,
    before any run starts.
    """
    screen = screen or Screen(quiet=True)
    axes = grid.axes(asked.over, trials=asked.trials)
    if asked.batch is not None and asked.trials is None:
        raise RequestError("--batch: a grid proposes all its points; it belongs to a search with `--trials N`.")
    if asked.batch is not None and asked.batch < 1:
        raise RequestError(f"--batch: {asked.batch}; expected at least 1.")
    common, began = [*asked.overrides, *_keeping(asked, axes)], digest(asked.path)
    axes = _as_taken(asked.path, common, axes)
    proposals = (
        of_grid(axes) if asked.trials is None else of_search(axes, asked.trials, asked.batch or BATCH, base.seed)
    )
    first = _check(asked.path, base, common, axes, screen, search=asked.trials is not None)
    name = f"{base.name}-{names.SWEEP}"
    folder = storage.join(base.storage, name)
    storage.probe_of_run(base.storage)
    _check_folder(folder)
    preflight.check(first, screen.wait_for)
    with (
        connection.connect(base.ensemble.start_timeout_s, verbose=verbose, wait_for=screen.wait_for) as machines,
        Lock(folder),
    ):
        at_once = _students_at_once(base, machines)
        tracked = TrackedSweep(base.tracking.uri, base.tracking.experiment, name, folder)
        outcome: Sweep | None = None
        files: dict[str, bytes] = {}
        try:
            address = ray.get_runtime_context().gcs_address
            of_runs = Processes(address, tracked.run_id, verbose)
            runs = Runs(
                processes=of_runs,
                path=asked.path,
                digest=began,
                common=common,
                base=base,
                at_once=at_once,
                screen=screen,
            )
            found = _run(proposals, runs)
            outcome = sweeps.collected(name, [each.key for each in axes], found)
            files = _write(outcome, folder, drawn=asked.trials is None)
        except RequestError as error:  # validated before, so a storage was lost
            raise RunError(str(error)) from error
        finally:
            tracked.close(outcome, files)
    return outcome, folder


@dataclass(frozen=True, kw_only=True)
class Runs:
    """How points become runs. path, digest: of the configuration as the sweep began. common: overrides of every run.
    at_once: runs at a time."""

    processes: Processes
    path: str
    digest: str
    common: Sequence[str]
    base: RunConfig
    at_once: int
    screen: Screen


def _run(proposals: Proposals, of: Runs) -> list[SweptRun]:
    """Execute batch by batch; returns the runs in the order of their batches."""
    found: list[SweptRun] = []
    taken = [each.name for each in of.base.of_command()]
    batch = next(proposals, None)
    while batch is not None:
        new = grid.names(of.base.name, batch, taken, _most(of.base))
        taken += new
        done = _batch(batch, new, [run.values for run in found if not run.problem], of)
        found += done
        try:
            batch = proposals.send(done)
        except StopIteration:
            batch = None
    return found


def _most(base: RunConfig) -> int:
    """Characters of a point's name, which leave enough for the endings of its own further runs."""
    return grid.MOST_NAME - len(base.longest_ending)


def _batch(batch: Sequence[Point], given: Sequence[str], before: Sequence[Point], of: Runs) -> list[SweptRun]:
    """Execute the points of a batch under the given names; returns their runs in the same order.

    before: the points of complete runs of earlier batches.
    """
    found: dict[int, SweptRun] = {}
    while left := [place for place in range(len(batch)) if place not in found]:
        done = [*before, *(run.values for run in found.values() if not run.problem)]
        now = [left[place] for place in side_by_side([batch[place] for place in left], done)]
        jobs = [
            Job(of.path, given[place], [*of.common, *grid.overrides(batch[place]), f"name={given[place]}"], of.digest)
            for place in now
        ]
        of.screen.say(f"runs of the sweep: {', '.join(job.name for job in jobs)}")
        for place, problem in zip(now, of.processes.run(jobs, of.at_once), strict=True):
            name = given[place]
            reported = [] if problem else reports.repetitions(storage.join(of.base.storage, name))
            found[place] = swept(name, dict(batch[place]), reported, problem)
            of.screen.say(f"{name}: {f'failed: {problem}' if problem else 'done'}")
    return [found[place] for place in range(len(batch))]


def _keeping(asked: Asked, axes: Sequence[Axis]) -> list[str]:
    """The override that keeps members' logits, where they spare passes and the configuration does not decide it."""
    written = loading.read(asked.path)
    for each in asked.overrides:
        loading.override(written, each)
    decided = "keep" in (written.get("distillation") or {}) or any(axis.key == KEEP for axis in axes)
    return [] if decided or not any(axis.key in OF_MEANS for axis in axes) else [f"{KEEP}=members"]


def _as_taken(path: str, common: Sequence[str], axes: Sequence[Axis]) -> list[Axis]:
    """The axes, with whole numbers in a range between whole ends such as `1e2..1e3` where its key takes no others."""
    first = grid.each_value(grid.ends(axes))[0]

    def settled(axis: Axis) -> Axis:
        if not isinstance(axis, Range) or axis.is_whole or not axis.may_be_whole:
            return axis
        try:
            RunConfig.load(path, [*common, *grid.overrides({**first, axis.key: axis.low + 0.5})])
        except RequestError:
            return axis.whole()
        return axis

    return [settled(axis) for axis in axes]


def _check(
    path: str, base: RunConfig, common: Sequence[str], axes: Sequence[Axis], screen: Screen, *, search: bool = False
) -> RunConfig:
    """Load the points and build what they name; returns the first, named as `base`.

    search: load each value once, and of a range the ends, since no grid of them is run. Raises: `RequestError`.
    """
    ends = grid.ends(axes)
    points, configs, built = grid.each_value(ends) if search else grid.points(ends), [], set[str]()
    screen.wait_for(f"building the models of {len(points):,} runs")
    for point in points:
        with naming(f"--over {', '.join(grid.overrides(point))}"):
            name = grid.name_of(base.name, point, _most(base))
            configs.append(RunConfig.load(path, [*common, *grid.overrides(point), f"name={name}"]))
            for run in (configs[-1], *configs[-1].of_students().values()):
                preflight.check_code(run, built)
    return configs[0].model_copy(update={"name": base.name})


def _check_folder(folder: str) -> None:
    """Raise `RequestError` where the folder is in use, or holds what no sweep wrote."""
    lock.check_free(folder)
    others = [name for name in storage.names(folder) if not name.startswith(lock.NAME)]
    if others and RECORD not in others:
        raise RequestError(
            f"'{folder}' holds {others[0]} and no {RECORD}, so it is not the folder of a sweep. Move it away, or set "
            "another `name` or `storage`."
        )


def _students_at_once(config: RunConfig, machines: Machines) -> int:
    """How many students the cluster trains at a time."""
    placed = students.place(config.student, machines)
    here = machines.of("student")
    return max(1, int(here.gpus // placed.gpus) if placed.gpus else int(here.cpus // placed.cores))


def _write(outcome: Sweep, folder: str, *, drawn: bool) -> dict[str, bytes]:
    """Write table, page and, if drawn, the heat maps; returns the page and the heat maps by their file names."""
    storage.write_text(storage.join(folder, RECORD), outcome.model_dump_json(indent=2) + "\n")
    storage.write_text(storage.join(folder, TEXT), f"# {outcome.name}\n\n{table(Table(sweeps.rows(outcome)))}")
    for name in MAPS.values():  # of an earlier sweep
        storage.remove(storage.join(folder, name))
    figures = {name: sweeps.heat_map(outcome, name) for name in MAPS if drawn}
    maps = {name: _png(figure) for name, figure in figures.items() if figure is not None}
    files = {MAPS[name]: png for name, png in maps.items()}
    files[PAGE] = sweep_page.page(outcome, maps).encode()
    for name, content in files.items():
        storage.write_bytes(storage.join(folder, name), content)
    return files


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
