"""Groups of test examples, from every kind of data that has columns, and the refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.makers import blobs
from workers.data import groups, loading, text_files
from workers.errors import MissingColumn, RequestError
from workers.specs.data import DataSpec

X, Y = blobs(60, 0)
USERS = np.array([f"user {k % 12}" for k in range(60)])
FACTORY = """
import numpy as np

def splits(groups=True):
    x, y = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32), np.arange(90) % 3
    test = (x[60:], y[60:], [None] + list("abc") * 10) if groups == "wrong" else (x[60:], y[60:], list("abc") * 10)
    return {"train": (x[:60], y[:60]), "test": test}
"""


def npz(folder: Path, users: Any = USERS) -> dict[str, Any]:
    other = blobs(60, 5)
    np.savez(folder / "train.npz", x=other[0], y=other[1])
    np.savez(folder / "test.npz", x=X, y=Y, user=users)
    return {"kind": "npz", "train": "train.npz", "test": "test.npz"}


def parquet(folder: Path, users: Any = USERS) -> dict[str, Any]:
    for name, (x, y) in {"train": blobs(60, 5), "test": (X, Y)}.items():
        pd.DataFrame({"user": users, **{f"c{k}": x[:, k] for k in range(8)}, "y": y}).to_parquet(
            folder / f"{name}.parquet"
        )
    return {"kind": "parquet", "train": "train.parquet", "test": "test.parquet"}


def text(folder: Path, users: Any = USERS) -> dict[str, Any]:
    for name in ("train", "test"):
        rows = [{"text": f"{name} {k}", "label": "ab"[k % 2], "user": user} for k, user in enumerate(users)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "text", "train": "train.jsonl", "test": "test.jsonl"}


@pytest.mark.parametrize("kind", [npz, parquet, text])
def test_groups_are_numbered_by_their_values(kind: Any, tmp_path: Path) -> None:
    spec = DataSpec(**kind(tmp_path), root=str(tmp_path), group_column="user")
    found = loading.load(spec, seed=0)
    np.testing.assert_array_equal(found.groups["test"], np.arange(60) % 12)
    assert not [note for note in found.notes if "intervals" in note]
    if kind is parquet:
        assert found.train.x.shape == (55, 8)  # without the users' names, and without one user, whom validation has


@pytest.mark.parametrize("kind", [npz, parquet, text])
def test_a_column_that_is_missing_is_named(kind: Any, tmp_path: Path) -> None:
    spec = DataSpec(**kind(tmp_path), root=str(tmp_path), group_column="speaker")
    with pytest.raises(RequestError, match=r"speaker"):
        loading.load(spec, seed=0)


def test_a_factory_returns_groups(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    spec = DataSpec(kind="python", factory="mine:splits", folder=str(tmp_path))
    found = loading.load(spec, seed=0)
    assert found.groups["test"].tolist() == [0, 1, 2] * 10
    assert any("3 groups; intervals from fewer than 10" in note for note in found.notes)
    with pytest.raises(RequestError, match="31 groups for 30 examples"):
        loading.load(spec.model_copy(update={"kwargs": {"groups": "wrong"}}), seed=0)


@pytest.mark.parametrize(
    ("users", "words"),
    [
        (np.where(np.arange(60) == 7, np.nan, 1.0), "example 7 has no group, and 1 in all"),
        (USERS[:9], "9 groups for 60"),
        (np.zeros((60, 2)), r"groups of shape \[60, 2\]; expected one value for each example"),
    ],
)
def test_groups_that_do_not_fit_are_refused(users: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=words):
        loading.load(DataSpec(**npz(tmp_path, users), root=str(tmp_path), group_column="user"), seed=0)


def test_an_example_of_train_without_a_group_is_one_of_its_own() -> None:
    given = ["a", None, "b", "a", float("nan"), None, "", "", " "]  # cells of a CSV are texts
    found = groups.numbered("train", given, 9).tolist()
    assert found[0] == found[3] and len(set(found)) == 8
    with pytest.raises(RequestError, match=r"data\.validation: example 1 has no group, and 6 in all"):
        groups.numbered("validation", given, 9)
    with pytest.raises(RequestError, match=r"data\.test: the groups are int; expected one value for each example"):
        groups.numbered("test", 10, 9)


@pytest.mark.parametrize("rows", [1, 2, 9])
def test_a_row_of_json_without_the_key_has_no_group(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "ROWS", rows)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b", "user": 7}\n{"text": "c"}\n')
    assert text_files.read_groups(str(path), "user") == [None, 7, None]
    with pytest.raises(MissingColumn, match=r"no column 'speaker'; found 'text', 'user'\. Set `data\.group_column`"):
        text_files.read_groups(str(path), "speaker")


def test_a_group_is_one_value(tmp_path: Path) -> None:
    given = parquet(tmp_path, [[k, k] for k in range(60)])
    with pytest.raises(RequestError, match=r"the group of example 0 is .*; expected one value"):
        loading.load(DataSpec(**given, root=str(tmp_path), group_column="user"), seed=0)


KINDS_WITHOUT_COLUMNS: list[dict[str, Any]] = [
    {"kind": "idx", "train": "a", "test": "b"},
    {"kind": "mine:Reader", "train": "a", "test": "b"},
    {"kind": "python", "factory": "mine:splits"},
]


@pytest.mark.parametrize("given", KINDS_WITHOUT_COLUMNS)
def test_data_without_columns_have_none_of_groups(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`group_column` belongs to kind .*a data factory returns `\(x, y, groups\)`"):
        DataSpec(**given, group_column="user")


DRAWN = {
    "validation": {"validation_share": 0.25},
    "validation by default": {},
    "test and validation": {"test": None, "test_share": 0.25, "validation_share": 0.25},
}


def ids_of(x: np.ndarray) -> list[int]:
    """The rows of train, which are numbered in their first feature."""
    return [round(float(value)) for value in x[:, 0]]


@pytest.mark.parametrize("asked", DRAWN)
@pytest.mark.parametrize("kind", ["parquet", "factory"])
def test_a_split_that_is_drawn_divides_no_group(kind: str, asked: str, tmp_path: Path) -> None:
    given: dict[str, Any]
    x = np.column_stack([np.arange(60), blobs(60, 5)[0]]).astype(np.float32)
    if kind == "parquet":
        given = parquet(tmp_path)
        frame = pd.DataFrame({"user": USERS, **{f"c{k}": x[:, k] for k in range(8)}, "y": Y})
        frame.to_parquet(tmp_path / "train.parquet")
        given["group_column"] = "user"
    else:
        tested = "test_share" in DRAWN[asked]
        np.savez(tmp_path / "all.npz", x=x, y=Y, user=USERS)
        (tmp_path / "mine.py").write_text(
            "import pathlib\nimport numpy as np\n\ndef splits():\n"
            "    held = np.load(pathlib.Path(__file__).with_name('all.npz'))\n"
            "    every = held['x'], held['y'], held['user']\n"
            "    splits = {'train': every, 'test': (1000 + every[0], *every[1:])}\n"
            f"    return {{name: splits[name] for name in {['train'] if tested else ['train', 'test']}}}\n"
        )
        given = {"kind": "python", "factory": "mine:splits", "folder": str(tmp_path)}
    changes = DRAWN[asked] if kind == "parquet" else {k: v for k, v in DRAWN[asked].items() if v is not None}
    found = loading.load(DataSpec(**given | changes, root=str(tmp_path)), seed=0)
    assert not [note for note in found.notes if "group_column" in note]
    users = {"train": set(USERS[ids_of(found.train.x)]), "validation": set(USERS[ids_of(found.validation.x)])}
    if "test_share" in changes:
        users["test"] = set(USERS[ids_of(found.test.x)])
    assert sum(map(len, users.values())) == len(set(USERS)) and all(users.values())
    of_validation = USERS[ids_of(found.validation.x)]
    assert len(set(zip(of_validation, found.groups["validation"], strict=True))) == len(users["validation"])


def test_a_tenth_of_few_groups_is_one(tmp_path: Path) -> None:
    given = npz(tmp_path)
    np.savez(tmp_path / "train.npz", x=blobs(60, 5)[0], y=Y, user=np.arange(60) // 15)
    found = loading.load(DataSpec(**given, root=str(tmp_path), group_column="user"), seed=0)
    assert len(found.validation) == 15 and len(found.train) == 45
    with pytest.raises(RequestError, match=r"validation_share: 0\.1 of 4 groups of examples is 0"):
        loading.load(DataSpec(**given, root=str(tmp_path), group_column="user", validation_share=0.1), seed=0)


def test_train_without_the_column(tmp_path: Path) -> None:
    given = npz(tmp_path)
    found = loading.load(DataSpec(**given, root=str(tmp_path), group_column="user"), seed=0)
    (note,) = [note for note in found.notes if "group_column" in note]
    assert "train has no 'user'" in note and len(found.validation) == 6
    given["validation"] = "valid.npz"
    for named in ("user", "speaker"):
        np.savez(tmp_path / "valid.npz", x=X + 9, y=Y, **{named: USERS[::-1]})
        found = loading.load(DataSpec(**given, root=str(tmp_path), group_column="user"), seed=0)
        of_groups = [note for note in found.notes if "group_column" in note]
        assert [*found.groups] == (["test", "validation"] if named == "user" else ["test"])
        assert len(of_groups) == (named == "speaker") and all("validation has no 'user'" in note for note in of_groups)
