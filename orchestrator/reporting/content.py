"""The content of a report, independent of its form: a verdict, then sections of text, tables, figures and examples.

`sections` derives it from a `Report`; `markdown` and `html` render it. Texts are plain; a renderer escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

Rows = list[list[str]]


def between(bounds: tuple[float, float] | None, shown: Callable[[float], str]) -> str:
    """An interval as text; "-" for none. shown: the text of an end."""
    return "-" if bounds is None else " to ".join(map(shown, bounds))


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Table:
    """The header, then rows; the first column names them. title: above it. folded: closed at first where it can be."""

    rows: Rows
    title: str = ""
    folded: bool = False
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing. description: for readers who do not see it. svg: an `<svg>` element, safe to be put into a page."""

    title: str
    description: str
    svg: str
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Picture:
    """A figure of the user's. image: a PNG in base64."""

    title: str
    image: str
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Row:
    """Blocks side by side where they fit."""

    blocks: Sequence[Block]
    kind: ClassVar[str] = "row"


@dataclass(frozen=True)
class Code:
    """Text to be copied. title: above it. folded: closed at first where it can be."""

    text: str
    title: str = ""
    folded: bool = False
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Guess:
    """One system's answer to an example. classes: the likeliest with their probabilities, as text."""

    system: str
    right: bool
    classes: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Card:
    """An example. name: its number, as text. label: its class. One of text, image (PNG in base64) and values."""

    name: str
    label: str
    guesses: Sequence[Guess]
    text: str = ""
    image: str = ""
    values: str = ""


@dataclass(frozen=True)
class Cards:
    """Examples of one kind."""

    title: str
    cards: Sequence[Card]
    kind: ClassVar[str] = "cards"


Block: TypeAlias = "Text | Table | Figure | Picture | Row | Code | Cards"


@dataclass(frozen=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Answer:
    """A question, its answer in a few words, and the figures behind it, a line each."""

    question: str
    short: str
    lines: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A report. lead: the verdict in one paragraph. about: the run in one line. notes: what to know before the rest.
    record: the file beside it that has the same figures for programs."""

    title: str
    about: str
    notes: Sequence[str]
    lead: str
    answers: Sequence[Answer]
    sections: Sequence[Section]
    record: str = "report.json"
