"""The points of a sweep: combinations of values of configuration keys, or ranges to search. Pure."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from orchestrator.config import names as names_
from orchestrator.config import yaml_text
from workers.errors import RequestError

RANGE = re.compile(r"(?P<low>-?[\d.]+([eE][-+]?\d+)?)\.\.(?P<high>-?[\d.]+([eE][-+]?\d+)?)(?P<log>:log)?")
FIXED = ("name", "storage", "seeds", "students", "generations")
"""Keys that name, place or multiply runs: the same for all points, or set by the sweep."""
MOST_NAME = names_.MOST - 8
"""Characters of a run's name without the number that tells it from others."""


@dataclass(frozen=True)
class Choices:
    """Values of a key."""

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Range:
    """All numbers between two; integers between integers. log: drawn by their logarithms."""

    key: str
    low: float
    high: float
    log: bool

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def may_be_whole(self) -> bool:
        """Whether both ends are whole numbers, however they are written, as in `1e2..1e3`."""
        return float(self.low).is_integer() and float(self.high).is_integer()

    def whole(self) -> Range:
        """The whole numbers of this range, whose ends are such."""
        return replace(self, low=int(self.low), high=int(self.high))


Axis = Choices | Range
Point = Mapping[str, Any]
"""A value of each key."""


def axis(text: str) -> Axis:
    """Parse one `--over KEY=V1,V2` or `KEY=LOW..HIGH[:log]`. Raises: `RequestError`."""
    key, equals, given = text.partition("=")
    key = key.strip()
    if not equals or not key or not given.strip():
        raise RequestError(
            f"--over '{text}': expected KEY=V1,V2, such as distillation.temperature=1,2,5, or KEY=1..20."
        )
    if key.split(".")[0] in FIXED:
        raise RequestError(
            f"--over '{text}': `{key}` names, places or multiplies runs, so points of a sweep cannot differ in it; "
            "expected another key. `--set` sets it for all points."
        )
    found = RANGE.fullmatch(given.strip())
    if found is not None:
        return _range(text, key, found)
    try:
        values = yaml_text.parse(f"[{given}]")
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RequestError(f"--over '{text}': the values are not YAML ({error}). {yaml_text.FIX}") from error
    typed = [(isinstance(value, bool), value) for value in values]  # to Python, true is 1
    if not values or any(typed.count(value) > 1 for value in typed):
        raise RequestError(
            f"--over '{text}': found {values!r}; expected one or more values, each once. Remove the repeated one."
        )
    return Choices(key, tuple(values))


def _range(text: str, key: str, found: re.Match[str]) -> Range:
    low, high = (yaml_text.parse(found[name]) for name in ("low", "high"))
    is_log = found["log"] is not None
    if not all(isinstance(end, int | float) for end in (low, high)) or not low < high or (is_log and low <= 0):
        raise RequestError(
            f"--over '{text}': found {low!r}..{high!r}; expected a lower and a higher number"
            f"{', above 0' if is_log else ''}."
        )
    return Range(key, low, high, is_log)


def axes(texts: Sequence[str], *, trials: int | None) -> list[Axis]:
    """Parse all axes of a sweep. Raises: `RequestError`, also for a range without trials and for a key given twice."""
    found = [axis(text) for text in texts]
    for number, each in enumerate(found):
        if each.key in [other.key for other in found[:number]]:
            raise RequestError(f"--over {each.key}: given twice; expected all its values in one.")
        if isinstance(each, Range) and trials is None:
            raise RequestError(
                f"--over {each.key}: a range needs a search; expected `--trials N`. Add it, or list the values."
            )
    if trials is not None and trials < 1:
        raise RequestError(f"--trials: {trials}; expected at least 1.")
    return found


def points(choices: Sequence[Axis]) -> list[Point]:
    """Every combination of values, the last key changing fastest."""
    values = [each.values for each in choices if isinstance(each, Choices)]
    return [dict(zip([each.key for each in choices], found, strict=True)) for found in itertools.product(*values)]


def ends(axes: Sequence[Axis]) -> list[Choices]:
    """The values of each key; of a range its ends."""
    return [each if isinstance(each, Choices) else Choices(each.key, (each.low, each.high)) for each in axes]


def each_value(choices: Sequence[Choices]) -> list[Point]:
    """The first values together, and each other value once beside the first ones of the other keys."""
    first = {each.key: each.values[0] for each in choices}
    return [first, *({**first, each.key: value} for each in choices for value in each.values[1:])]


def overrides(point: Point) -> list[str]:
    """The point as `KEY=VALUE`, as `RunConfig.load` takes them."""
    return [f"{key}={yaml_text.inline(value)}" for key, value in point.items()]


def name_of(base: str, point: Point, most: int = MOST_NAME) -> str:
    """The name of a point's run: of the sweep's configuration, then each key with its value. most: characters, if the
    base leaves any."""
    words = [f"{_word(key, [*point])}-{_shown(value)}" for key, value in point.items()]
    ending = re.sub(r"[^a-z0-9._]+", "-", "-".join(words).lower()).strip("-")
    return f"{base}-{ending[: max(1, most - len(base))].strip('-')}"


def _word(key: str, keys: Sequence[str]) -> str:
    """As many last words of a key as no other one ends with. One word that a run's ending begins with takes another
    before it: `<name>-seed-1` is a repetition of the run `<name>`."""
    parts = key.split(".")
    ends = [parts[-count:] for count in range(1, len(parts) + 1)]
    alone = [end for end in ends if sum(each.split(".")[-len(end) :] == end for each in keys) == 1]
    free = [end for end in (*alone, ["run", *parts]) if end[0] not in names_.NUMBERED]
    return "-".join(free[0])


def names(base: str, found: Sequence[Point], taken: Sequence[str] = (), most: int = MOST_NAME) -> list[str]:
    """A name for each point, with a number where it would be taken. most: characters without the number."""
    given: list[str] = []
    for point in found:
        name = name_of(base, point, most)
        same = sum(each == name or each.startswith(f"{name}--") for each in (*taken, *given))
        given.append(f"{name}--{same + 1}" if same else name)
    return given


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value
    shown = f"{value:g}" if isinstance(value, float) else json.dumps(value)
    return re.sub(r"(?<![\w.])-", "minus", shown)  # of a number; a name has no other hyphens than those between words
