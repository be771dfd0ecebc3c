"""Whether the names of a table's columns are a row of data: a file without a header has its first row there."""

from __future__ import annotations

import itertools
import math

import pyarrow as pa
import pyarrow.compute as pc

from workers.data import table_files

ROWS = 100_000
"""Rows in which a name is looked for."""
SHOWN = 4
NUMBERED = 10
"""Numbers above which those of a row of data are hardly 0, 1, 2, ... in any order."""


def note(uri: str, table: pa.Table) -> str | None:
    """What is told of a table whose names are like its values; None where they are names.

    At least half of the names must be like the values of their columns. Whole or broken numbers that ascend are names,
    as pandas writes 0, 1, 2 and spectra have wavelengths, unless a text is a value of its column too. So are many that
    count the columns in another order, such as 0, 1, 10, 11, 2, sorted as texts.
    """
    if table_files.ending(uri) not in table_files.WITH_A_HEADER_LINE or not table.num_columns:
        return None
    numbers = [value for name, column in _columns(table) if (value := _number(name, column)) is not None]
    texts = [name for name, column in _columns(table) if _is_value(name, column)]
    if 2 * (len(numbers) + len(texts)) < table.num_columns:
        return None
    ascend = all(a < b for a, b in itertools.pairwise(numbers))
    if not texts and (ascend or (len(numbers) > NUMBERED and sorted(numbers) == [*range(len(numbers))])):
        return None
    shown = ", ".join(f"'{name}'" for name in table.column_names[:SHOWN])
    more = ", ..." if table.num_columns > SHOWN else ""
    return (
        f"'{uri}': the first line looks like data and was read as the names of columns ({shown}{more}). Add a header "
        "line with a name for each column."
    )


def _columns(table: pa.Table) -> list[tuple[str, pa.ChunkedArray]]:
    return [(name, table.column(name)) for name in table.column_names]


def _number(name: str, column: pa.ChunkedArray) -> float | None:
    """The name as a number, where the column is one of numbers."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return None
    try:
        value = float(name.strip().replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _is_value(name: str, column: pa.ChunkedArray) -> bool:
    """Whether the name is among the texts of the column."""
    if not pa.types.is_string(column.type):
        return False
    return bool(pc.any(pc.equal(column.slice(0, ROWS), name)).as_py())
