"""`data.transfer_without`: classes that members learn, and student and baseline never see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workers.data import labels, loading
from workers.data.dataset import Dataset
from workers.errors import RequestError
from workers.specs.data import DataSpec


def load(folder: Path, **more: Any) -> Dataset:
    draw = np.random.default_rng(0)
    y = np.arange(60) % 3
    for name, seed in (("train", 0), ("test", 1)):
        np.savez(folder / f"{name}.npz", x=draw.normal(seed, 1.0, (len(y), 4)).astype(np.float32), y=y)
    np.savez(folder / "more.npz", x=draw.normal(2.0, 1.0, (7, 4)).astype(np.float32))
    files = {"train": str(folder / "train.npz"), "test": str(folder / "test.npz")}
    return loading.load(DataSpec.model_validate({"kind": "npz", **files, **more}), 0)


def test_the_transfer_set_has_every_other_example_and_members_have_all(tmp_path: Path) -> None:
    whole = load(tmp_path, unlabeled=str(tmp_path / "more.npz"))
    found = load(tmp_path, unlabeled=str(tmp_path / "more.npz"), transfer_without=[1])
    assert len(found.train) == len(whole.train) == 54 and {*found.train.y} == {0, 1, 2}
    kept = np.flatnonzero(whole.train.y != 1)
    np.testing.assert_array_equal(found.lessons.x, whole.train.x[kept])
    assert {*found.labelled(1).y} == {0, 2} and len(found.transfer) == len(kept) + 7
    assert (found.validation.y == whole.validation.y).all() and found.digests == whole.digests
    names = found.numbering.example_ids(np.arange(len(found.transfer)))
    np.testing.assert_array_equal(names[:-7], whole.kept[kept])  # rows of the user's own file
    np.testing.assert_array_equal(names[-7:], 60 + np.arange(7))
    assert found.numbering.digest() != whole.numbering.digest()  # so no soft targets are shared


def test_examples_without_a_label_stay(tmp_path: Path) -> None:
    labels = np.arange(60) % 3
    labels[::6] = -1
    draw = np.random.default_rng(0)
    splits = {"train": labels, "validation": np.arange(3), "test": np.arange(3)}
    for name, y in splits.items():
        np.savez(tmp_path / f"{name}.npz", x=draw.normal(size=(len(y), 4)).astype(np.float32), y=y)
    spec = {"kind": "npz", **{name: str(tmp_path / f"{name}.npz") for name in splits}}
    found = loading.load(DataSpec.model_validate({**spec, "transfer_without": [0, 1]}), 0)
    assert {*found.lessons.y} == {-1, 2} and (found.lessons.y == -1).sum() == 10


WRONG = {
    (9,): "data.transfer_without: there is no class 9; expected a number from 0 to 2",
    ("cat",): "there is no class 'cat'",
    (0, 1, 2): "no labelled training example is left",
}


@pytest.mark.parametrize("without", WRONG)
def test_wrong_classes_are_named(without: tuple[Any, ...], tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=WRONG[without]):
        load(tmp_path, transfer_without=list(without))


def test_classes_to_leave_out_may_be_given_by_name(tmp_path: Path) -> None:
    rows = [f"{k},{('cat', 'dog', 'emu')[k % 3]}" for k in range(60)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,label", *(rows if name == "train" else rows[:9])]) + "\n")
    spec = {"kind": "table", "train": str(tmp_path / "train.csv"), "test": str(tmp_path / "test.csv")}
    more = {"label_column": "label", "allow_overlap": True}
    found = loading.load(DataSpec.model_validate({**spec, **more, "transfer_without": ["dog"]}), 0)
    assert found.without == (1,) and {*found.lessons.y} == {0, 2}
    with pytest.raises(RequestError, match="there is no class 'cow'; expected one of 'cat', 'dog', 'emu'"):
        loading.load(DataSpec.model_validate({**spec, **more, "transfer_without": ["cow"]}), 0)


NAMES = ("1", "2", "3")
BY_NAME = [
    ((1,), NAMES, (0,)),
    (("3",), NAMES, (2,)),
    ((1,), ("a", "b"), (1,)),
    (("b", 0), ("a", "b"), (0, 1)),
    ((2,), (), (2,)),
]


@pytest.mark.parametrize(("given", "names", "ids"), BY_NAME)
def test_a_number_is_a_name_where_names_are_numbers(
    given: tuple[int | str, ...], names: tuple[str, ...], ids: tuple[int, ...]
) -> None:
    assert labels.ids_of("key", given, len(names) or 3, names) == ids


def test_a_number_that_is_no_name_is_refused() -> None:
    with pytest.raises(RequestError, match="key: there is no class 0; expected one of '1', '2', '3'"):
        labels.ids_of("key", [0], 3, NAMES)


def test_elements_with_labels_of_their_own_have_no_class(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def splits():\n"
        "    rows = [np.arange(3) + k for k in range(20)]\n"
        "    labels = [row % 2 for row in rows]\n"
        "    return {'train': ({'tokens': rows}, labels), 'test': ({'tokens': [r + 50 for r in rows]}, labels)}\n"
    )
    spec = {"kind": "python", "factory": "mine:splits", "folder": str(tmp_path), "transfer_without": [1]}
    with pytest.raises(RequestError, match="elements of an example have labels of their own"):
        loading.load(DataSpec.model_validate(spec), 0)
