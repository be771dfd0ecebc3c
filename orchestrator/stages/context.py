"""What every stage of a run works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cluster.resources import Machines
from orchestrator.config.run_config import RunConfig
from orchestrator.plan.plan import Plan
from workers.artifacts.catalogue import Catalogue
from workers.data.dataset import Dataset

if TYPE_CHECKING:
    import ray

    from orchestrator.cluster.heartbeat import Heartbeat
    from orchestrator.observers.fanout import Fanout


@dataclass(frozen=True, kw_only=True)
class Context:
    """A run that has begun: what was asked for, on which data, where, and what observes it."""

    config: RunConfig
    dataset: Dataset
    data: ray.ObjectRef[Dataset]
    """The data set, where all of the cluster's processes find it."""
    machines: Machines
    plan: Plan
    """What was decided before anything began."""
    events: Fanout
    """What stages emit their events to."""
    heartbeat: Heartbeat
    """News of worker processes."""
    artifacts: Catalogue
    """What this run and the others in its storage have computed."""
    page: str = ""
    """Of the run in MLflow, behind the tracker's address."""

    def note(self, text: str) -> None:
        """Tell the user, unless the text is empty."""
        if text:
            self.events.note(text)
