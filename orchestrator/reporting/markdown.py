"""A report as Markdown, `report.md`: the content of `sections` without its figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from orchestrator.reporting import sections
from orchestrator.reporting.content import Answer, Block, Card, Cards, Code, Figure, Picture, Row, Section, Table, Text
from orchestrator.reporting.report import Report

MOST_CELLS = 200
"""Characters of an example's text in a table."""
MARKS = re.compile(r"[\\`*\[\]~$|]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that Markdown interprets; `_` within a word is none of them."""


def markdown(report: Report) -> str:
    """The report as Markdown."""
    found = sections.document(report)
    lead = [line(paragraph) + "\n" for paragraph in (*found.notes, found.lead)]
    return "\n".join([f"# {line(found.title)}\n", *lead, *map(_answer, found.answers), *map(_section, found.sections)])


def _answer(answer: Answer) -> str:
    points = "\n".join(f"- {line(each)}" for each in answer.lines)
    return f"**{line(answer.question)}** {line(answer.short)}.\n\n{points}\n"


def _section(section: Section) -> str:
    return f"## {line(section.title)}\n\n{_blocks(section.blocks)}"


def _blocks(blocks: Sequence[Block]) -> str:
    return "\n".join(filter(None, (RENDERED[block.kind](block) for block in blocks)))


def _text(block: Text) -> str:
    return line(block.text) + "\n"


def table(block: Table) -> str:
    """A table with its title."""
    header, *body = block.rows
    rule = ["---"] + ["---:"] * (len(header) - 1)
    title = f"{line(block.title)}:\n\n" if block.title else ""
    return title + "\n".join("| " + " | ".join(map(literal, row)) + " |" for row in [header, rule, *body]) + "\n"


def _code(block: Code) -> str:
    """A fenced block, whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", block.text)), 3)
    code = f"{fence}\n{block.text.rstrip()}\n{fence}\n"
    return f"<details><summary>{line(block.title)}</summary>\n\n{code}\n</details>\n" if block.folded else code


def _cards(block: Cards) -> str:
    names = [guess.system for guess in block.cards[0].guesses]
    rows = [["example", "label", *names, "input"], *([*_of_card(card)] for card in block.cards)]
    return table(Table(rows, block.title))


def _of_card(card: Card) -> list[str]:
    answers = [", ".join(f"{name} {probability}" for name, probability in guess.classes) for guess in card.guesses]
    shown = card.text[:MOST_CELLS] or card.values or ("(a picture)" if card.image else "-")
    return [card.name, card.label, *answers, shown]


RENDERED: dict[str, Callable[[Any], str]] = {
    Text.kind: _text,
    Table.kind: table,
    Figure.kind: lambda block: "",
    Picture.kind: lambda block: f"{literal(block.title)}: a picture in `report.html`.\n",
    Row.kind: lambda block: _blocks(block.blocks),
    Code.kind: _code,
    Cards.kind: _cards,
}


def line(text: str) -> str:
    """Text in one line, in which HTML is shown and not obeyed."""
    return escape(" ".join(text.split()), quote=False)


def literal(text: str) -> str:
    """Text in one line, of which nothing is obeyed as HTML or Markdown; names of classes may hold anything."""
    return MARKS.sub(r"\\\g<0>", line(text))


def cell(text: str) -> str:
    """Text for a cell, in which Markdown such as `code` is obeyed."""
    return line(text).replace("\\", r"\\").replace("|", r"\|")
