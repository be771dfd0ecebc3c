"""Variations of texts for a transfer set: masked words, words of the same part of speech, stretches and n-grams.

A teacher labels the variations, so that they need not keep the topic of the text. Tang, Lu, Liu, Mou, Vechtomova and
Lin 2019, "Distilling Task-Specific Knowledge from BERT into Simple Neural Networks", section 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from workers.data import lexicon as lexicons
from workers.data.augment import Draws, reads
from workers.data.lexicon import Lexicon
from workers.hashing import GOLDEN, mixed
from workers.specs.data import AugmentSpec

WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)")
"""A word with the space before it: characters without a space among them, or one Chinese or Japanese character."""
MASKED, MASK = 0.1, "[MASK]"
"""Unless it is given: the probability that a word is masked, and what takes its place."""


@reads(lexicon=lexicons.read)
def words_and_stretches(
    x: Mapping[str, Any],
    draws: Draws,
    *,
    unchanged: float = 0.25,
    masked: float = MASKED,
    replaced: float = 0.0,
    stretch: float = 0.25,
    ngram: Sequence[int] | None = None,
    lexicon: Lexicon | None = None,
    mask: str = MASK,
) -> dict[str, Any]:
    """Each text in one variation; other columns as they are.

    unchanged: probability that a text stays as it is. Else each word becomes `mask` with the probability `masked`, and
    with the probability `replaced` a word of the same part of speech, drawn from `lexicon` in proportion to its count.
    With the probability `stretch` only a stretch of the text is left: of 1/4 to 3/4 of its words, or an n-gram, where
    `ngram` is the least and the largest n. In the paper: masked 0.1, replaced 0.1, stretch 0.25, ngram
    [1, 5], beside each text as it is. lexicon: in the configuration the path or URI of a file (`workers.data.lexicon`).

    Raises: ValueError for probabilities outside of [0, 1], or settings that do not fit.
    """
    _check({"unchanged": unchanged, "masked": masked, "replaced": replaced, "stretch": stretch}, ngram)
    if masked + replaced > 1.0:
        raise ValueError(f"masked + replaced is {masked + replaced:g}; expected at most 1, since a word is one of them")
    if replaced > 0.0 and lexicon is None:
        raise ValueError("replaced is above 0 without `lexicon`, the file of words that take the place of others")
    found = dict(x)
    for name in ("text", "text_pair"):
        if name in x:
            words = [WORD.findall(text) for text in x[name]]
            if lexicon is not None and lexicon.longest > 1:
                words = [lexicon.joined(pieces) for pieces in words]
            own = draws if name == "text" else Draws(mixed(draws.keys + GOLDEN))  # whatever the length of other rows
            choices = own.uniform(size=4).tolist()

            def changed(word: str, draw: float) -> str:
                if draw < masked:
                    return word[: -len(word.lstrip())] + mask
                if lexicon is None or draw >= masked + replaced:
                    return word
                return lexicon.replaced(word, (draw - masked) / replaced)  # uniform again, without another number

            found[name] = [
                text
                if not of_text or choice[0] < unchanged
                else "".join(map(changed, _cut(of_text, choice, stretch, ngram), of_words.tolist())).strip() or mask
                for text, of_text, choice, of_words in zip(
                    x[name], words, choices, own.of_each(map(len, words)), strict=True
                )
            ]
    return found


def mask_of(spec: AugmentSpec | None) -> str:
    """What `words_and_stretches` masks words by, where `spec` names it; empty where no word is masked."""
    if spec is None or spec.factory != f"{__name__}:{words_and_stretches.__name__}":
        return ""
    return str(spec.kwargs.get("mask", MASK)) if spec.kwargs.get("masked", MASKED) else ""


def _check(probabilities: Mapping[str, float], ngram: Sequence[int] | None) -> None:
    """Raise ValueError for what is no probability, and for an n-gram without a least and a largest n."""
    for name, value in probabilities.items():
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} is {value}; expected a probability from 0 to 1")
    if ngram is not None and not (len(ngram) == 2 and 1 <= ngram[0] <= ngram[1]):
        raise ValueError(f"ngram is {ngram}; expected the least and the largest n, such as [1, 5]")


def _cut(words: list[str], choice: list[float], stretch: float, ngram: Sequence[int] | None) -> list[str]:
    """A text, or a stretch of it. choice: uniform numbers of the text; the first has been used."""
    if choice[1] >= stretch:
        return words
    if ngram is None:
        length = max(1, round(len(words) * (0.25 + 0.5 * choice[2])))
    else:
        length = min(len(words), ngram[0] + int(choice[2] * (ngram[1] - ngram[0] + 1)))
    start = int(choice[3] * (len(words) - length + 1))
    return words[start : start + length]
