"""How much a run has to compute: examples of each split, and epochs of each training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from workers.data import masked_texts
from workers.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Numbers of examples. lessons: those of train that the baseline learns from. transfer: in one view. of_stages:
    data of single stages of the student, by their names. texts: those of masked examples, fewer where there are copies;
    None: no examples are masked."""

    train: int
    lessons: int
    validation: int
    test: int
    transfer: int
    views: int = 1
    of_stages: Mapping[str, int] = field(default_factory=dict)
    texts: int | None = None

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
            texts=masked_texts.number_of_texts(dataset.inputs),
        )

    def of_size(self, transfer: int) -> Workload:
        """The same with so many examples in the transfer set, and as many more for training. The other splits stay."""
        train, lessons = (round(each * transfer / self.transfer) for each in (self.train, self.lessons))
        found = replace(self, transfer=transfer, train=train, lessons=lessons)
        if self.texts is None:
            return found
        return replace(found, texts=round(self.texts * found.everything / self.everything))

    @property
    def everything(self) -> int:
        """The examples of all splits."""
        return self.transfer + self.validation + self.test + sum(self.of_stages.values())

    @property
    def tokenized(self) -> int:
        """What a tokenizer gets of all splits: the examples, or the texts of masked ones."""
        return self.everything if self.texts is None else self.texts
