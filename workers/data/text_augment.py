"""Variations of texts for a transfer set: masked words and stretches of a text.

A teacher labels the variations, so that they need not keep the topic of the text. Tang, Lu, Liu, Mou, Vechtomova and
Lin 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", section 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from workers.data.augment import Draws
from workers.hashing import GOLDEN, mixed

WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)")
"""A word with the space before it: letters without a space among them, or one Chinese or Japanese character."""


def words_and_stretches(
    x: Mapping[str, Any],
    draws: Draws,
    *,
    unchanged: float = 0.25,
    masked: float = 0.1,
    stretch: float = 0.25,
    mask: str = "[MASK]",
) -> dict[str, Any]:
    """Each text in one variation; other columns as they are.

    unchanged: probability that a text stays as it is. Else each word is replaced by `mask` with the probability
    `masked`, and with the probability `stretch` only a stretch of the text is left, of 1/4 to 3/4 of its words. Raises:
    ValueError for probabilities outside of [0, 1].
    """
    for name, value in (("unchanged", unchanged), ("masked", masked), ("stretch", stretch)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is {value}; expected a probability from 0 to 1")
    found = dict(x)
    for name in ("text", "text_pair"):
        if name in x:
            words = [WORD.findall(text) for text in x[name]]
            own = draws if name == "text" else Draws(mixed(draws.keys + GOLDEN))  # whatever the length of other rows
            choices, of_words = own.uniform(size=4), own.uniform(size=max(map(len, words), default=0))
            found[name] = [
                text
                if not of_text or choice[0] < unchanged
                else _masked(_cut(of_text, choice, stretch), each, masked, mask)
                for text, of_text, choice, each in zip(x[name], words, choices.tolist(), of_words.tolist(), strict=True)
            ]
    return found


def _cut(words: list[str], choice: list[float], stretch: float) -> list[str]:
    """A text, or a stretch of it. choice: uniform numbers of the text; the first has been used."""
    if choice[1] >= stretch:
        return words
    length = max(1, round(len(words) * (0.25 + 0.5 * choice[2])))
    start = int(choice[3] * (len(words) - length + 1))
    return words[start : start + length]


def _masked(words: list[str], draws: list[float], masked: float, mask: str) -> str:
    """The text of the words, of which some are replaced. draws: a uniform number for each."""
    kept = [
        word[: -len(word.lstrip())] + mask if draw < masked else word for word, draw in zip(words, draws, strict=False)
    ]
    return "".join(kept).strip() or mask
