"""What callers of a served student have -> arrays as its run had them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from workers.pyfunc_inputs import examples

X = np.arange(24, dtype=np.float32).reshape(3, 8)


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        (X, 3),
        (X.astype(np.float64), 3),
        (X.astype(np.int32), 3),
        (X.tolist(), 3),
        (torch.from_numpy(X), 3),
        (pd.DataFrame(X), 3),
        (pd.DataFrame({str(k): X[:, k].astype("f8" if k % 2 else "i8") for k in range(8)}), 3),
        (pd.DataFrame({"x": list(X)}), 3),
        (scipy.sparse.csr_matrix(X), 3),
        (X[0], 1),
        (X[0].astype(np.float64).tolist(), 1),
        (pd.Series(X[0]), 1),
        (X[:0], 0),
    ],
)
def test_numbers_of_any_type_are_taken(asked: Any, rows: int) -> None:
    found = examples(asked, [8], "float32")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, X[:rows])


def test_ids_stay_whole() -> None:
    ids = np.array([[3, 2**40], [5, 0]])
    for asked in (ids, ids.astype(np.float64), ids.tolist(), pd.DataFrame(ids)):
        found = examples(asked, [2], "int64")
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, ids)
    assert examples([1, 2], [2], "int32").tolist() == [[1, 2]]
    for wrong in ([[0.5, 1.0]], [[np.nan, 1.0]], [[1e30, 1.0]]):
        with pytest.raises(ValueError, match=r"fractions or numbers too large; expected int64 \[N, 2\]"):
            examples(wrong, [2], "int64")


def test_images_of_bytes_come_as_models_take_them() -> None:
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    assert examples(images, [4, 4], "uint8").dtype == np.float32
    assert examples(images[0], (4, 4), "uint8").shape == (1, 4, 4)
    for frame in (pd.DataFrame(images.reshape(2, -1)), pd.DataFrame({"image": [i.tolist() for i in images]})):
        np.testing.assert_array_equal(examples(frame, [4, 4], "uint8"), images)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (X[:, :7], r"shape \[3, 7\]; expected float32 \[N, 8\] \(.*\), or one example \[8\]"),
        (X[0, :7], r"shape \[7\]"),
        (X[None], r"shape \[1, 3, 8\]"),
        (pd.DataFrame(X[:, :7]), r"shape \[3, 7\]"),
        ([[1.0], [2.0, 3.0]], "rows of different lengths"),
        (pd.DataFrame({"x": [[1.0], [2.0, 3.0]]}), "rows of different shapes"),
        ([["a"] * 8], "asked <U1; expected float32"),
        (pd.DataFrame([["a"] * 8]), "no numbers"),
        (None, r"shape \[\]"),
    ],
)
def test_what_does_not_fit_is_named(asked: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        examples(asked, [8], "float32")


def test_columns_of_a_data_frame_are_taken_by_their_names() -> None:
    names = [f"n{k}" for k in range(8)]
    frame = pd.DataFrame(X, columns=names)
    for asked in (frame, frame[names[::-1]], frame.assign(id=7), pd.DataFrame(X), X):
        np.testing.assert_array_equal(examples(asked, [8], "float32", names=names), X)
    with pytest.raises(ValueError, match="asked no column 'n3'; expected n0, n1"):
        examples(frame.rename(columns={"n3": "other"}), [8], "float32", names=names)


def test_bytes_are_refused_where_the_run_had_pixels_from_0_to_1() -> None:
    image = np.array([[0, 255], [1, 2]], np.uint8)
    for wrong in (image, image.astype(np.float64)):
        with pytest.raises(ValueError, match="whole numbers up to 255; expected pixels from 0 to 1"):
            examples(wrong, [2, 2], "float32", byte_scale=255)
    np.testing.assert_array_equal(
        examples(image / 255, [2, 2], "float32", byte_scale=255)[0], (image / 255).astype("f4")
    )
