"""What is odd about data gets a note with figures, what is surely wrong is refused, and other data get neither."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.config.run_config import RunConfig
from orchestrator.stages import remarks
from tests.makers import blobs, write_config
from workers.data import dataset as data
from workers.data import loading, scan
from workers.data.arrays import digest
from workers.errors import RequestError
from workers.specs.data import DataSpec
from workers.specs.training import TrainingSpec

Arrays = tuple[np.ndarray, np.ndarray]


def loaded(folder: Path, classes: int | None = None, overlap: bool = False, **splits: Any) -> data.Dataset:
    for name, arrays in splits.items():
        x, y = arrays if isinstance(arrays, tuple) else (arrays, None)
        np.savez(folder / f"{name}.npz", x=x, **({} if y is None else {"y": y}))
    files = {name: f"{name}.npz" for name in splits}
    return loading.load(DataSpec(kind="npz", root=str(folder), classes=classes, allow_overlap=overlap, **files), 0)


def splits(n: int = 200, **more: Any) -> dict[str, Any]:
    return {"train": blobs(n, 0), "validation": blobs(60, 1), "test": blobs(60, 2), **more}


def said(dataset: data.Dataset) -> str:
    return "\n".join(dataset.notes)


def test_sound_data_need_no_note(tmp_path: Path) -> None:
    assert loaded(tmp_path, **splits()).notes == ()
    ids = np.random.default_rng(0).integers(0, 250, (200, 12))
    few = {name: (ids[rows], blobs(len(ids), 0)[1][rows]) for name, rows in BY_ROWS.items()}
    assert loaded(tmp_path, **few).notes == ()  # token ids are no pixels


BY_ROWS = {"train": slice(100), "validation": slice(100, 150), "test": slice(150, 200)}


# --- labels


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.float64])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_labels_of_a_support_vector_machine_are_refused(tmp_path: Path, kind: type, split: str) -> None:
    x, y = blobs(60, 5, classes=2)
    changed = {**{name: (x + k, y) for k, name in enumerate(BY_ROWS)}, split: (x - 1, (2 * y - 1).astype(kind))}
    with pytest.raises(RequestError, match=rf"data\.{split}: the labels are -1 and \+1.*write 0 and 1"):
        loaded(tmp_path, classes=2, **changed)


def test_a_class_of_minus_one_is_refused(tmp_path: Path) -> None:
    moods = {name: (x, y - 1) for name, (x, y) in splits().items()}
    with pytest.raises(RequestError, match=r"data\.validation: label -1 .* all labels start at 0: y = y \+ 1"):
        loaded(tmp_path, **moods)


@pytest.mark.parametrize("first", [1, 7])
def test_labels_from_one_are_refused(tmp_path: Path, first: int) -> None:
    x, y = blobs(200, 0)
    with pytest.raises(RequestError, match=f"labels go from {first} to {first + 2}.*Do labels start at {first}"):
        loaded(tmp_path, **splits(train=(x, y + first)))


def test_a_class_left_out_on_purpose_is_taken_and_named(tmp_path: Path) -> None:
    x, y = blobs(200, 0, classes=4)
    test = blobs(60, 2, classes=4)
    for left_out in (0, 2):
        kept = y != left_out
        found = loaded(tmp_path, classes=4, train=(x[kept], y[kept]), validation=(x[kept] + 1, y[kept]), test=test)
        assert f"no labelled example of class {left_out} (4 classes in all)" in said(found)
        assert len(found.notes) == 1
    gap: dict[str, Any] = {"train": (x[y != 2], y[y != 2]), "validation": (x[y != 2] + 1, y[y != 2])}
    none = loaded(tmp_path, **gap, test=(test[0][test[1] != 2], test[1][test[1] != 2]))
    assert "class 2 (4 classes" in said(none)  # inside the range a gap of each split needs no declaration
    message = (
        r"data\.test: the label 2 of example 2 is none that data\.train has, which are of classes 0, 1, 3; \d+ such"
    )
    with pytest.raises(RequestError, match=rf"{message} labels in all\..*set `data\.classes: 4`"):
        loaded(tmp_path, **gap, test=test)


def test_huge_ids_take_no_memory(tmp_path: Path) -> None:
    x, y = blobs(200, 0)
    found = loaded(tmp_path, 10**12 + 1, **splits(train=(x, np.where(y == 2, 10**12, y))))
    assert "no labelled example of classes 2, 3, 4, 5, 6 and 999,999,999,993 more" in said(found)


def test_labelled_and_not_are_counted(tmp_path: Path) -> None:
    x, y = blobs(200, 0)
    y[50:] = -1
    found = said(loaded(tmp_path, **splits(train=(x, y), unlabeled=blobs(70, 9)[0])))
    assert "50 of 200 examples have a label and 150 have none (-1)" in found
    assert "Validation 60, all labelled; test 60, all labelled; unlabeled 70." in found


@pytest.mark.parametrize("classes", [None, 3])
def test_a_training_set_without_any_label_is_refused(classes: int | None, tmp_path: Path) -> None:
    x, y = blobs(200, 0)
    with pytest.raises(RequestError, match=r"data\.train: no example has a label"):
        loaded(tmp_path, classes=classes, **splits(train=(x, np.full_like(y, -1))))


def test_rare_and_absent_classes_are_named(tmp_path: Path) -> None:
    x, y = blobs(300, 0, classes=4)
    rare = np.flatnonzero(y == 3)[2:]
    train = (np.delete(x, rare, 0), np.delete(y, rare))
    some = blobs(90, 1, classes=4)
    test = (some[0][some[1] != 3], some[1][some[1] != 3])
    found = said(loaded(tmp_path, train=train, validation=blobs(60, 2, classes=4), test=test))
    assert "fewer than 5 labelled examples of class 3 (2)" in found
    assert "data.test: no example of class 3, which train has" in found and "data.validation" not in found


def test_a_class_of_nearly_all_examples_is_noted(tmp_path: Path) -> None:
    x, y = blobs(1000, 0, classes=2)
    y[:] = np.arange(1000) % 50 == 0
    found = loaded(tmp_path, **splits(train=(x, y)), classes=3)
    assert "data.train: 98.0% of the labelled examples are of class 0" in said(found)


def test_a_batch_larger_than_the_data_is_noted() -> None:
    assert remarks.large_batch("student.training", 200, 200) == []
    (note,) = remarks.large_batch("student.training", 4096, 200)
    assert note.startswith("student.training.batch_size: 4,096 is more than the 200 examples") and "20 or fewer" in note


def test_a_baseline_of_few_steps_is_noted() -> None:
    recipe = TrainingSpec(epochs=3, batch_size=512)
    assert remarks.short_baseline(recipe, 5000, [(recipe, 12_000)]) == []
    (note,) = remarks.short_baseline(recipe, 1200, [(recipe, 201_200)])
    assert "the baseline takes 9 steps on 1,200 labelled examples, and the student 1,179 on 201,200" in note
    assert "`epochs: 393`" in note


def test_versions_that_no_student_sees_are_noted(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def moved(x, draws): return x + draws.uniform(1, 2)\n")
    path = str(write_config(tmp_path, data__augment={"factory": "mine:moved", "views": 9}))
    for overrides in (["student.training.epochs=9"], ["data.augment=null"], ["data.augment.views=1"]):
        assert remarks.unseen_versions(RunConfig.load(path, overrides)) == []
    (note,) = remarks.unseen_versions(RunConfig.load(path, ["student.training.epochs=4"]))
    assert "the teachers label 9 versions of each example, and a student that trains for 4 epochs learns from" in note
    values = RunConfig.load(path, ["student.training.epochs=4"]).student.model_dump(mode="json", exclude_none=True)
    longer = {**values, "training": {**values["training"], "epochs": 9}}
    several = RunConfig.load(path, ["student=null", f"students={json.dumps({'short': values, 'long': longer})}"])
    assert remarks.unseen_versions(several) == []


def test_splits_drawn_from_what_finished_members_may_have_learned_are_noted(tmp_path: Path) -> None:
    path, trained = str(write_config(tmp_path)), RunConfig.load(str(write_config(tmp_path))).ensemble
    assert remarks.known_to_finished_members(trained, ["validation", "test"]) == []
    finished = RunConfig.load(path, ['ensemble={model: {factory: "m:f"}, checkpoints: [a.safetensors]}']).ensemble
    assert remarks.known_to_finished_members(finished, []) == []
    of_validation, of_test = remarks.known_to_finished_members(finished, ["validation", "test"])
    assert (
        "data.validation: drawn from data.train, which 1 finished member may have learned from; what is"
        in of_validation
    )
    assert "data.test: " in of_test and "the ensemble, may be too high. Give `test`, a file of" in of_test


# --- types and ranges


def pixels(n: int, seed: int, shape: tuple[int, ...] = (28, 28)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)


def each(make: Callable[[int, int], np.ndarray]) -> dict[str, Arrays]:
    return {name: (make(60, k), np.arange(60) % 3) for k, name in enumerate(("train", "validation", "test"))}


@pytest.mark.parametrize(
    "make",
    [
        lambda n, seed: pixels(n, seed),
        lambda n, seed: pixels(n, seed, (784,)).astype(np.float64),
        lambda n, seed: pixels(n, seed, (3, 8, 8)).astype(np.float32) * 0.99,
    ],
    ids=["bytes", "whole floats", "resized"],
)
def test_pixels_in_bytes_are_noted(tmp_path: Path, make: Callable[[int, int], np.ndarray]) -> None:
    found = loaded(tmp_path, **each(make))
    assert re.fullmatch(r"data\.train: values from 0 to 25\d.* look like pixels in bytes; .*\[0, 1\].*", said(found))


@pytest.mark.parametrize(
    "make",
    [
        lambda n, seed: np.random.default_rng(seed).poisson(3.0, (n, 40)).astype(np.float32),
        lambda n, seed: np.random.default_rng(seed).integers(0, 256, (n, 64)),
        lambda n, seed: np.random.default_rng(seed).normal(100, 20, (n, 20)).clip(0),
        lambda n, seed: pixels(n, seed) / np.float32(255),
    ],
    ids=["counts", "token ids", "measurements", "scaled"],
)
def test_other_numbers_are_no_pixels(tmp_path: Path, make: Callable[[int, int], np.ndarray]) -> None:
    assert "pixels" not in said(loaded(tmp_path, **each(make)))


WRONG_TYPES = {
    "bytes beside floats": (np.uint8, np.float32, 1 / 255),
    "another integer": (np.int64, np.int32, 1),
    "bytes beside ids": (np.int64, np.uint8, 1),
    "ids beside floats": (np.float32, np.int64, 1),
}


@pytest.mark.parametrize("case", WRONG_TYPES)
@pytest.mark.parametrize("split", ["validation", "test", "unlabeled"])
def test_types_are_equal_over_splits(tmp_path: Path, case: str, split: str) -> None:
    of_train, other, factor = WRONG_TYPES[case]
    given: dict[str, Any] = {k: (x.astype(of_train), y) for k, (x, y) in each(pixels).items()}
    changed = (pixels(60, 8) * factor).astype(other)
    given[split] = changed if split == "unlabeled" else (changed, np.arange(60) % 3)
    words = (
        rf"data\.{split}: x is {np.dtype(other)} with values from .*data\.train {np.dtype(of_train)} with values from"
    )
    with pytest.raises(RequestError, match=words):
        loaded(tmp_path, **given)


def test_floats_of_other_widths_may_mix(tmp_path: Path) -> None:
    given = splits()
    given["test"] = (given["test"][0].astype(np.float64), given["test"][1])
    given["validation"] = (given["validation"][0].astype(">f4"), given["validation"][1])
    assert loaded(tmp_path, **given).notes == ()


@pytest.mark.parametrize("bytes_in", ["train", "test"])
def test_bytes_beside_the_unit_interval_are_refused(tmp_path: Path, bytes_in: str) -> None:
    given = {name: (x / np.float32(1 if name == bytes_in else 255), y) for name, (x, y) in each(pixels).items()}
    given["validation"] = (given["train"][0][::-1] * np.float32(0.9), given["train"][1])
    with pytest.raises(RequestError, match=r"data\.test has values from .* one is in bytes and the other in \[0, 1\]"):
        loaded(tmp_path, **given)


def test_another_scale_of_a_split_is_noted(tmp_path: Path) -> None:
    given = splits(unlabeled=blobs(50, 7)[0])
    given["test"] = (given["test"][0] * 1000, given["test"][1])
    (note,) = loaded(tmp_path, **given).notes
    assert re.match(r"data\.test has values from .*, and data\.train from .*times apart", note)


def test_the_unit_interval_beside_negative_numbers_is_noted(tmp_path: Path) -> None:
    unit, x = each(lambda n, seed: np.random.default_rng(seed).random((n, 4))), splits()["test"][1]
    unit["test"] = (unit["test"][0] * 2 - 1, unit["test"][1])
    assert "data.test has values from -0.9" in said(loaded(tmp_path, **unit)) and len(x)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_what_is_not_finite_as_models_take_it_is_refused(tmp_path: Path, value: float) -> None:
    x = blobs(60, 2)[0].astype(np.float64)
    x[41, 3] = value
    with pytest.raises(RequestError, match=r"data\.test: x of example 41 holds NaN or infinity"):
        loaded(tmp_path, **splits(test=(x, blobs(60, 2)[1])))


def test_examples_without_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"examples of shape \[0\] hold no number"):
        loaded(tmp_path, **{name: (x[:, :0], y) for name, (x, y) in splits().items()})


# --- shared examples


@pytest.mark.parametrize("other", ["test", "validation"])
def test_a_split_of_the_training_examples_is_refused(tmp_path: Path, other: str) -> None:
    given = splits()
    order = np.random.default_rng(0).permutation(len(given["train"][1]))
    for mixed in (np.arange(len(order)), order):
        changed = {**given, other: tuple(array[mixed] for array in given["train"])}
        with pytest.raises(RequestError, match=rf"data\.train and data\.{other} are the same examples.*allow_overlap"):
            loaded(tmp_path, **changed)
        assert "are the same examples, as `data.allow_overlap` allows" in said(
            loaded(tmp_path, overlap=True, **changed)
        )


def test_validation_and_test_may_be_the_same(tmp_path: Path) -> None:
    given = splits()
    (note,) = loaded(tmp_path, **{**given, "validation": given["test"]}).notes
    assert re.match(r"data\.test: (\d+) of \1 examples are also in data\.validation, value for value\.", note)


def test_a_test_split_that_validation_is_drawn_from_is_refused(tmp_path: Path) -> None:
    given = blobs(200, 0)
    with pytest.raises(RequestError, match=r"data\.train and data\.test are the same"):
        loaded(tmp_path, train=given, test=given)


def test_shared_examples_are_counted(tmp_path: Path) -> None:
    given = splits(unlabeled=blobs(30, 9)[0])
    (x, y), (x_test, y_test) = given["train"], given["test"]
    x_test, y_test = x_test.astype(np.float64), y_test.copy()  # of another width, and still the same
    x_test[:7], y_test[:7] = x[100:107], y[100:107]
    y_test[:2] = (y_test[:2] + 1) % 3
    x_test[20:25] = given["unlabeled"][:5]
    found = loaded(tmp_path, **{**given, "test": (x_test, y_test)})
    assert "7 of 60 examples are also in data.train, value for value, 2 of them with another label" in said(found)
    assert "5 of 60 examples are also in data.unlabeled" in said(found) and len(found.notes) == 2


def test_unlabelled_copies_have_no_other_label(tmp_path: Path) -> None:
    given = splits()
    x, y = given["train"]
    y[:100] = -1
    given["test"][0][:9] = x[:9]
    assert "9 of 60 examples are also in data.train, value for value. " in said(loaded(tmp_path, **given))


def test_repeated_training_examples_are_counted(tmp_path: Path) -> None:
    x, y = blobs(200, 0)
    x[100:140] = x[:40]
    y[100:140] = y[:40]
    y[100:103] = (y[:3] + 1) % 3
    found = said(loaded(tmp_path, **splits(train=(x, y))))
    assert "data.train: 40 of 200 examples repeat an earlier one, value for value, and 3 times under another" in found


def test_of_many_rows_a_sample_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = splits(2000)
    given["test"] = tuple(array[:400].copy() for array in given["train"])
    monkeypatch.setattr(scan, "HASHED_ROWS", 300)
    found = said(loaded(tmp_path, **given))
    shared, sampled = map(int, re.findall(r"data\.test: (\d+) of (\d+) examples \(of a sample of one in 9\)", found)[0])
    assert 20 < shared == sampled < 80


def test_one_pass_finds_what_several_did(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(5000, 3, 7)).astype(np.float32)
    held = np.sort(np.random.default_rng(1).permutation(5000)[:700])
    kept, drawn = scan.scan_apart("train", x, [held])
    assert kept.digest == digest(np.delete(x, held, 0)) and drawn.digest == digest(x[held])
    whole = scan.scan("train", x)
    assert whole.digest == digest(x) and (whole.ranges["x"].low, whole.ranges["x"].high) == (x.min(), x.max())
    assert whole.ranges["x"].rms == pytest.approx(float(np.sqrt((x**2).mean())), rel=1e-5)
    assert sorted([*kept.hashes, *drawn.hashes]) == sorted(whole.hashes) and len(set(whole.hashes.tolist())) == 5000


def test_data_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\nread = []\n\nclass Counted:\n"
        "    def __init__(self, x): self.x, self.shape, self.dtype = x, x.shape, x.dtype\n"
        "    def __len__(self): return len(self.x)\n"
        "    def __getitem__(self, rows):\n"
        "        read.append(len(self.x[rows]))\n        return self.x[rows]\n\n"
        "def splits():\n"
        "    x = np.random.default_rng(0).normal(size=(9090, 4))\n"
        "    y = np.arange(9090) % 3\n"
        "    return {'train': (Counted(x[90:]), y[90:]), 'test': (Counted(x[:90]), y[:90])}\n"
    )
    dataset = loading.load(DataSpec(kind="python", factory="mine:splits", folder=str(tmp_path)), 0)
    read = type(dataset.test.x).__getitem__.__globals__["read"]
    assert sum(read) <= 9090 + 8  # and two rows to try each
    before = sum(read)
    assert set(dataset.digests) == {"train", "validation", "test", "unlabeled"} and sum(read) == before


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i8", "?"])
@pytest.mark.parametrize("width", [1, 3, 8, 13])
def test_equal_rows_alone_have_equal_hashes(dtype: str, width: int) -> None:
    """Also of values that differ in few bits, in places that could take each other's."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (4000, width)).astype(dtype)
    hashes = scan.hashing.of_rows(rows)
    unique, inverse = np.unique(rows, axis=0, return_inverse=True)
    assert len(np.unique(hashes)) == len(unique)
    assert all(len(set(hashes[inverse == k].tolist())) == 1 for k in range(min(len(unique), 20)))
