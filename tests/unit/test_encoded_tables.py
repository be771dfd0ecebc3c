"""Tables with categories, empty cells, other separators and labels of any kind, as numbers and class ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from workers.data import dataset, table_files
from workers.data.label_names import NamedLabels, ids_or_names
from workers.errors import RequestError
from workers.specs import DataSpec

PEOPLE = """age;city;weight;bought
20;Rome;70,5;yes
;Bern;80,5;no
40;Rome;60,0;yes
30;Bern;75,0;no
"""


def loaded(path: Path, **keys: object) -> dataset.Dataset:
    """The data set of a file as both train and test."""
    values = {"kind": "table", "train": str(path), "test": str(path), "allow_overlap": True, "validation_share": 0.5}
    return dataset.load(DataSpec.model_validate(values | keys), 0)


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


def test_other_splits_are_encoded_as_train(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a,b,y\n1,u,0\n3,v,1\n5,u,1\n7,v,0\n")
    (tmp_path / "test.jsonl").write_text('{"b": "w", "a": null, "y": 1}\n{"b": "v", "a": 9.5, "y": 0}\n')
    found = loaded(tmp_path / "train.csv", test=str(tmp_path / "test.jsonl"))
    np.testing.assert_array_equal(found.test.x[:], [[4, 0, 0], [9.5, 0, 1]])  # the mean of train, an unknown text


def test_nested_fields_of_json(tmp_path: Path) -> None:
    table = table_files.parsed("a.jsonl", b'{"user": {"age": 3, "at": {"zip": "x"}}, "y": 1}\n')
    assert table.column_names == ["user.age", "user.at.zip", "y"]


def test_lists_are_numbers_side_by_side(tmp_path: Path) -> None:
    pq.write_table(pa.table({"v": [[1.0, 2.0]] * 4, "k": [1, 2, 3, 4], "y": [0, 1, 0, 1]}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(loaded(tmp_path / "a.parquet").test.x[0:1], [[1, 2, 1]])


def test_labels_are_ids_or_names() -> None:
    ids = ids_or_names({"train": ["0", "2", "1", None], "test": ["2"]})
    assert [y.tolist() for y in ids.values() if isinstance(y, np.ndarray)] == [[0, 2, 1, -1], [2]]
    named = ids_or_names({"train": ["10", "2", None], "test": ["2"]})
    assert all(isinstance(y, NamedLabels) and y.names == ("2", "10") for y in named.values())
    assert [y.ids.tolist() for y in named.values()] == [[1, 0, -1], [0]]


WRONG = {
    "regression": ("a,y\n1,0.5\n2,1.5\n", "classification"),
    "not utf-8": ("a,y\nKöln,b\n".encode("latin-1"), "not UTF-8 (byte 0xf6)"),
    "zeros": (b"\0" * 100, "zero bytes"),
    "twice": ("a,a,y\n1,2,0\n", "several columns are called 'a'"),
    "no label": ("a,b\n1,2\n", "no column 'y'"),
    "dates": ("a,y\n2024-01-01,0\n2024-01-02,1\n", "column 'a' is date32"),
    "ragged": ("a,y\n1,0,3\n", "cannot be read as a table"),
    "many texts": ("a,y\n" + "".join(f"t{k},{k % 2}\n" for k in range(200)), "200 different texts"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    content, message = WRONG[case]
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError) as raised:
        loaded(tmp_path / "a.csv")
    assert message in str(raised.value)
