"""How much a run has to compute: examples of each split, and epochs of each training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from workers.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Numbers of examples. lessons: those of train that the baseline learns from. transfer: in one view. of_stages:
    data of single stages of the student, by their names."""

    train: int
    lessons: int
    validation: int
    test: int
    transfer: int
    views: int = 1
    of_stages: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, dataset: Dataset) -> Workload:
        return cls(
            train=len(dataset.train),
            lessons=len(dataset.lessons),
            validation=len(dataset.validation),
            test=len(dataset.test),
            transfer=len(dataset.transfer),
            views=dataset.views,
            of_stages={name: len(x) for name, x in dataset.stages.items()},
        )

    def of_size(self, transfer: int) -> Workload:
        """The same with so many examples in the transfer set, and as many more for training. The other splits stay."""
        train, lessons = (round(each * transfer / self.transfer) for each in (self.train, self.lessons))
        return replace(self, transfer=transfer, train=train, lessons=lessons)

    @property
    def everything(self) -> int:
        """The examples of all splits."""
        return self.transfer + self.validation + self.test + sum(self.of_stages.values())
