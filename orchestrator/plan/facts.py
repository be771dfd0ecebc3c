"""What a plan follows from besides the configuration: the data's size, and the cluster."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.cluster.resources import Machines
from workers.data.dataset import Dataset
from workers.data.examples import values_of


@dataclass(frozen=True)
class DataFacts:
    """examples: of the transfer set, in one view. values: numbers of an example. positions: rows of soft targets of an
    example, in the mean."""

    examples: int
    views: int
    classes: int
    values: int
    positions: float = 1.0

    @classmethod
    def of(cls, dataset: Dataset) -> DataFacts:
        transfer = dataset.transfer
        values = values_of(transfer.x)
        return cls(len(transfer), dataset.views, dataset.classes, values, transfer.rows.mean)


@dataclass(frozen=True)
class Facts:
    """The data, and the machines that the cluster has or may grow to."""

    data: DataFacts
    machines: Machines
