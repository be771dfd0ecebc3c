"""What a column of a table means goes by its name, in every split."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.makers import blobs
from workers.data import dataset, loading
from workers.errors import RequestError
from workers.specs.data import DataSpec

COLUMNS = list("abcdefgh")


def frame(n: int, seed: int) -> pd.DataFrame:
    x, y = blobs(n, seed)
    return pd.DataFrame(x, columns=COLUMNS).assign(y=y)


def frames() -> dict[str, pd.DataFrame]:
    return {name: frame(n, k) for k, (name, n) in enumerate((("train", 120), ("validation", 40), ("test", 40)))}


def load(folder: Path, tables: dict[str, Any], **more: Any) -> dataset.Dataset:
    for name, table in tables.items():
        if isinstance(table, pd.DataFrame):
            table.to_parquet(folder / f"{name}.parquet")
        else:
            pq.write_table(table, folder / f"{name}.parquet")
    files = {name: f"{name}.parquet" for name in tables}
    return loading.load(DataSpec.model_validate({"kind": "parquet", "root": str(folder), **files, **more}), 0)


def changed(split: str, table: Any) -> dict[str, Any]:
    return {**frames(), split: table}


def test_an_index_is_no_feature(tmp_path: Path) -> None:
    """After a shuffle pandas writes the index as a column; a split that was not shuffled has none."""
    given = frames()
    plain = load(tmp_path, given)
    shuffled = {name: table.sample(frac=1.0, random_state=1) for name, table in given.items() if name != "test"}
    found = load(tmp_path, {**shuffled, "test": given["test"]})
    assert found.train.x.shape == (120, 8)
    np.testing.assert_array_equal(np.sort(found.train.x[:], axis=0), np.sort(plain.train.x[:], axis=0))
    np.testing.assert_array_equal(found.test.x[:], plain.test.x[:])
    (note,) = found.notes
    assert note.startswith("data: the index (__index_level_0__) is no feature")


@pytest.mark.parametrize("name", ["customer", None])
def test_an_index_is_known_by_its_metadata_or_its_name(tmp_path: Path, name: str | None) -> None:
    table = frames()["train"].sample(frac=1.0, random_state=1).rename_axis(name)
    arrow = pa.Table.from_pandas(table)
    given = arrow if name else arrow.replace_schema_metadata(None)  # as another program writes it anew
    assert load(tmp_path, changed("train", given)).train.x.shape == (120, 8)
    chosen = load(
        tmp_path,
        {k: table.assign(extra=1).rename_axis("customer").sample(frac=1.0) for k, table in frames().items()},
        feature_columns=["customer", "a"],
    )
    np.testing.assert_array_equal(np.sort(chosen.train.x[:][:, 0]), np.arange(120))  # the user's word counts


def test_columns_are_found_by_name_in_whatever_order(tmp_path: Path) -> None:
    given = frames()
    plain = load(tmp_path, given)
    mixed = {
        **given,
        "test": given["test"][["y", *reversed(COLUMNS)]],
        "validation": given["validation"][["c", "y", *"abdefgh"]],
    }
    found = load(tmp_path, mixed)
    np.testing.assert_array_equal(found.test.x[:], plain.test.x[:])
    np.testing.assert_array_equal(found.validation.x[:], plain.validation.x[:])
    assert found.digests == plain.digests


@pytest.mark.parametrize("split", ["validation", "test", "unlabeled"])
def test_columns_that_differ_are_named(tmp_path: Path, split: str) -> None:
    given = {**frames(), "unlabeled": frame(30, 9).drop(columns="y")}
    lacking = {**given, split: given[split].drop(columns="c")}
    with pytest.raises(RequestError, match=rf"data\.{split} has no column c, which train has"):
        load(tmp_path, lacking)
    more = {**given, split: given[split].assign(later=1.0)}
    with pytest.raises(RequestError, match=rf"data\.{split} has the column later, which train has not"):
        load(tmp_path, more)
    with pytest.raises(RequestError, match="has no column c, which train has and the column C, which train has not"):
        load(tmp_path, {**given, split: given[split].rename(columns={"c": "C"})})
    assert load(tmp_path, more, feature_columns=["b", "a"]).train.x.shape == (120, 2)
    with pytest.raises(RequestError, match=rf"{split}\.parquet': no feature column c; found a, b, d"):
        load(tmp_path, lacking, feature_columns=["c", "a"])


def test_labels_of_unlabelled_examples_are_left_out(tmp_path: Path) -> None:
    found = load(tmp_path, {**frames(), "unlabeled": frame(30, 9)})
    assert found.unlabeled is not None and found.unlabeled.shape == (30, 8)
    assert "data.unlabeled: its label column 'y' is not used" in "".join(found.notes)


def test_the_label_is_no_feature(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="feature_columns: 'y' is the label column"):
        load(tmp_path, frames(), feature_columns=["a", "y"])


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array([1.0, 2.0]), pa.array([1.0, 2.0]), pa.array([0, 1])], names=["a", "a", "y"])
    with pytest.raises(RequestError, match=r"train\.parquet': several columns are called a"):
        load(tmp_path, changed("train", table))


def test_a_table_of_labels_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no feature column; found y"):
        load(tmp_path, {name: table[["y"]] for name, table in frames().items()})
    index = {name: table[["y"]].sample(frac=1.0) for name, table in frames().items()}
    with pytest.raises(RequestError, match=r"'y' is the label and __index_level_0__ pandas' index"):
        load(tmp_path, index)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", ["float32", "Int64"])
def test_empty_values_are_named_by_column(tmp_path: Path, split: str, kind: str) -> None:
    table = frames()[split].assign(c=lambda t: t.c.round().astype(kind))
    table.loc[[4, 9], "c"] = None
    with pytest.raises(
        RequestError, match=rf"{split}\.parquet': column 'c' has 2 empty values \(null\), the first in row 4"
    ):
        load(tmp_path, changed(split, table))
    labels = frames()[split].astype({"y": "Int64"})
    labels.loc[7, "y"] = None
    with pytest.raises(RequestError, match=r"label column 'y' has 1 empty values .*row 7; expected a class id"):
        load(tmp_path, changed(split, labels))


def test_nan_is_named_by_column(tmp_path: Path) -> None:
    columns: dict[str, Any] = {name: np.array(values) for name, values in frames()["test"].items()}
    columns["d"][[3, 5]] = np.nan, np.inf
    with pytest.raises(RequestError, match="column 'd' has 2 values that are NaN or infinite, the first in row 3"):
        load(tmp_path, changed("test", pa.table(columns)))


def test_columns_of_every_kind_of_number_become_features(tmp_path: Path) -> None:
    def table(n: int, seed: int) -> pa.Table:
        x, y = blobs(n, seed)
        return pa.table(
            {
                "float": x[:, 0],
                "half": x[:, 1].astype(np.float16),
                "bool": x[:, 2] > 0,
                "money": [decimal.Decimal(f"{v:.2f}") for v in x[:, 3]],
                "category": pa.array(np.round(x[:, 4])).dictionary_encode(),
                "list": pa.FixedSizeListArray.from_arrays(pa.array(x[:, 5:8].reshape(-1)), 3),
                "y": pa.array(y.astype(np.int8)).dictionary_encode(),
            }
        )

    given = {"train": table(120, 0), "validation": table(40, 1), "test": table(40, 2)}
    found = load(tmp_path, given)
    x, y = blobs(120, 0)
    expected = np.column_stack(
        [x[:, 0], x[:, 1].astype(np.float16), x[:, 2] > 0, x[:, 3].round(2), x[:, 4].round(), x[:, 5:]]
    )
    np.testing.assert_allclose(found.train.x[:], expected, atol=0.006)
    np.testing.assert_array_equal(found.train.y, y)


def test_lists_of_lists_are_images(tmp_path: Path) -> None:
    def table(n: int, seed: int) -> pa.Table:
        x, y = blobs(n, seed)
        return pa.table({"x": pa.array(x.reshape(n, 2, 4).tolist(), pa.list_(pa.list_(pa.float32()))), "y": y})

    found = load(tmp_path, {"train": table(120, 0), "validation": table(40, 1), "test": table(40, 2)})
    np.testing.assert_array_equal(found.train.x[:], blobs(120, 0)[0].reshape(120, 2, 4))


NO_NUMBERS: dict[str, tuple[Any, str]] = {
    "strings": (["red"] * 120, "column 'c' is of type (large_)?string; expected numbers"),
    "categories": (pd.Categorical(["red"] * 120), "column 'c' is of type (large_)?string; expected numbers"),
    "dates": ([datetime.datetime(2026, 1, 1)] * 120, r"column 'c' is of type timestamp.*; expected numbers"),
    "nothing": ([None] * 120, "column 'c' has 120 empty values"),
    "ragged": ([[1.0]] * 119 + [[1.0, 2.0]], r"lists of different lengths or none \(1, 2\)"),
    "no list": ([[1.0]] * 119 + [None], r"lists of different lengths or none \(1, none\)"),
    "an empty entry": ([[1.0, 2.0]] * 119 + [[1.0, None]], "column 'c' has 1 empty values .* row 119"),
}


@pytest.mark.parametrize("case", NO_NUMBERS)
def test_what_is_no_number_is_named_by_column(tmp_path: Path, case: str) -> None:
    values, words = NO_NUMBERS[case]
    with pytest.raises(RequestError, match=words):
        load(tmp_path, changed("train", frames()["train"].assign(c=values)))


@pytest.mark.parametrize("category", [False, True])
def test_labels_may_be_names(tmp_path: Path, category: bool) -> None:
    given = frames()
    kind = "category" if category else "object"
    named = {k: t.assign(y=t.y.map({0: "eel", 1: "cat", 2: "dog"}).astype(kind)) for k, t in given.items()}
    found, as_table = load(tmp_path, named), load(tmp_path, named, kind="table")
    assert found.label_names == as_table.label_names == ("cat", "dog", "eel")
    assert found.train.y.tolist() == as_table.train.y.tolist() == ((given["train"].y + 2) % 3).tolist()
    with pytest.raises(RequestError, match=r"test\.parquet': label column 'y' is of type .*string; .* as in train"):
        load(tmp_path, {**given, "test": named["test"]})
    with pytest.raises(RequestError, match=r"data\.test: the label '\d' of example 0 is none of the 3"):
        load(tmp_path, {**named, "test": given["test"]})
    named["train"].loc[7, "y"] = None
    assert load(tmp_path, named).train.y[7] == -1


@pytest.mark.parametrize("kind", ["parquet", "table"])
def test_the_label_column_of_texts_is_pointed_out(tmp_path: Path, kind: str) -> None:
    given = {name: table.rename(columns={"y": "label"}) for name, table in frames().items()}
    with pytest.raises(RequestError, match=r"no (label )?column 'y'; found .* set `data\.label_column: label`"):
        load(tmp_path, given, kind=kind)
    assert load(tmp_path, given, kind=kind, label_column="label").classes == 3


def test_a_column_of_row_numbers_is_noted(tmp_path: Path) -> None:
    numbered = {name: table.reset_index(names="row") for name, table in frames().items()}
    (note, *_) = load(tmp_path, numbered).notes
    assert note.startswith("data.train: row has another whole number in each row, as an index does")
    sample = {name: table.assign(row=table.row * 5) for name, table in numbered.items()}  # of a larger table
    assert load(tmp_path, sample).notes[0].startswith("data.train: row has another whole number in each row")


def test_an_index_of_one_split_is_none_in_another(tmp_path: Path) -> None:
    for split in ("train", "test"):
        tables = {name: table.rename_axis("id") for name, table in frames().items()}
        plain = tables[split].reset_index()
        found = load(tmp_path, {**tables, split: plain})
        assert found.train.x.shape == load(tmp_path, frames()).train.x.shape
        assert found.notes[0].startswith("data: the index (id) is no feature and is left out")
    through_csv = {name: table.reset_index(names="Unnamed: 0") for name, table in frames().items()}
    assert load(tmp_path, through_csv).notes[0].startswith("data: the index (Unnamed: 0) is no feature")


def test_names_with_dots_and_no_rows(tmp_path: Path) -> None:
    dotted = {name: table.rename(columns={"a": "a.b", "b": "a.c"}) for name, table in frames().items()}
    assert load(tmp_path, dotted).train.x.shape == (120, 8)
    with pytest.raises(RequestError, match=r"data\.test: no examples"):
        load(tmp_path, changed("test", frames()["test"][:0]))


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.float32()), "y": pa.array([], pa.int64())}), tmp_path / "a.parquet")
    spec = DataSpec(kind="parquet", train=str(tmp_path / "a.parquet"), test=str(tmp_path / "a.parquet"))
    with pytest.raises(RequestError, match=r"data\.train: no examples"):
        loading.load(spec, 0)
