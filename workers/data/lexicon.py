"""A lexicon of words with their parts of speech: the words that may stand in a word's place.

A file has a word, its part of speech and, where known, its count in each line, separated by tabs; further columns are
ignored. A word of several parts of speech has a line for each.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from workers import storage
from workers.errors import RequestError

CORE = re.compile(r"\w(?:.*\w)?", re.DOTALL)
"""A word without the punctuation and space around it."""


@dataclass(frozen=True)
class Lexicon:
    """Words by their part of speech. longest: characters of the longest, where a text has no spaces between words."""

    tags: dict[str, str]
    """The part of speech of each word, the most frequent one of several."""
    words: dict[str, list[str]]
    """The words of each part of speech."""
    totals: dict[str, list[int]]
    """The running totals of their counts."""
    longest: int

    def replaced(self, word: str, draw: float) -> str:
        """A word of the same part of speech in proportion to its count, perhaps the same; unknown ones stay.

        word: with the punctuation and space around it, which stay. draw: uniform in [0, 1).
        """
        core = CORE.search(word)
        if core is None:
            return word
        known = next((each for each in (core[0], core[0].lower()) if each in self.tags), None)
        if known is None:
            return word
        tag = self.tags[known]
        words, totals = self.words[tag], self.totals[tag]
        drawn = words[min(bisect_right(totals, draw * totals[-1]), len(words) - 1)]
        if known != core[0]:  # a capital at the beginning of a sentence
            drawn = drawn[0].upper() + drawn[1:]
        return word[: core.start()] + drawn + word[core.end() :]

    def joined(self, pieces: Sequence[str]) -> list[str]:
        """Pieces of a text without spaces joined to words of the lexicon, the longest match from the left."""
        found, start = [], 0
        while start < len(pieces):
            ends = range(min(start + self.longest, len(pieces)), start + 1, -1)
            end = next((e for e in ends if "".join(pieces[start:e]).lstrip() in self.tags), start + 1)
            found.append("".join(pieces[start:end]))
            start = end
        return found


def read(uri: str) -> Lexicon:
    """The lexicon in a file, a path or any fsspec URI. Raises: `RequestError` where a line is no word with its part."""
    try:
        lines = storage.read_text(uri).splitlines()
    except UnicodeDecodeError as error:
        raise RequestError(f"'{uri}': not UTF-8 ({error}); expected words and parts of speech.") from error
    counts: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, 1):
        word, _, others = line.partition("\t")
        tag, count = ([*others.split("\t"), ""])[:2]
        if not CORE.fullmatch(word) or not tag or not (count or "1").isdecimal():
            raise RequestError(
                f"'{uri}', line {number}: found {line[:80]!r}; expected a word, a tab, its part of speech and, where "
                "known, a tab and its count."
            )
        counts[word, tag] = counts.get((word, tag), 0) + int(count or "1")
    return of_counts({each: count for each, count in counts.items() if count}, uri)


def of_counts(counts: dict[tuple[str, str], int], name: str) -> Lexicon:
    """The lexicon of words with their parts of speech and counts. name: for errors."""
    if not counts:
        raise RequestError(f"'{name}': no words. Expected a lexicon with a word and its part of speech in each line.")
    tags: dict[str, str] = {}
    words: dict[str, list[str]] = {}
    for word, tag in counts:
        words.setdefault(tag, []).append(word)
        if word not in tags or counts[word, tag] > counts[word, tags[word]]:
            tags[word] = tag
    totals = {tag: list(accumulate(counts[word, tag] for word in found)) for tag, found in words.items()}
    unspaced = [len(word) for word in tags if not word.isascii()]
    return Lexicon(tags, words, totals, max(unspaced, default=1))
