"""Splits of several files: they are those of one file, and files that do not go together are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.makers import blobs
from workers.data import dataset, loading, memory, readers, shards, table_files
from workers.errors import RequestError
from workers.specs.data import DataSpec

KINDS = pytest.mark.parametrize("kind", ["parquet", "table"])
SPLITS = ("train", "validation", "test")


def frame(seed: int) -> pd.DataFrame:
    x, y = blobs(60, seed)
    return pd.DataFrame(x, columns=list("abcdefgh")).assign(y=y)


def written(folder: Path) -> None:
    """Each split as a file, and as a folder of three, with what Spark writes beside them."""
    for seed, split in enumerate(SPLITS):
        whole = frame(seed)
        whole.to_parquet(folder / f"{split}.parquet", index=False)
        (folder / split).mkdir()
        for k in range(3):
            whole[20 * k : 20 * (k + 1)].to_parquet(folder / split / f"part-{k}.parquet", index=False)
        (folder / split / "_SUCCESS").touch()
        (folder / split / ".part-0.parquet.crc").write_bytes(b"crc")


def loaded(folder: Path, kind: str, ending: str) -> dataset.Dataset:
    """The data set of all splits. ending: what follows the name of a split."""
    uris = {split: f"{split}{ending}" for split in SPLITS}
    return loading.load(DataSpec.model_validate({"kind": kind, "root": str(folder), **uris}), 0)


@KINDS
@pytest.mark.parametrize("ending", ["", "/part-*.parquet"])
def test_several_files_are_one_split(tmp_path: Path, kind: str, ending: str) -> None:
    written(tmp_path)
    assert loaded(tmp_path, kind, ending).digests == loaded(tmp_path, kind, ".parquet").digests
    assert readers.GROUPS[kind](f"{tmp_path}/train{ending}", "y") == frame(0).y.tolist()


@KINDS
def test_numbers_of_several_widths_go_together(tmp_path: Path, kind: str) -> None:
    written(tmp_path)
    frame(0)[20:40].astype({"c": "int16"}).to_parquet(tmp_path / "train" / "part-1.parquet", index=False)
    assert loaded(tmp_path, kind, "").train.x.shape == (60, 8)


OTHERS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "one more": (lambda rows: rows.assign(later=1.0), r"' and .*part-0\.parquet' .*'later' is a column of one of them"),
    "one less": (lambda rows: rows.drop(columns="c"), r"' and .*part-0\.parquet' .*'c' is a column of one of them"),
    "texts": (lambda rows: rows.assign(c="red"), r"': a column is of another type .*part-0\.parquet' .*Field c "),
}


@KINDS
@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_other_columns_is_named(tmp_path: Path, kind: str, case: str) -> None:
    change, message = OTHERS[case]
    written(tmp_path)
    change(frame(0)[20:40]).to_parquet(tmp_path / "train" / "part-1.parquet", index=False)
    with pytest.raises(RequestError, match=rf"part-1\.parquet{message}"):
        loaded(tmp_path, kind, "")


@KINDS
def test_files_are_compared_with_memory_together(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    largest = max(path.stat().st_size for path in (tmp_path / "train").glob("part-*"))
    monkeypatch.setattr(memory, "limit", lambda: 2 * largest)
    with pytest.raises(RequestError, match=r"part-0\.parquet' and the 2 other files of its split would take"):
        loaded(tmp_path, kind, "")


@KINDS
def test_folders_within_need_a_pattern(tmp_path: Path, kind: str) -> None:
    for split in SPLITS:
        (tmp_path / split / "day=1").mkdir(parents=True)
        frame(SPLITS.index(split)).to_parquet(tmp_path / split / "day=1" / "part-0.parquet")
    with pytest.raises(RequestError, match=r"train': no file of data\. Expected .*A pattern such as '.*/train/\*/\*'"):
        loaded(tmp_path, kind, "")
    with pytest.raises(RequestError, match=r"/\*\.gone': no file of data\. Expected [^A]*\.$"):
        loaded(tmp_path, kind, "/*/*.gone")
    assert len(loaded(tmp_path, kind, "/*/*").train) == 60


def of_csv(folder: Path, *contents: str) -> list[str]:
    paths = [folder / f"part-{k}.csv" for k in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return [str(path) for path in paths]


@pytest.mark.parametrize("turn", [1, -1])
def test_csv_files_in_any_order_are_read_as_one_would_be(tmp_path: Path, turn: int) -> None:
    uris = of_csv(tmp_path, "a,b,c\n1,A12,\n", "a,b,c\n1.5,007,x\n")[::turn]
    expected = {"a": [1.0, 1.5], "b": ["A12", "007"], "c": ["", "x"]}
    assert shards.table(uris).to_pydict() == {name: cells[::turn] for name, cells in expected.items()}
    uris = of_csv(tmp_path, "a;b\n1,250;u\n", "a;b\n0,5;v\n", "a;b\n3;w\n")[::turn]  # of thousands, by itself
    found = shards.table(uris)
    assert found.column("a").to_pylist() == [1.25, 0.5, 3.0][::turn]
    (tmp_path / "test.csv").write_text("a;b\n2,125;u\n")
    assert shards.table([str(tmp_path / "test.csv")], found.schema).column("a").to_pylist() == [2.125]


def test_commas_that_are_unclear_in_all_files_stay_so(tmp_path: Path) -> None:
    found = shards.table(of_csv(tmp_path, "a;b\n1,250;u\n", "a;b\n2,500;v\n"))
    with pytest.raises(RequestError, match="whose comma may be decimal or of thousands"):
        table_files.check_commas("a.csv", found, ["a"])
    found = shards.table(of_csv(tmp_path, "a;b\n1,250;u\n", "a;b\nred;v\n"))
    table_files.check_commas("a.csv", found, ["a"])
    assert found.column("a").to_pylist() == ["1,250", "red"]
    for contents in (("a;c\n1,250;2,250\n", "a;c\nred;\n"), ("a;c\n1,250;\n", "a;c\n;2,250\n")):
        with pytest.raises(RequestError, match="'c' has 2,250, whose comma"):
            table_files.check_commas("a.csv", shards.table(of_csv(tmp_path, *contents)), ["c"])


def test_a_folder_has_files_of_one_kind(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "train" / "part.schema.json").write_text("{}")
    message = (
        r"'part-0\.parquet' and 'part\.schema\.json' are files of several kinds\. .* such as '.*/train/\*\.parquet'"
    )
    with pytest.raises(RequestError, match=message):
        loaded(tmp_path, "table", "")
    assert len(loaded(tmp_path, "table", "/*.parquet").train) == 60


def test_the_suggested_pattern_names_the_kind_of_most_files(tmp_path: Path) -> None:
    for name in ("about.json", "b.CSV.gz", "c.CSV.gz"):
        (tmp_path / name).touch()
    with pytest.raises(RequestError, match=r"'b\.CSV\.gz' and 'about\.json' .* such as '.*/\*\.CSV\.gz'\.$"):
        shards.files(str(tmp_path), table_files.READERS)
