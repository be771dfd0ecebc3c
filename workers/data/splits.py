"""What readers return: the splits of a data set, as its files have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from workers import storage
from workers.data.encoded_tables import Encoding
from workers.data.examples import Examples
from workers.data.label_names import NamedLabels
from workers.data.labels import LABELLED
from workers.data.ragged import Ragged
from workers.specs.data import DataSpec

Labels = NDArray[Any] | Ragged | NamedLabels | None
Splits = dict[str, tuple[Examples, Labels]]

Groups = Sequence[Any] | NDArray[Any]
SPLITS = (*LABELLED, "unlabeled")


@dataclass(frozen=True)
class Read:
    """splits: `{"train": (x [N, ...], y [N]), ...}`; of those without labels y is None. groups: by split, what its
    examples belong to, a value of any type for each; without those whose examples are in none. encodings: of a table,
    how its columns became the numbers of an example, in the order of these."""

    splits: Splits
    groups: Mapping[str, Groups] = field(default_factory=dict)
    encodings: Sequence[Encoding] = ()


def uris(spec: DataSpec) -> dict[str, str]:
    """Each split's file."""
    found = {**{name: getattr(spec, name) for name in SPLITS}, **spec.stages}
    return {name: storage.absolute(path, spec.root) for name, path in found.items() if path is not None}
