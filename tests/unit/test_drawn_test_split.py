"""A test split that is drawn from the training examples: `data.test_share`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.makers import blobs
from workers.data import dataset, loading
from workers.errors import RequestError
from workers.specs.data import DataSpec


def loaded(folder: Path, seed: int = 0, **keys: object) -> dataset.Dataset:
    x, y = blobs(500, 1)
    np.savez(folder / "all.npz", x=x, y=y, user=np.arange(500) // 10)
    values = {"kind": "npz", "train": str(folder / "all.npz"), "test_share": 0.2}
    return loading.load(DataSpec.model_validate(values | keys), seed)


def test_the_splits_are_all_examples_and_share_none(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    x, y = blobs(500, 1)
    assert (len(found.train), len(found.validation), len(found.test)) == (360, 40, 100)
    every = np.concatenate([found.train.x[:], found.validation.x[:], found.test.x[:]])
    np.testing.assert_array_equal(np.unique(every, axis=0), np.unique(x, axis=0))
    assert found.kept is not None  # `example_id` is the row as it was given
    np.testing.assert_array_equal(x[found.kept], found.train.x[:])
    np.testing.assert_array_equal(y[found.kept], found.train.y)
    assert found.notes == ()


def test_another_seed_has_the_same_test_examples(tmp_path: Path) -> None:
    one, other = loaded(tmp_path), loaded(tmp_path, seed=1)
    assert one.digests["test"] == other.digests["test"] and one.digests["train"] != other.digests["train"]


def test_groups_stay_whole(tmp_path: Path) -> None:
    found = loaded(tmp_path, group_column="user")
    assert len(found.test) == 100
    assert np.unique(found.groups["test"], return_counts=True)[1].tolist() == [10] * 10


def test_train_has_no_unlabelled_examples_of_groups_that_are_drawn(tmp_path: Path) -> None:
    x, y = blobs(500, 1)
    rows = np.arange(500)
    np.savez(tmp_path / "some.npz", x=x, y=np.where(rows % 2, y, -1), user=rows // 10)
    found = loaded(tmp_path, group_column="user", train=str(tmp_path / "some.npz"), validation_share=0.1)
    of_test = {row // 10 for row in rows if (found.test.x[:] == x[row]).all(axis=1).any()}
    assert len(of_test) == 10 and found.kept is not None
    of_validation = {row // 10 for row in rows if (found.validation.x[:] == x[row]).all(axis=1).any()}
    assert len(of_validation) == 4 and not (of_test | of_validation) & {*(found.kept // 10)}
    assert len(found.test) == 50 and (found.train.y == -1).sum() == 180
    assert "70 examples without a label are of groups that are drawn for test or validation" in found.notes[0]
    assert found.digests["train"] == replace(found, scanned={}).digests["train"]


def test_a_wrong_share_of_the_test_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data\.test_share: 0\.0001 of 500 labelled training examples is 0"):
        loaded(tmp_path, test_share=0.0001)
    with pytest.raises(ValueError, match="`test` or `test_share`, not both"):
        DataSpec(kind="npz", train="a", test="b", test_share=0.1)
    with pytest.raises(ValueError, match="needs `test`: a path or an fsspec URI, or `test_share`"):
        DataSpec(kind="npz", train="a")


def test_arrays_of_other_names(tmp_path: Path) -> None:
    x, y = blobs(50, 1)
    np.savez(tmp_path / "a.npz", images=x, labels=y)
    keys = {"train": str(tmp_path / "a.npz"), "feature_columns": ("images",), "label_column": "labels"}
    assert len(loaded(tmp_path, **keys).test) == 10
