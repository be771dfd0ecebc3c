"""Converts the inputs of a served student to arrays of the run's dtype and shape.

Callers of `mlflow.pyfunc` pass float64, lists, data frames and single examples, while the run had one dtype and a batch
dimension. MLflow's own schema enforcement rejects all of these. So the student's signature declares no input, and this
module converts instead. It only needs numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

IDS = (np.iinfo(np.int64).min, np.iinfo(np.int64).max)


def examples(
    asked: Any, shape: Sequence[int], dtype: str, *, names: Sequence[str] = (), byte_scale: int | None = None
) -> NDArray[Any]:
    """Convert `asked` to examples [N, *shape]: float32 where the run's data were floats or bytes, int64 for ids.

    asked: an array of any numeric type, a list, a data frame or series of pandas, a sparse matrix or a tensor, of
    shape [N, *shape]; one example [*shape] counts as N = 1. A data frame may hold each example flattened over its
    columns, or as a list in its only column. dtype: of the run's data. names: of the numbers of an example; a data
    frame with such columns is taken by them, in any order, and further columns are ignored. byte_scale: the run divided
    bytes by it, so that whole numbers above 1 are refused.

    Raises: ValueError, with the found and the expected shape or type.
    """
    expected = tuple(shape)
    found = _array(_ordered(asked, names), expected)
    if found.shape == expected:
        found = found[np.newaxis]
    if found.shape[1:] != expected or found.ndim != len(expected) + 1:
        raise ValueError(
            f"the student was asked an array of shape {list(found.shape)}; expected {_wanted(expected, dtype)}, or one "
            f"example {list(expected)}."
        )
    found = _as_trained(found, expected, dtype)
    if byte_scale is not None and found.size and found.max() > 1 and (found == np.floor(found)).all():
        raise ValueError(
            f"the student was asked whole numbers up to {found.max():g}; expected pixels from 0 to 1, as in the run: "
            f"divide bytes by {byte_scale}."
        )
    return found


def described(shape: Sequence[int], dtype: str) -> str:
    """The inputs of a student in words, such as `float32 [N, 8]`."""
    return f"{dtype} [{', '.join(['N', *map(str, shape)])}]"


def _wanted(shape: Sequence[int], dtype: str) -> str:
    return f"{described(shape, dtype)} (any numeric type that holds the same values)"


def _ordered(asked: Any, names: Sequence[str]) -> Any:
    """A data frame with the columns `names` in their order, where it has any of them. Others are unchanged."""
    known = set(asked.columns) if hasattr(asked, "columns") and hasattr(asked, "to_numpy") else set()
    if not known.intersection(names):
        return asked
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"the student was asked no column '{missing[0]}'; expected {', '.join(names)}.")
    return asked[list(names)]


def _array(asked: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    if hasattr(asked, "toarray"):  # a sparse matrix of scipy
        asked = asked.toarray()
    if hasattr(asked, "columns") and hasattr(asked, "to_numpy"):  # a data frame; pandas is optional
        return _from_frame(asked.to_numpy(), shape)
    try:
        return np.asarray(asked)
    except ValueError as error:
        raise ValueError(
            f"the student was asked rows of different lengths ({error}); expected {list(shape)} each."
        ) from error


def _from_frame(cells: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Cells [N, columns]: one column per number of an example, or a single column of whole examples."""
    if cells.shape[1] == 1 and cells.dtype == object and len(cells) and np.ndim(cells[0, 0]):
        try:
            cells = np.stack([np.asarray(cell) for cell in cells[:, 0]])
        except ValueError as error:
            raise ValueError(f"the data frame's column holds rows of different shapes ({error}).") from error
        cells = cells.reshape(len(cells), -1)
    return cells.reshape(len(cells), *shape) if cells.shape[1] == math.prod(shape) else cells


def _as_trained(found: NDArray[Any], shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    kind = np.dtype(dtype)
    if found.dtype == object:  # a data frame with columns of different types
        try:
            found = found.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the student was asked values that are no numbers ({error}).") from error
    if found.dtype.kind not in "iufb":
        raise ValueError(f"the student was asked {found.dtype}; expected {_wanted(shape, dtype)}.")
    if kind.kind == "f" or kind == np.uint8:  # as `arrays.as_tensor` decides
        return found.astype(np.float32)
    whole = found.dtype.kind != "f" or bool((np.isfinite(found) & (found == np.floor(found))).all())
    if not whole or (found.size and not IDS[0] <= found.min() <= found.max() <= IDS[1]):
        raise ValueError(f"the student was asked fractions or numbers too large; expected {_wanted(shape, dtype)}.")
    return found.astype(np.int64)
