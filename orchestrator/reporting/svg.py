"""Parts of inline SVG: elements, marks of systems, scales, axes. The page's style sheet gives classes their colours.

The standard library's `ElementTree` escapes all text and attributes. Lengths are in the units of the drawing's own box,
which a page scales to its width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

FONT = 12.0
LETTER = 0.58
"""Mean width of a character, as a share of the font's size."""
LINE = 15.0
"""Least distance between two lines of text."""


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    """An element. Names of attributes take `_` for `-`, and `class_` stands for `class`; numbers are rounded."""
    named = {key.rstrip("_").replace("_", "-"): _written(value) for key, value in attributes.items()}
    made = Element(tag, named)
    for child in children:
        if isinstance(child, str):
            made.text = (made.text or "") + child
        else:
            made.append(child)
    return made


def _written(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def drawing(width: float, height: float, parts: Sequence[Element], *, title: str, description: str) -> str:
    """The text of an `<svg>` element."""
    words = [element("title", title), element("desc", description)]
    whole = element("svg", *words, *parts, viewBox=f"0 0 {width:g} {height:g}", role="img")
    return ElementTree.tostring(whole, encoding="unicode")


def text(words: str, x: float, y: float, class_: str = "", anchor: str = "start") -> Element:
    """A line of text, whose middle is at `y`."""
    return element("text", words, x=x, y=y + 0.35 * FONT, class_=class_, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Sequence[tuple[float, float]], class_: str) -> Element:
    """A line through the points."""
    return element("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points), class_=class_)


def band(points: Sequence[tuple[float, float, float]], class_: str) -> Element:
    """The area between a lower and an upper line: x, y of the one, y of the other."""
    there = [(x, low) for x, low, _ in points]
    back = [(x, high) for x, _, high in reversed(points)]
    return element("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in [*there, *back]), class_=class_)


def circle(x: float, y: float, r: float, class_: str) -> Element:
    """A filled circle."""
    return element("circle", cx=x, cy=y, r=r, class_=class_)


def _square(x: float, y: float, r: float, class_: str) -> Element:
    side = 1.8 * r
    return element("rect", x=x - side / 2, y=y - side / 2, width=side, height=side, class_=class_)


def _diamond(x: float, y: float, r: float, class_: str) -> Element:
    corner = 1.3 * r
    corners = [(x, y - corner), (x + corner, y), (x, y + corner), (x - corner, y)]
    return element("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), class_=class_)


def _triangle(x: float, y: float, r: float, class_: str) -> Element:
    corners = [(x, y - 1.3 * r), (x + 1.2 * r, y + 0.9 * r), (x - 1.2 * r, y + 0.9 * r)]
    return element("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), class_=class_)


SHAPES: dict[str, Callable[[float, float, float, str], Element]] = {
    "member": circle,
    "ensemble": circle,
    "baseline": _square,
    "student": _diamond,
    "further": _triangle,
}
"""The mark of each role, so that a figure is read without colours."""


def mark(role: str, x: float, y: float, r: float = 4.5) -> Element:
    """The mark of a system."""
    return SHAPES[role](x, y, r, f"mark {role}")


def width_of(words: str) -> float:
    """About how wide a text is; characters of East Asian scripts and pictographs are as wide as high."""
    return sum(FONT * (1.0 if ord(letter) > 0x2E80 else LETTER) for letter in words)


def fitted(words: str, width: float) -> str:
    """A text, cut where it is wider than `width`."""
    found = words
    while found and width_of(found) > width:
        found = found.removesuffix("…")[:-1].rstrip() + "…" if len(found) > 1 else ""
    return found


@dataclass(frozen=True)
class Scale:
    """Values `low` to `high` at places `start` to `end`; logarithmic where `log`. whole: ticks are whole values."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    whole: bool = False

    def at(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / ((high - low) or 1.0)

    @property
    def ticks(self) -> list[float]:
        """Some five round values; of a logarithmic scale powers of ten, or their simple multiples."""
        found = _powers(self.low, self.high) if self.log else _round_values(self.low, self.high)
        return [value for value in found if not self.whole or value == round(value)]


def _round_values(low: float, high: float) -> list[float]:
    rough = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _powers(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1,), (1, 3), (1, 2, 5)):
        found = [m * 10.0**p for p in powers for m in multiples if low <= m * 10.0**p <= high]
        if len(found) >= 3:
            break
    return found[:: -(-len(found) // 6) or 1]


def around(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """The least and the largest of the finite values, with a margin; 0 to 1 without any."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    room = share * (max(finite) - min(finite)) or 0.01
    return min(finite) - room, max(finite) + room


def apart(places: Sequence[float], distance: float = LINE) -> list[float]:
    """The places of labels, moved so that two are at least `distance` apart, around where they were."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    moved = [places[k] for k in order]
    for _ in range(len(moved) * 8):
        for k in range(1, len(moved)):
            overlap = distance - (moved[k] - moved[k - 1])
            if overlap > 1e-6:
                moved[k - 1] -= overlap / 2
                moved[k] += overlap / 2
    found = list(places)
    for k, place in zip(order, moved, strict=True):
        found[k] = place
    return found


def axes(x: Scale, y: Scale, of_x: Callable[[float], str], of_y: Callable[[float], str]) -> list[Element]:
    """Grid lines with their values, left of and below the area that the scales span."""
    parts = []
    for value in y.ticks:
        parts += [line(x.start, y.at(value), x.end, y.at(value), "grid")]
        parts += [text(of_y(value), x.start - 7, y.at(value), "tick", "end")]
    for value in x.ticks:
        parts += [line(x.at(value), y.start, x.at(value), y.start + 4, "axis")]
        parts += [text(of_x(value), x.at(value), y.start + 14, "tick", "middle")]
    return [*parts, line(x.start, y.start, x.end, y.start, "axis")]
