"""The interface of a dense column of examples: numpy arrays, mapped ones, and rows that are computed on access."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Column(Protocol):
    """One dense number, vector, image or the like for each of N examples, of shape `shape[1:]` each."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> NDArray[Any]:
        """The rows of a slice or of an int64 index array, in its order."""
