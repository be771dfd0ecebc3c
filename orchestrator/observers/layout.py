"""How wide a table's columns are on a screen. No figure is cut: columns that do not fit follow in a further part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len

if TYPE_CHECKING:
    from orchestrator.reporting.content import Rows

EDGE, GAP = 1, 2
"""Blanks at the left of a table, and between two columns."""
LONG = 24
"""Characters of a word that is folded over several lines where it does not fit; figures are shorter."""


class Column(NamedTuple):
    """A column of a part: its number in the table, and its width in characters."""

    number: int
    width: int


def parts(rows: Rows, room: int) -> Iterator[list[Column]]:
    """The columns of each part of a table; each part begins with the first column, which names the rows.

    rows: the header, then the body. room: characters in a line of the screen.
    """
    columns = list(zip(*rows, strict=True))
    name = _width(columns[0]) if _width(columns[0]) <= room // 2 else min(_longest_word(columns[0]), room // 2)
    most = max(room - EDGE - name - GAP, 1)
    least = [name, *(min(_least(cells), LONG, most) for cells in columns[1:])]
    part = [0]
    for number in range(1, len(columns)):
        if len(part) > 1 and _taken([least[k] for k in (*part, number)]) > room:
            yield _filled(part, columns, least, room)
            part = [0]
        part.append(number)
    yield _filled(part, columns, least, room)


def _filled(part: Sequence[int], columns: Sequence[Sequence[str]], least: Sequence[int], room: int) -> list[Column]:
    """The columns of a part, each as wide as its cells; where these do not fit, the widest ones are narrowed."""
    widths = {k: max(least[k], min(_width(columns[k]), room)) for k in part}
    while _taken([*widths.values()]) > room and (narrowed := [k for k in part if widths[k] > least[k]]):
        widths[max(narrowed, key=lambda k: widths[k])] -= 1
    return [Column(*each) for each in widths.items()]


def _taken(widths: Sequence[int]) -> int:
    return EDGE + sum(widths) + GAP * (len(widths) - 1)


def _width(cells: Sequence[str]) -> int:
    return max(cell_len(line) for cell in cells for line in (cell.splitlines() or [""]))


def _least(cells: Sequence[str]) -> int:
    """The width below which a column of numbers is not narrowed: its words', and its figures' with their blanks."""
    figures = [cell for cell in cells[1:] if cell_len(cell) <= LONG and any(letter.isdigit() for letter in cell)]
    return max(_longest_word(cells), _width(figures) if figures else 1)


def _longest_word(cells: Sequence[str]) -> int:
    return max((cell_len(word) for cell in cells for word in cell.split()), default=1)
