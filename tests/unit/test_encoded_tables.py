"""Tables with categories, empty cells, other separators and labels of any kind, as numbers and class ids."""

from __future__ import annotations

import codecs
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.data import dataset, encoded_tables, loading, table_files, tables
from workers.data.label_names import NamedLabels, ids_or_names
from workers.errors import RequestError
from workers.specs.data import DataSpec

PEOPLE = """age;city;weight;bought
20;Rome;70,5;yes
;Bern;80,5;no
40;Rome;60,0;yes
30;Bern;75,0;no
"""


def loaded(path: Path, **keys: object) -> dataset.Dataset:
    """The data set of a file as both train and test."""
    values = {"kind": "table", "train": str(path), "test": str(path), "allow_overlap": True, "validation_share": 0.5}
    return loading.load(DataSpec.model_validate(values | keys), 0)


def test_a_table_with_decimal_commas_empty_cells_and_categories(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(PEOPLE)
    found = loaded(tmp_path / "people.csv", label_column="bought")
    expected = [  # age, age is empty, city=Bern, city=Rome, weight
        [20, 0, 0, 1, 70.5],
        [30, 1, 1, 0, 80.5],
        [40, 0, 0, 1, 60.0],
        [30, 0, 1, 0, 75.0],
    ]
    np.testing.assert_array_equal(found.test.x[:], np.array(expected, np.float32))
    assert found.label_names == ("no", "yes") and found.test.y.tolist() == [1, 0, 1, 0]
    assert "3 columns are 5 numbers" in " ".join(found.notes)


def test_a_first_line_of_data_is_noted(tmp_path: Path) -> None:
    lines = "".join(f"{-k % 7}.5,{k % 3},{'uv'[k % 2]}\n" for k in range(20))
    (tmp_path / "a.csv").write_text(lines)
    noted = "the first line looks like data and was read as the names of columns ('0.5', '0', 'u'). Add a header line"
    assert noted in " ".join(loaded(tmp_path / "a.csv", label_column="u").notes)
    (tmp_path / "b.csv").write_text("0,1,kind\n" + lines)
    assert "header" not in " ".join(loaded(tmp_path / "b.csv", label_column="kind").notes)


@pytest.mark.parametrize("header", [",a,y", '"","a","y"', "Unnamed: 0,a,y", "Unnamed: 0.1,a,y"])
def test_an_index_of_a_csv_is_no_feature(header: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(header + "\n" + "".join(f"{k},{k % 3},{k % 2}\n" for k in range(24)))
    found = loaded(tmp_path / "a.csv")
    np.testing.assert_array_equal(found.test.x[:].ravel(), np.arange(24) % 3)
    name = header.partition(",")[0].strip('"') or "''"
    assert f"data: the index ({name}) is no feature and is left out" in " ".join(found.notes)
    assert loaded(tmp_path / "a.csv", feature_columns=[name.strip("'"), "a"]).test.x.shape == (24, 2)


def test_an_index_of_parquet_is_no_feature(tmp_path: Path) -> None:
    frame = pd.DataFrame({"customer": 7 * np.arange(24) % 24, "a": np.arange(24) % 3, "y": np.arange(24) % 2})
    frame.set_index("customer").to_parquet(tmp_path / "a.parquet")
    for group in (None, "customer"):
        found = loaded(tmp_path / "a.parquet", group_column=group)
        assert found.test.x.shape == (24, 1)
        assert ("data: the index (customer) is no feature" in " ".join(found.notes)) == (group is None)


def test_a_column_of_row_numbers_is_noted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "row,a,b,y\n" + "".join(f"{k + 1},{k % 3},{k % 5 or ''},{k % 2}\n" for k in range(24))
    )
    told = "data.train: row has another whole number in each row, as an index does"
    assert told in " ".join(loaded(tmp_path / "a.csv").notes)
    assert told not in " ".join(loaded(tmp_path / "a.csv", feature_columns=["row", "a"]).notes)


def test_other_splits_are_encoded_as_train(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,b,y\n1,u,0\n3,v,1\n5,u,1\n7,v,0\n")
    (tmp_path / "test.jsonl").write_text('{"b": "w", "a": null, "y": 1}\n{"b": "v", "a": 9.5, "y": 0}\n')
    found = loaded(tmp_path / "train.csv", test=str(tmp_path / "test.jsonl"))
    np.testing.assert_array_equal(found.test.x[:], [[4, 0, 0], [9.5, 0, 1]])  # the mean of train, an unknown text


def both(folder: Path, train: str, test: str, ending: str = "csv") -> list[np.ndarray]:
    """The features of train and test, each given as the content of a file."""
    uris = {"train": str(folder / f"train.{ending}"), "test": str(folder / f"test.{ending}")}
    for uri, content in zip(uris.values(), (train, test), strict=True):
        Path(uri).write_text(content)
    return [x for x, _ in encoded_tables.read(uris, tables.Roles("y"), [])[0].values()]


SPELLED = {  # cells of train, and those of test, which alone would be of another type
    "numbers": (["1.0", "2.0", "?"], ["1.0", "2.0"]),
    "leading zeros": (["007", "A12"], ["007", "007"]),
    "booleans": (["True", "False", "unknown"], ["True", "False"]),
    "nulls": (["NA", "DE"], ["NA", "NA"]),
    "dates": (["2020-01-01", "never"], ["2020-01-01"]),
}


@pytest.mark.parametrize("case", SPELLED)
def test_texts_of_train_are_texts_in_a_split_that_holds_no_others(case: str, tmp_path: Path) -> None:
    train, test = ["a,y\n" + "".join(f"{cell},0\n" for cell in cells) for cells in SPELLED[case]]
    of_train, of_test = both(tmp_path, train, test)
    np.testing.assert_array_equal(of_test, of_train[[SPELLED[case][0].index(cell) for cell in SPELLED[case][1]]])


def test_dates_of_json_are_texts_where_train_has_texts(tmp_path: Path) -> None:
    rows = ['{"a": {"b": "2020-01-01"}, "y": 0}', '{"a": {"b": "never"}, "y": 1}']
    train, test = both(tmp_path, "\n".join(rows), rows[0], "jsonl")
    np.testing.assert_array_equal(test, train[:1])


def test_labels_that_are_texts_in_train_are_texts_in_each_split(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,y\n1,01\n2,02\n3,x\n4,x\n")
    (tmp_path / "test.csv").write_text("a,y\n5,02\n6,01\n")
    found = loaded(tmp_path / "train.csv", test=str(tmp_path / "test.csv"))
    assert found.label_names == ("01", "02", "x") and found.test.y.tolist() == [1, 0]


OTHER_TYPES = {
    "numbers for texts": ('{"a": "x", "y": 0}', '{"a": 7.5, "y": 0}', "double, such as 7.5; expected texts"),
    "texts for numbers": ('{"a": 1, "y": 0}', '{"a": "2"}\n{"a": "few"}', "string, such as 'few'; expected numbers"),
}


@pytest.mark.parametrize("case", OTHER_TYPES)
def test_columns_that_cannot_be_read_as_in_train_are_refused(case: str, tmp_path: Path) -> None:
    train, test, message = OTHER_TYPES[case]
    (tmp_path / "train.jsonl").write_text(train)
    (tmp_path / "more.jsonl").write_text(test)
    uris = {"train": str(tmp_path / "train.jsonl"), "unlabeled": str(tmp_path / "more.jsonl")}
    with pytest.raises(RequestError, match="more.jsonl': column 'a' is " + message):
        encoded_tables.read(uris, tables.Roles("y"), [])


def test_nested_fields_of_json(tmp_path: Path) -> None:
    table = table_files.parsed("a.jsonl", b'{"user": {"age": 3, "at": {"zip": "x"}}, "y": 1}\n')
    assert table.column_names == ["user.age", "user.at.zip", "y"]


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", b'{"a": 1, "y": 0}\n'), ("a.csv", b"a,y\n1,0\n")])
def test_a_mark_of_the_byte_order_is_no_part_of_a_table(name: str, content: bytes) -> None:
    assert table_files.parsed(name, codecs.BOM_UTF8 + content).to_pylist() == [{"a": 1, "y": 0}]


def test_lists_are_numbers_side_by_side(tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": [[1.0, 2.0]] * 4, "k": [1, 2, 3, 4], "y": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(loaded(tmp_path / "a.parquet").test.x[0:1], [[1, 2, 1]])


def test_labels_are_ids_or_names() -> None:
    ids = ids_or_names({"train": ["0", "2", "1", None], "test": ["2"]})
    assert [y.tolist() for y in ids.values() if isinstance(y, np.ndarray)] == [[0, 2, 1, -1], [2]]
    named = ids_or_names({"train": ["10", "2", None], "test": ["2"]})
    assert all(isinstance(y, NamedLabels) and y.names == ("2", "10") for y in named.values())
    assert [y.ids.tolist() for y in named.values()] == [[1, 0, -1], [0]]


NO_LABEL: dict[str, tuple[list[str | None], tuple[str, ...], list[int]]] = {
    "from one": (["1", "3", "2", "-1", None], ("1", "2", "3"), [0, 2, 1, -1, -1]),
    "a gap": (["7", "0", "-1"], ("0", "7"), [1, 0, -1]),
    "two numbers": (["1", "-1", None], ("-1", "1"), [1, 0, -1]),
    "below zero": (["-2", "-1", "1"], ("-2", "-1", "1"), [0, 1, 2]),
    "words": (["u", "-1", "v"], ("-1", "u", "v"), [1, 0, 2]),
}
"""The labels of train, the names of its classes, and the place of each label in these."""


@pytest.mark.parametrize("case", NO_LABEL)
def test_minus_one_is_no_label_beside_whole_numbers(case: str) -> None:
    given, names, ids = NO_LABEL[case]
    found = ids_or_names({"train": given, "test": ["-1"]})
    assert isinstance(found["train"], NamedLabels) and isinstance(found["test"], NamedLabels)
    assert found["train"].names == names and found["train"].ids.tolist() == ids
    assert found["test"].ids.tolist() == [names.index("-1") if "-1" in names else -1]


@pytest.mark.parametrize("kind", ["table", "npz", "text"])
def test_the_label_is_no_input(kind: str, tmp_path: Path) -> None:
    key, names = ("text_column", "y") if kind == "text" else ("feature_columns", ["y"])
    with pytest.raises(RequestError, match=f"data.{key}: 'y' is the label column"):
        loaded(tmp_path / "a.csv", kind=kind, label_column="y", **{key: names})


FRACTIONS = {  # the content of a CSV, and the features of its last row
    "a column of points and commas": ("a;b;y\n3,4;0.5;0\n2.1;0.7;1\n", [1, 0, 0.7]),
    "a column of points and one of commas": ("a;b;y\n3,4;0.5;0\n2,1;0.7;1\n", [1, 0, 0.7]),
    "the first comma after many lines": ("a;y\n" + "7;0\n" * 100 + "1,5;1\n", [1.5]),
    "thousandths below one": ("a\ty\n0,125\t0\n0,250\t1\n", [0.25]),
    "three digits beside other commas": ("a;b;y\n1,125;0,5;0\n2,250;1,5;1\n", [2.25, 1.5]),
    "words": ("a;y\n1,5;0\nx;1\n", [0, 1]),
}


@pytest.mark.parametrize("case", FRACTIONS)
def test_a_decimal_comma_follows_from_all_cells(case: str, tmp_path: Path) -> None:
    content, expected = FRACTIONS[case]
    for found in both(tmp_path, content, content):
        np.testing.assert_allclose(found[-1], expected)


def test_commas_that_may_be_of_thousands_are_those_of_train(tmp_path: Path) -> None:
    unclear = "a;y\n1,125;0\n"
    np.testing.assert_allclose(both(tmp_path, "a;y\n1,5;0\n2,5;1\n", unclear)[1], [[1.125]])
    with pytest.raises(RequestError, match=r"test\.csv': column 'a' is string, such as '1,125'; expected numbers"):
        both(tmp_path, "a;y\n1.5;0\n2.5;1\n", unclear)
    with pytest.raises(RequestError, match=r"train\.csv': .*column 'a' has 1,125, whose comma may be decimal or of th"):
        both(tmp_path, unclear, unclear)


def test_commas_of_columns_that_are_not_used_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("a;price;y;user\n1;1,125;0;7\n2;1,375;1;8\n")
    for train in ("1;1,125", "1;1,5"):  # unclear, or decimal: the test file is read for its groups alone, too
        (tmp_path / "train.csv").write_text(f"a;price;y\n{train};0\n2;2,250;1\n3;1,000;0\n4;2,000;1\n")
        spec = DataSpec(
            kind="table",
            train=str(tmp_path / "train.csv"),
            test=str(tmp_path / "test.csv"),
            validation=str(tmp_path / "test.csv"),
            label_column="y",
            feature_columns=("a",),
            group_column="user",
            allow_overlap=True,
        )
        found = loading.load(spec, 0)
        assert found.train.x[:].ravel().tolist() == [1, 2, 3, 4]


def test_names_that_look_alike_are_noted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,y\n" + "1,spam\n2,Ham\n3,ham\n4,ham\n5,spam \n6,eggs\n" * 4)
    found = loaded(tmp_path / "a.csv")
    (note,) = [each for each in found.notes if "are classes of their own" in each]
    assert "'Ham' (4) and 'ham' (8); 'spam' (4) and 'spam ' (4)." in note and "eggs" not in note


def test_a_number_that_is_spelled_in_two_ways_is_noted(tmp_path: Path) -> None:
    labels = ["0", "1", "01", "1"] * 10
    pq.write_table(pa.table({"a": [*range(40)], "y": labels}), tmp_path / "a.parquet")
    found = loaded(tmp_path / "a.parquet")
    assert found.label_names == ("0", "01", "1")
    assert "are classes of their own: '01' (10) and '1' (20)." in " ".join(found.notes)
    (tmp_path / "b.csv").write_text("text,y\n" + "".join(f"text {k},{y}\n" for k, y in enumerate(labels)))
    assert loaded(tmp_path / "b.csv", kind="text", label_column="y").label_names == ("0", "01", "1")


def test_texts_of_every_type_of_arrow(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array(["u", "v", None, "u"], pa.string_view()), "y": [0, 1, 0, 1]})
    views = table.set_column(1, "y", pa.array(["n", "m", "n", "m"], pa.string_view()))
    pq.write_table(views, tmp_path / "a.parquet")
    found = loaded(tmp_path / "a.parquet")
    np.testing.assert_array_equal(found.test.x[:], [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert found.label_names == ("m", "n") and found.test.y.tolist() == [1, 0, 1, 0]


UNREADABLE = {  # cells of train and of more, and what is told of the second
    "whole numbers beyond 2^53": ([1, 2], [1, 2**53 + 1], "is int64, and its values cannot be read (Integer value 900"),
    "numbers for lists": ([[1, 2], [3, 4]], [5, 6], "is int64; expected lists of 2 numbers, as in train"),
    "lists for numbers with empty cells": ([1, None], [[1], [2]], "is list<element: int64>, such as [1]; expected num"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_values_that_cannot_be_numbers_are_refused_with_file_and_column(case: str, tmp_path: Path) -> None:
    train, more, message = UNREADABLE[case]
    uris = {"train": str(tmp_path / "train.parquet"), "unlabeled": str(tmp_path / "more.parquet")}
    for uri, cells in zip(uris.values(), (train, more), strict=True):
        pq.write_table(pa.table({"a": cells, "y": [0, 1]}), uri)
    with pytest.raises(RequestError) as raised:
        encoded_tables.read(uris, tables.Roles("y"), [])
    assert f"more.parquet': column 'a' {message}" in str(raised.value)


WRONG = {
    "regression": ("a,y\n1,0.5\n2,1.5\n", "classification"),
    "infinite label": ("a,y\n1,inf\n2,1\n", "the label 'y' has numbers with a fraction, or infinite ones, such as inf"),
    "large whole numbers": ("a,y\n9007199254740993,0\n1,1\n", "column 'a' is int64, and its values cannot be read"),
    "infinity": (
        "a,b,y\n1,2,0\n3,-inf,1\n",
        "column 'b' has 1 values that are NaN or infinite as float32, the first in row 1",
    ),
    "infinity as float32": (
        "a,y\n1,0\n2,1\n1e300,1\n",
        "column 'a' has 1 values that are NaN or infinite as float32, the",
    ),
    "not utf-8": ("a,y\nKöln,b\n".encode("latin-1"), "not UTF-8 (byte 0xf6)"),
    "zeros": (b"\0" * 100, "zero bytes"),
    "twice": ("a,a,y\n1,2,0\n", "several columns are called 'a'"),
    "no label": ("a,b\n1,2\n", "no column 'y'"),
    "dates": ("a,y\n2024-01-01,0\n2024-01-02,1\n", "column 'a' is date32"),
    "ragged": ("a,y\n1,0,3\n", "cannot be read as a table"),
    "many texts": ("a,y\n" + "".join(f"t{k},{k % 2}\n" for k in range(200)), "200 different texts"),
    "numbers and marks": (
        "a,y\n-,0\n" + "".join(f"{k},{k % 2}\n" for k in range(200)),
        "column 'a' is text, since 1 of 201 cells are no plain numbers, such as '-' (write numbers as 12.5",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_table_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    content, message = WRONG[case]
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError) as raised:
        loaded(tmp_path / "a.csv")
    assert message in str(raised.value)


def test_a_blank_among_numbers_of_a_csv_is_an_empty_cell(tmp_path: Path) -> None:
    rows = [f"{k}.5,{'a' if k % 2 else ' '},{'yes' if k % 2 else 'no'}" for k in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["total,word,label", *rows, " ,b,yes", ""]))
    total, word = loaded(tmp_path / "a.csv", label_column="label").encodings
    assert total.fill is not None and word.categories == (" ", "a", "b")
