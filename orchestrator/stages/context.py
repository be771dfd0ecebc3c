"""The context that every stage of a run receives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    from orchestrator.reporting.report import GenerationFigures, Report


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


@dataclass(frozen=True, kw_only=True)
class Context(BaseContext):
    """A running run: its configuration, data, machines, plan and observers."""

    dataset: Dataset
    data: ray.ObjectRef[Dataset]
    """The data set in Ray's object store, for all processes of the cluster."""
    plan: Plan
    """The decisions made before the stages start."""
    repetitions: Sequence[Report] = ()
    """Reports of the same run with other seeds."""
    students: Mapping[str, Report] = field(default_factory=dict)
    """Reports of further students of the same soft targets, by name."""
    generations: Sequence[GenerationFigures] = ()
    """The figures of students that taught each other."""
    test_inputs: Examples | None = None
    """The inputs of the test split with their texts, which `dataset` may lack; for the report's examples."""
    command: str = ""
    """The command that the user typed; empty for a run from Python."""
    ensemble_note: str = ""
    """Why the ensemble has its size, where the run has settled it."""
    page: str = ""
    """The run's page in MLflow, relative to the tracker's address."""

    def note(self, text: str) -> None:
        """Tell the user, unless the text is empty."""
        if text:
            self.events.note(text)
