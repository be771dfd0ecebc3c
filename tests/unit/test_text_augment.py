"""Variations of texts: what they may change, and that each follows from its own draws."""

from __future__ import annotations

import numpy as np
import pytest

from workers.data.augment import Draws, augmented
from workers.data.examples import Columns
from workers.data.text_augment import words_and_stretches
from workers.data.texts import TEXT, of_strings, strings
from workers.specs.data import AugmentSpec

TEXTS = [
    "a river in the north of a country",
    "北京大学 is old",
    "one",
    "  spaces   stay  ",
    "\u200d\u200d",
    "مرحبا بالعالم",
    "🙂 🙂🙂",
]


def draws(rows: int) -> Draws:
    return Draws(np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(7919))


def test_nothing_changes_without_a_chance_to() -> None:
    assert words_and_stretches({"text": TEXTS}, draws(len(TEXTS)), unchanged=1.0)["text"] == TEXTS
    kept = words_and_stretches({"text": TEXTS}, draws(len(TEXTS)), unchanged=0.0, masked=0.0, stretch=0.0)["text"]
    assert kept == [text.strip() or "[MASK]" for text in TEXTS]


def test_words_and_chinese_characters_are_masked_each() -> None:
    found = words_and_stretches({"text": TEXTS[:2]}, draws(2), unchanged=0.0, masked=1.0, stretch=0.0, mask="_")["text"]
    assert found == ["_ _ _ _ _ _ _ _", "____ _ _"]


def test_a_stretch_is_a_part_of_the_text_of_a_quarter_to_three_quarters() -> None:
    texts = [" ".join(f"w{k}" for k in range(40))] * 300
    found = words_and_stretches({"text": texts}, draws(300), unchanged=0.0, masked=0.0, stretch=1.0)["text"]
    lengths = [len(text.split()) for text in found]
    assert all(text in texts[0] for text in found) and min(lengths) >= 10 and max(lengths) <= 30
    assert len(set(found)) > 200


def test_masking_is_as_frequent_as_asked_for() -> None:
    texts = [" ".join(["word"] * 50)] * 200
    found = words_and_stretches({"text": texts}, draws(200), unchanged=0.0, masked=0.1, stretch=0.0)["text"]
    assert sum(text.count("[MASK]") for text in found) / (50 * 200) == pytest.approx(0.1, abs=0.01)


def test_no_text_becomes_empty_and_pairs_vary_apart() -> None:
    found = words_and_stretches({"text": TEXTS, "text_pair": TEXTS}, draws(len(TEXTS)), unchanged=0.0, stretch=1.0)
    assert all(found["text"]) and all(found["text_pair"]) and found["text"] != found["text_pair"]


def test_pairs_do_not_depend_on_other_rows() -> None:
    keys = np.array([7, 8], np.uint64) * np.uint64(7919)
    longer = " ".join("abcdefghij" * 4)
    pairs = {"text": ["a b c", longer], "text_pair": ["k l m n o p q r", "x"]}
    for column in pairs:
        both = words_and_stretches(pairs, Draws(keys), unchanged=0.0, masked=0.5)[column]
        alone = [
            words_and_stretches({name: of[k : k + 1] for name, of in pairs.items()}, Draws(keys[k : k + 1]),
                                unchanged=0.0, masked=0.5)[column][0]
            for k in range(2)
        ]  # fmt: skip
        assert both == alone


def test_a_long_text_takes_no_numbers_for_the_texts_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    uniform = Draws.uniform

    def counted(self: Draws, *given: float, size: int = 1) -> np.ndarray:
        sizes.append(len(self.keys) * size)
        return uniform(self, *given, size=size)

    monkeypatch.setattr(Draws, "uniform", counted)
    found = words_and_stretches({"text": ["a b"] * 50 + ["a " * 2000]}, draws(51), unchanged=0.0, masked=0.5)["text"]
    assert len(found) == 51 and max(sizes) == 2000


def test_a_probability_is_one() -> None:
    with pytest.raises(ValueError, match=r"masked is 1\.5"):
        words_and_stretches({"text": TEXTS}, draws(len(TEXTS)), masked=1.5)


def test_as_an_augmentation_it_does_not_depend_on_other_rows() -> None:
    spec = AugmentSpec(factory="workers.data.text_augment:words_and_stretches", views=3)
    x = augmented(spec, Columns({TEXT: of_strings(TEXTS)}), 5, 3)
    assert len(x) == 3 * len(TEXTS)
    rows = np.array([20, 3, 11])
    together = strings(x[rows].columns[TEXT])
    assert together == [strings(x[np.array([row])].columns[TEXT])[0] for row in rows]
