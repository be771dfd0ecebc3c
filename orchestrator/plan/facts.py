"""What a plan follows from besides the configuration: the data's size, and the cluster."""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.cluster.resources import Machines
from workers.data.dataset import Dataset


@dataclass(frozen=True)
class DataFacts:
    """examples: of the transfer set, in one view. values: numbers of an example."""

    examples: int
    views: int
    classes: int
    values: int

    @classmethod
    def of(cls, dataset: Dataset) -> DataFacts:
        transfer = dataset.transfer
        return cls(len(transfer), dataset.views, dataset.classes, math.prod(transfer.x.shape[1:]))


@dataclass(frozen=True)
class Facts:
    """The data, and the machines that the cluster has or may grow to."""

    data: DataFacts
    machines: Machines
