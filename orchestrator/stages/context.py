"""The context that every stage of a run receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from orchestrator.cluster.resources import Machines
from orchestrator.config.run_config import RunConfig
from orchestrator.plan.plan import Plan
from workers.artifacts.catalogue import Catalogue
from workers.data.dataset import Dataset
from workers.data.examples import Examples

if TYPE_CHECKING:
    import ray

    from orchestrator.cluster.heartbeat import Heartbeat
    from orchestrator.observers.fanout import Fanout
    from orchestrator.observers.terminal import Screen
    from orchestrator.reporting.report import GenerationFigures, Report


@dataclass(frozen=True)
class Options:
    """verbose: show Ray's log lines. repetitions: reports of other seeds. students: reports of further students, by
    name. generations: of students that taught each other. command: what the user typed. note: why the ensemble has its
    size.

    done: the names of the command's complete runs, to which `executed` adds. fresh: the command recomputes complete
    artifacts: each run clears its folder as it begins, and reuses artifacts of the runs in `done` alone, so that the
    runs of one command share what they compute.

    sampled: the part of the data that the stages get, from the data and the machines. tracked: whether MLflow gets the
    run. several: whether the command has several runs, each of which is then named on the screen. part_of: the name of
    the run that this one belongs to; None: a run of its own.
    """

    verbose: bool
    screen: Screen
    fresh: bool = False
    done: set[str] = field(default_factory=set)
    repetitions: Sequence[Report] = ()
    students: Mapping[str, Report] = field(default_factory=dict)
    generations: Sequence[GenerationFigures] = ()
    sampled: Callable[[Dataset, Machines], Dataset] = lambda dataset, machines: dataset
    tracked: bool = True
    command: str = ""
    note: str = ""
    several: bool = False
    part_of: str | None = None

    def starts_over(self, run: str) -> bool:
        """Whether the run of this name has yet to clear its folder."""
        return self.fresh and run not in self.done


@dataclass(frozen=True, kw_only=True)
class BaseContext:
    """The part of a context that needs no complete data set."""

    config: RunConfig
    machines: Machines
    events: Fanout
    """Receives the events of all stages."""
    heartbeat: Heartbeat
    """News of worker processes."""
    artifacts: Catalogue
    """Artifacts of this run and of others in its storage."""

    def note(self, text: str) -> None:
        """Tell the user, unless the text is empty."""
        if text:
            self.events.note(text)


@dataclass(frozen=True, kw_only=True)
class Context(BaseContext):
    """A running run: its configuration, data, machines, plan and observers."""

    dataset: Dataset
    data: ray.ObjectRef[Dataset]
    """The data set in Ray's object store, for all processes of the cluster."""
    plan: Plan
    """The decisions made before the stages start."""
    options: Options
    """How the command executes its runs, and what it already knows."""
    test_inputs: Examples | None = None
    """The inputs of the test split with their texts, which `dataset` may lack; for the report's examples."""
    page: str = ""
    """The run's page in MLflow, relative to the tracker's address."""
