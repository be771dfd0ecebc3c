"""What every stage of a run works with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cluster.resources import Machines, Placement
from orchestrator.config.run_config import RunConfig
from workers.data.dataset import Dataset

if TYPE_CHECKING:
    import ray

    from orchestrator.observers.journal import Journal


@dataclass(frozen=True)
class Context:
    """A run that has begun: what was asked for, on which data, where, and who hears of it."""

    config: RunConfig
    dataset: Dataset
    data: ray.ObjectRef[Dataset]
    """The data set, where all of the cluster's processes find it."""
    machines: Machines
    placement: Placement
    """Of the ensemble's members."""
    journal: Journal
