"""The inputs of a plan besides the configuration: the size of the data, and the cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace

from orchestrator.cluster.resources import Machines
from workers.data.dataset import Dataset
from workers.data.examples import Columns, arrays_of, columns_of, embedded, values_of
from workers.data.masked_texts import MaskedColumns
from workers.data.ragged import Ragged
from workers.data.texts import is_text


@dataclass(frozen=True)
class DataFacts:
    """The size of the data.

    examples: number of transfer examples in one view. values: numbers per example. positions: mean number of rows of
    soft targets per example. embedded: numbers that a model makes of each value (`examples.embedded`).
    held: bytes of all splits in memory; mapped files are not in it. texts: those of them that are texts.
    """

    examples: int
    views: int
    classes: int
    values: int
    positions: float = 1.0
    embedded: int = 1
    held: int = 0
    texts: int = 0

    @classmethod
    def of(cls, dataset: Dataset) -> DataFacts:
        transfer = dataset.transfer
        every = [*dataset.inputs.values()]
        every += [x.texts.columns for x in every if isinstance(x, MaskedColumns) and x.texts is not None]
        arrays = {id(array): array.nbytes for x in every for array in arrays_of(x)}
        texts = {
            id(array): array.nbytes
            for x in every
            for name, column in columns_of(x).items()
            if isinstance(column, Ragged) and is_text(name, column)
            for array in arrays_of(Columns({name: column}))
        }
        return cls(
            examples=len(transfer),
            views=dataset.views,
            classes=dataset.classes,
            values=values_of(transfer.x),
            positions=transfer.rows.mean,
            embedded=embedded(transfer.x),
            held=sum(arrays.values()),
            texts=sum(texts.values()),
        )

    def of_size(self, examples: int, times: float) -> DataFacts:
        """The same data with so many transfer examples, and `times` as many examples in all splits together."""
        return replace(self, examples=examples, held=round(times * self.held), texts=round(times * self.texts))


@dataclass(frozen=True)
class Facts:
    """The size of the data, and the machines that the cluster has or can add by autoscaling."""

    data: DataFacts
    machines: Machines
    beside_bytes: int = 0
    """Size of the weights of the member that computes hidden states; 0 where no term needs any."""
