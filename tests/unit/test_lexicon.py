"""Lexica: words of the same part of speech by their counts, longest matches, files, and what they are part of."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.data import lexicon, loading
from workers.data.augment import Draws, augmented
from workers.data.examples import Columns
from workers.data.text_augment import words_and_stretches
from workers.data.texts import TEXT, of_strings, strings
from workers.errors import RequestError
from workers.specs.data import AugmentSpec, DataSpec

WORDS = "river\tNN\t6\ncity\tNN\t3\nlake\tNN\t1\nold\tJJ\t2\nrun\tVB\t5\nrun\tNN\t2\nParis\tNNP\n大学\tn\n北京\tns\n"
PLAIN: dict[str, Any] = {"unchanged": 0.0, "masked": 0.0, "stretch": 0.0}


def draws(rows: int) -> Draws:
    return Draws(np.arange(1, rows + 1, dtype=np.uint64) * np.uint64(7919))


@pytest.fixture
def words(tmp_path: Path) -> str:
    (tmp_path / "lexicon.tsv").write_text(WORDS)
    return str(tmp_path / "lexicon.tsv")


def test_words_are_drawn_by_their_counts_within_their_part(words: str) -> None:
    found = lexicon.read(words)
    drawn = Counter(found.replaced(" (river),", k / 1200) for k in range(1200))
    assert drawn == {" (river),": 600, " (city),": 300, " (lake),": 100, " (run),": 200}
    assert found.tags["run"] == "VB" and {found.replaced("run", k / 9) for k in range(9)} == {"run"}
    assert found.replaced("City", 0.99) == "Run" and found.replaced("city", 0.99) == "run"
    assert found.replaced("Paris", 0.0) == "Paris" and found.replaced("paris", 0.0) == "paris"
    assert found.replaced(" unknown", 0.5) == " unknown" and found.replaced(" --", 0.5) == " --"


def test_replacing_is_as_frequent_as_asked_for_beside_masking(words: str) -> None:
    texts = [" ".join(["old city"] * 50)] * 200
    settings = {**PLAIN, "masked": 0.1, "replaced": 0.2, "lexicon": lexicon.read(words)}
    counts = Counter(" ".join(words_and_stretches({"text": texts}, draws(200), **settings)["text"]).split())
    assert counts["[MASK]"] / 20_000 == pytest.approx(0.1, abs=0.01)
    assert counts["river"] / 10_000 == pytest.approx(0.2 * 6 / 12, abs=0.01)  # of the 12 counts of nouns
    assert counts["lake"] / 10_000 == pytest.approx(0.2 * 1 / 12, abs=0.006)
    assert set(counts) == {"old", "city", "river", "lake", "run", "[MASK]"}


def test_a_lexicon_alone_changes_nothing(words: str) -> None:
    texts = ["An old river in a city, a run", "one"] * 20
    plain = words_and_stretches({"text": texts}, draws(40))
    assert words_and_stretches({"text": texts}, draws(40), lexicon=lexicon.read(words)) == plain


def test_unspaced_words_are_the_longest_matches(words: str) -> None:
    found = lexicon.read(words)
    assert found.joined(["北", "京", "大", "学", "生"]) == ["北京", "大学", "生"]
    assert found.joined([" 大", "学", " 北", " 京"]) == [" 大学", " 北", " 京"]
    masked = words_and_stretches(
        {"text": ["北京大学生"]}, draws(1), **{**PLAIN, "masked": 1.0}, mask="_", lexicon=found
    )
    assert masked["text"] == ["___"]


def test_n_grams_have_the_lengths_that_are_asked_for() -> None:
    texts = [" ".join(f"w{k}" for k in range(40))] * 500 + ["one two"] * 20
    settings = {**PLAIN, "stretch": 1.0, "ngram": [1, 5]}
    found = words_and_stretches({"text": texts}, draws(520), **settings)["text"]
    lengths = Counter(len(text.split()) for text in found[:500])
    assert lengths.keys() == {1, 2, 3, 4, 5} and min(lengths.values()) > 70
    assert all(part in whole for part, whole in zip(found, texts, strict=True))


def made(x: Any, rows: list[int]) -> list[str]:
    return strings(x[np.array(rows)].columns[TEXT])


def test_variations_follow_from_their_own_rows(words: str) -> None:
    kwargs = {"replaced": 0.3, "ngram": [1, 5], "lexicon": words, "unchanged": 0.0}
    spec = AugmentSpec(factory="workers.data.text_augment:words_and_stretches", kwargs=kwargs, views=3)
    texts = ["the old city by a river", "北京大学 is old", "one", "run " * 30]
    x = augmented(spec, Columns({TEXT: of_strings(texts)}), 5, 3)
    rows = [9, 3, 11, 7]
    together = made(x, rows)
    assert together == [made(x, [row])[0] for row in rows]
    Path(words).unlink()  # the words travel with the examples
    assert made(x, rows) == together


WRONG_FILES = {
    "river NN\n": "line 1: found 'river NN'; expected a word, a tab, its part of speech",
    "river\tNN\t3\ncity\tNN\tmany\n": "line 2: found",
    "a river\tNN\n(\tSYM\n": "line 2: found",
    "": "no words. Expected a lexicon",
    "river\tNN\t0\n": "no words. Expected a lexicon",
}


@pytest.mark.parametrize("content", WRONG_FILES)
def test_a_wrong_lexicon_is_refused_with_its_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "words.tsv").write_text(content)
    with pytest.raises(RequestError, match=WRONG_FILES[content]):
        lexicon.read(str(tmp_path / "words.tsv"))


WRONG_SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"replaced": 0.1}, "replaced is above 0 without `lexicon`"),
    ({"masked": 0.6, "replaced": 0.6}, "masked \\+ replaced is 1.2; expected at most 1"),
    ({"replaced": -0.1}, "replaced is -0.1; expected a probability"),
    ({"ngram": [0, 5]}, "ngram is \\[0, 5\\]; expected the least and the largest n"),
    ({"ngram": [3]}, "ngram is \\[3\\]"),
    ({"lexicon": "no-such.tsv"}, "data.augment.kwargs.lexicon: '.*no-such.tsv': no such file"),
    ({"lexicon": 3}, "data.augment.kwargs.lexicon: found 3; expected the path or URI of a file"),
]


@pytest.mark.parametrize(("kwargs", "message"), WRONG_SETTINGS)
def test_wrong_settings_of_the_augmentation_are_refused(tmp_path: Path, kwargs: dict[str, Any], message: str) -> None:
    factory = "workers.data.text_augment:words_and_stretches"
    spec = AugmentSpec(factory=factory, kwargs=kwargs, folder=str(tmp_path))
    with pytest.raises(RequestError, match=message):
        augmented(spec, Columns({TEXT: of_strings(["a river", "one"])}), 0, 1)


def test_what_is_reused_changes_with_the_words(tmp_path: Path, words: str) -> None:
    for name in ("train", "test"):
        lines = [f'{{"text": "{name} {k} river", "label": {k % 2}}}\n' for k in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))

    def key(place: str | None) -> dict[str, Any]:
        kwargs = {} if place is None else {"replaced": 0.1, "lexicon": place}
        augment = {
            "factory": "workers.data.text_augment:words_and_stretches",
            "kwargs": kwargs,
            "folder": str(tmp_path),
        }
        spec = DataSpec.model_validate(
            {"kind": "text", "train": "train.jsonl", "test": "test.jsonl", "root": str(tmp_path), "augment": augment}
        )
        return loading.load(spec, 0).augmentation

    near = key("lexicon.tsv")  # relative to the configuration
    assert near["files"].keys() == {"lexicon.tsv"} and key(None)["files"] == {}
    assert key("lexicon.tsv") == near
    Path(words).write_text(WORDS + "town\tNN\t1\n")
    changed = key("lexicon.tsv")
    assert changed["files"] != near["files"] and changed | {"files": 0} == near | {"files": 0}
    import fsspec

    with fsspec.open("memory://lexica/words.tsv", "w") as file:
        file.write(WORDS)
    far = key("memory://lexica/words.tsv")["files"]
    assert far["memory://lexica/words.tsv"] == near["files"]["lexicon.tsv"]


def test_a_lexicon_is_read_once_and_travels_with_the_data(tmp_path: Path) -> None:
    """A worker on another machine makes the baseline's examples without the file."""
    lexicon = tmp_path / "words.tsv"
    lexicon.write_text("river\tNN\ncity\tNN\n")
    rows = [{"text": f"a river {k}", "label": "ab"[k % 2]} for k in range(40)]
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    augment = AugmentSpec(
        factory="workers.data.text_augment:words_and_stretches",
        kwargs={"unchanged": 0.0, "masked": 0.0, "replaced": 1.0, "stretch": 0.0, "lexicon": "words.tsv"},
        folder=str(tmp_path),
    )
    splits = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    spec = DataSpec(
        kind="text", validation=str(tmp_path / "valid.jsonl"), allow_overlap=True, augment=augment, **splits
    )
    data = loading.load(spec, 0)
    before = strings(data.labelled(2).x[np.arange(8)].columns[TEXT])
    lexicon.unlink()
    assert strings(data.labelled(2).x[np.arange(8)].columns[TEXT]) == before
    assert {word for text in before for word in text.split()[1:2]} == {"river", "city"}
