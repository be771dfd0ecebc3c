"""`stillhouse init`: what it guesses of data and checkpoints, what it refuses, and that what it writes can run."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import nn

from orchestrator import RunConfig
from orchestrator.cli.command import main
from orchestrator.cli.start import chains, checkpoints, columns, configuration, look, recipe, splits, start
from tests.makers import blobs
from workers import storage
from workers.data import loading, table_files
from workers.errors import RequestError
from workers.models.torch_module import build
from workers.specs.models import ModelSpec


def table(n: int = 300, seed: int = 1, **more: Any) -> pd.DataFrame:
    """Three classes by name in four columns of numbers, and further columns."""
    x, y = blobs(n, seed, inputs=4)
    return pd.DataFrame({**dict(zip("abcd", x.T, strict=True)), **more, "kind": np.array(["u", "v", "w"])[y]})


def written(folder: Path, *data: Path, label: str | None = None, given: tuple[Path, ...] = ()) -> start.Started:
    return start.start(str(folder), [str(each) for each in data], [str(each) for each in given], label)


def runs(folder: Path) -> RunConfig:
    """The written configuration, after its data are read and each network has answered for them."""
    config = RunConfig.load(str(folder / "config.yaml"))
    data = loading.load(config.data, 0)
    for model in config.models.values():
        x = torch.from_numpy(np.asarray(data.test.x[:3]))
        with torch.no_grad():
            assert build(model).eval()(x.float()).shape == (3, data.classes)
    return config


# Tables


def guessed(frame: pd.DataFrame, label: str | None = None, text: str | None = None) -> columns.GuessedRoles:
    return columns.guessed(pa.Table.from_pandas(frame, preserve_index=False), label, "a.csv", text=text)


def test_the_roles_of_columns() -> None:
    n = 300
    frame = table(
        n,
        customer_id=np.random.default_rng(0).permutation(n) + 10**6,
        country=["DE", "FR", "IT"] * (n // 3),
        constant=1,
        nothing=np.nan,
        seen=pd.Timestamp("2024-01-01"),
        uuid=[f"{k:x}-{k * 7919:x}" for k in range(n)],
    )
    frame.insert(0, "", range(n))
    found = guessed(frame)
    assert found.label == "kind" and found.features == ("a", "b", "c", "d", "country") and found.texts == ()
    told = "\n".join(found.reasons)
    assert "label: 'kind', since it has few different values" in told
    assert "'customer_id' has another whole number in each row" in told and "'constant' has the same value" in told
    assert "'nothing' is empty" in told and "'uuid' has 300 different texts" in told and "'seen' has the same" in told
    assert "'' is pandas' index" in told


def test_numbers_that_a_network_cannot_take_are_no_feature() -> None:
    frame = table(hash=2**60 + 7 * np.arange(300) % 11, rate=[1.5, np.inf, *[2.5] * 298], size=[1e300, *[2.5] * 299])
    found = guessed(frame)
    assert found.features == tuple("abcd")
    told = "\n".join(found.reasons)
    assert "'hash' is int64, and its values cannot be read (Integer value" in told
    assert "'rate' has 1 values that are NaN or infinite as float32, the first in row 1; expected finite" in told
    assert "'size' has 1 values that are NaN or infinite as float32, the first in row 0; expected finite" in told


NO_NUMBERS: dict[str, tuple[list[str], str]] = {
    "blanks": (
        [" "] * 11 + [f"{k}.5" for k in range(289)],
        "not used: 'x' is text, since 11 of 300 cells are no plain numbers, such as ' ' (",
    ),
    "few values": (
        ["?", "None"] * 5 + [str(k % 50) for k in range(290)],
        "categories: 'x' is text, since 10 of 300 cells are no plain numbers, such as '?', 'None' (",
    ),
    "thousands": (
        [f"{1 + k},234" for k in range(300)],
        "not used: 'x' is text, since 300 of 300 cells are no plain numbers, such as '1,234', '2,234', '3,234' (",
    ),
    "money": ([f"$3.{k:03}" for k in range(300)], "not used: 'x' is text, since 300 of 300 cells are no plain"),
    "texts": ([f"{k}" for k in range(300)], "not used: 'x' has numbers that are written as texts"),
    "ids": ([f"A{k}" for k in range(300)], "not used: 'x' has 300 different texts, as an id or a name has"),
}


@pytest.mark.parametrize("case", NO_NUMBERS)
def test_what_keeps_a_column_from_being_numbers(case: str) -> None:
    cells, told = NO_NUMBERS[case]
    found = guessed(table(x=cells))
    assert told in "\n".join(found.reasons) and ("x" in found.features) == told.startswith("categories")


LABELS: dict[str, tuple[dict[str, list[Any]], str]] = {
    "by name": ({"Target": [0, 1] * 20, "x": [0, 1] * 20}, "Target"),
    "in a name": ({"x": [0.5, 1.5] * 20, "is_class_b": [0, 1] * 20, "y2": [0, 1] * 20}, "is_class_b"),
    "nested": ({"x": [0.5, 1.5] * 20, "meta.label": ["a", "b"] * 20}, "meta.label"),
    "beside whole coordinates": ({"x": [1, 2] * 20, "y": [3, 4] * 20, "class": [0, 1] * 20}, "class"),
    "beside coordinates": (
        {"at.x": [0.5] * 40, "at.y": [k / 8 for k in range(40)], "sky_class": ["u", "v"] * 20},
        "sky_class",
    ),
    "y beside a class of another": ({"y": [0.0, 1.0] * 20, "x": [0.5] * 40, "class_of_travel": [1, 2] * 20}, "y"),
    "the last": ({"first": [0, 1] * 20, "x": [0.5, 1.5] * 20, "last": [0, 1] * 20}, "last"),
    "the first": ({"first": [0, 1] * 20, "x": [0.5, 1.5] * 20}, "first"),
}


@pytest.mark.parametrize("case", LABELS)
def test_the_column_of_labels_is_guessed(case: str) -> None:
    values, label = LABELS[case]
    assert guessed(pd.DataFrame(values)).label == label


def test_texts_are_distinguished_from_categories() -> None:
    n = 60
    english = [f"the soup number {k} was quite good" for k in range(n)]
    chinese = [f"这家酒店非常好服务热情{k}" for k in range(n)]
    cities = ["New York", "São Paulo", "Köln"] * (n // 3)
    for text in (english, chinese):
        frame = pd.DataFrame({"text": text, "city": cities, "stars": [1, 2] * (n // 2)})
        assert guessed(frame, "stars").texts == ("text",)
    assert guessed(pd.DataFrame({"city": cities, "stars": [1, 2] * (n // 2)}), "stars").features == ("city",)


def test_a_column_of_names_makes_no_text_of_a_table() -> None:
    frame = table(name=[f"Braund{k}, Mr. Owen Harris" for k in range(300)])
    found = guessed(frame)
    assert found.texts == () and found.features == tuple("abcd")
    assert "not used: 'name' is free text (--text learns from such a column" in "\n".join(found.reasons)
    assert guessed(frame[["a", "name", "kind"]]).texts == ("name",)
    assert guessed(frame.assign(name=frame.name + " travelled with his wife from Southampton to New York")).texts
    asked = guessed(frame, text="name")
    assert asked.texts == ("name",) and "text: 'name', as you say" in asked.reasons


def test_unused_texts_and_other_labels_are_named_with_their_keys() -> None:
    rows = {
        f"sentence{k}": [f"the soup number {n} was {how} good" for n in range(60)]
        for k, how in ((1, "quite"), (2, "so"))
    }
    found = guessed(pd.DataFrame({"id": range(60), **rows, "label": [0, 1] * 30}))
    told = """not used: 'sentence2'; for pairs of texts, set `text_column: ["sentence1", "sentence2"]`"""
    assert told in found.reasons
    assert "not used: 'id', since a model of texts takes texts alone" in found.reasons
    frame = table(survived=[0, 1] * 150, port=["S", "C", "Q"] * 100).drop(columns="kind")
    assert guessed(frame).reasons[0].endswith("few different values (--label names another, such as 'survived')")
    assert guessed(table()).reasons[0].endswith("(--label names another)")


def test_a_named_text_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = table(name=[f"Braund{k}, Mr. Owen Harris" for k in range(300)])
    for text in ("gone", "a", "kind"):
        with pytest.raises(RequestError, match=f"no column '{text}' of texts beside the label 'kind'; found 'name'"):
            guessed(frame, text=text)
    np.savez(tmp_path / "a.npz", x=np.zeros((50, 3), np.float32), y=np.arange(50) % 2)
    assert main(["init", str(tmp_path / "new"), "--data", str(tmp_path / "a.npz"), "--text", "x"]) == 2
    assert "--text 'x': the data are npz, which have no columns of texts" in capsys.readouterr().err


WRONG_TABLES: dict[str, tuple[dict[str, list[Any]], str]] = {
    "one class": ({"x": [1.5, 2.5, 3.5], "label": ["u"] * 3}, "has 1 different value; expected at least two classes"),
    "a quantity": ({"x": [1.5] * 50, "price": [0.5 + k for k in range(50)]}, "which column is the label?"),
    "its fraction": (
        {"x": [1.5] * 50, "y": [0.5 + k for k in range(50)]},
        "is for classification.* --label names another column",
    ),
    "whole quantities": ({"x": [1.5, 2.5] * 25, "y": [*range(50)]}, "50 different values in 50 rows, as a quantity"),
    "ids as labels": ({"x": [1.5, 2.5] * 25, "y": [f"u{k}" for k in range(50)]}, "as free text or an id has"),
    "no feature": (
        {"x": [1.0, 1.0] * 25, "y": [0, 1] * 25},
        "no column can be a feature beside the label 'y'.* by --text",
    ),
    "no rows": ({"x": [], "y": []}, "no rows"),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_table_that_is_not_for_classification(case: str) -> None:
    values, message = WRONG_TABLES[case]
    with pytest.raises(RequestError, match=message.replace("?", r"\?")):
        guessed(pd.DataFrame(values))


def test_a_named_label_must_be_there() -> None:
    with pytest.raises(
        RequestError, match=r"--label: 'a\.csv' has no column 'gone'; found 'a', 'b'.*Name one of these"
    ):
        guessed(table(), "gone")


FLOWERS = [f"{k % 7 - 3.5:.2f},{k % 11:.2f},0.5{k % 3},{('virginica', 'setosa')[k % 2]}" for k in range(200)]
HEADLESS: dict[str, tuple[str, list[str], str]] = {
    "numbers": ("a.csv", FLOWERS, r"the first line looks like data and was read .* \('-3.50', '0.00', '0.50', "),
    "twice the same": ("a.csv", [f"0,0,{k % 3}" for k in range(60)], "several columns .* or add a header line"),
    "decimal commas": ("a.csv", [f"1,{k};{k};u{k % 2}" for k in range(60)], "looks like data"),
    "tabs": ("a.tsv", [line.replace(",", "\t") for line in FLOWERS], "looks like data"),
    "texts": ("a.csv", [f"a text of {k} words,u{k % 2}" for k in range(60)], "looks like data"),
}


@pytest.mark.parametrize("case", HEADLESS)
def test_a_table_without_a_header_is_refused(case: str, tmp_path: Path) -> None:
    name, lines, message = HEADLESS[case]
    (tmp_path / name).write_text("\n".join(lines))
    with pytest.raises(RequestError, match=message):
        written(tmp_path / "new", tmp_path / name)


def test_a_folder_without_header_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for k in range(2):
        (tmp_path / "train" / f"part-{k}.csv").write_text("\n".join(FLOWERS[k:]))
    with pytest.raises(RequestError, match="Expected the same columns in all files, and a header line in each"):
        written(tmp_path / "new", tmp_path / "train")
    (tmp_path / "train" / "part-1.csv").write_text("\n".join(FLOWERS))
    with pytest.raises(RequestError, match=r"part-0\.csv': the first line looks like data"):
        written(tmp_path / "new", tmp_path / "train")


@pytest.mark.parametrize("names", ["a b 2 1", "0 1 2 3", "400.5 402.5 404.5 406.5"])
def test_numbers_that_ascend_are_names(names: str, tmp_path: Path) -> None:
    table().rename(columns=dict(zip("abcd", names.split(), strict=True))).to_csv(tmp_path / "a.csv", index=False)
    assert len(written(tmp_path / "new", tmp_path / "a.csv").seen.shape) == 1


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_test_file_without_labels_can_be_unlabeled(ending: str, tmp_path: Path) -> None:
    uris = [str(tmp_path / f"{split}.{ending}") for split in ("train", "test")]
    if ending == "csv":
        table().to_csv(uris[0], index=False)
        table(seed=2).drop(columns="kind").to_csv(uris[1], index=False)
    else:
        rows = [{"text": f"the soup number {k} was good", "kind": "uv"[k % 2]} for k in range(60)]
        Path(uris[0]).write_text("\n".join(json.dumps(row) for row in rows))
        Path(uris[1]).write_text("\n".join(json.dumps({"text": f"the tea number {k}"}) for k in range(60)))
    message = r"test\.\w+': no column 'kind'; found .* can be `data\.unlabeled` alone\. .* as unlabeled\.csv"
    with pytest.raises(RequestError, match=message):
        look.look(splits.given(uris, ""), None)


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_nested_columns_beside_texts(ending: str, tmp_path: Path) -> None:
    rows = [{"text": f"the soup number {k} was good", "meta": {"label": k % 3 == 0}} for k in range(60)]
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    seen = look.look(splits.given([str(path)], ""), None)
    assert (seen.data["kind"], seen.data["label_column"]) == ("text", "meta.label")
    assert seen.label_names == ("False", "True")


def test_quotes_in_a_tsv_are_characters_of_texts_and_around_values_of_tables(tmp_path: Path) -> None:
    rows = [f"the soup number {k} was good\t{k % 2}" for k in range(60)]
    rows[3], rows[50] = f'"{rows[3]}', 'a 5" plate of soup was good\t0'
    (tmp_path / "texts.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    seen = look.look(splits.given([str(tmp_path / "texts.tsv")], ""), None)
    assert seen.data["kind"] == "text" and sum(seen.examples.values()) == 60
    assert look.texts_head(str(tmp_path / "texts.tsv")).column("text")[3].as_py() == '"the soup number 3 was good'
    for end in ("", "\n"):
        values = "".join(f'{k % 7}.5\t"x{end}"\t"{"uv"[k % 2]}"\n' for k in range(59))
        (tmp_path / "table.tsv").write_text(f'"a"\t"b"\t"kind"\n{values}1.5\t"y"\t"u"\n')
        seen = look.look(splits.given([str(tmp_path / "table.tsv")], ""), None)
        assert seen.data["kind"] == "table" and seen.data["label_column"] == "kind" and seen.shape == (3,)


def test_a_header_that_looks_like_data_is_accepted_with_a_label(tmp_path: Path) -> None:
    rows = [f"the message number {k} is {'spam' if k % 2 else 'good'},{'spam' if k % 2 else 'ham'}" for k in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(["message,spam", *rows]) + "\n")
    found = splits.given([str(tmp_path / "a.csv")], "")
    with pytest.raises(RequestError, match=r"looks like data .* which is the label by --label\."):
        look.look(found, None)
    seen = look.look(found, "spam")
    assert seen.data["kind"] == "text" and "the first line looks like data" in seen.warnings[0]
    table().rename(columns=dict(zip("abcd", "3102", strict=True))).to_csv(tmp_path / "b.csv", index=False)
    seen = look.look(splits.given([str(tmp_path / "b.csv")], ""), "kind")
    assert sum("the first line looks like data" in each for each in seen.warnings) == 1


def test_columns_that_are_numbered_as_texts_are_sorted(tmp_path: Path) -> None:
    x, y = blobs(300, 1, inputs=12)
    frame = pd.DataFrame({str(k): x[:, k] for k in range(12)}, columns=sorted(map(str, range(12))))
    frame.assign(kind=np.array(["u", "v", "w"])[y]).to_csv(tmp_path / "a.csv", index=False)
    seen = look.look(splits.given([str(tmp_path / "a.csv")], ""), None)
    assert seen.shape == (12,) and "header" not in " ".join(seen.warnings)


# Files


def test_splits_by_their_names(tmp_path: Path) -> None:
    names = ["iris-train.csv", "iris_TEST.csv", "dev.csv", "iris.unlabelled.csv"]
    for name in names:
        table().to_csv(tmp_path / name, index=False)
    uris = [str(tmp_path / name) for name in names]
    found = splits.given(uris, "")
    assert [*found.splits] == ["train", "test", "validation", "unlabeled"] and found.kind == "table"
    assert splits.given([], str(tmp_path)).splits == found.splits  # what is in the folder
    assert splits.split_of("latest.csv") is None and splits.split_of("retrain2.csv") is None
    with pytest.raises(RequestError, match=r"which split is .*other\.csv"):
        table().to_csv(tmp_path / "other.csv", index=False)
        splits.given([*uris[:1], str(tmp_path / "other.csv")], "")


@pytest.mark.parametrize("named", [True, False])
def test_folders_of_tables_are_splits_by_their_names(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, split in enumerate(("train", "train", "test", "test")):
        folder = tmp_path / "people" / split
        folder.mkdir(parents=True, exist_ok=True)
        table(60, seed).to_csv(folder / f"part-{seed}.csv", index=False)
        (folder / "_SUCCESS").touch()
    folders = [tmp_path / "people" / split for split in ("train", "test")]
    found = written(tmp_path / "new", *(folders if named else [tmp_path / "people"]), label="kind")
    assert runs(tmp_path / "new").data.train == "../people/train" and found.seen.examples["test"] == 120
    monkeypatch.setattr(look, "WHOLE_BYTES", 1)
    seen = look.look(splits.given([str(folders[0])], ""), "kind")
    assert seen.loaded is None and abs(seen.examples["train"] - 120) < 12


def test_a_folder_of_one_table_is_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    folder.mkdir()
    table().to_csv(folder / "customers.csv", index=False)
    written(folder, folder)
    assert runs(folder).data.train == "customers.csv"
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        table().to_csv(tmp_path / split / "part-0.csv", index=False)
    found = splits.given([str(tmp_path / split) for split in ("train", "test")], "")
    assert found.splits == {split: str(tmp_path / split / "part-0.csv") for split in ("train", "test")}


def test_files_that_a_number_counts_are_one_split(tmp_path: Path) -> None:
    names = ["train-00000-of-00002.csv", "train-00001-of-00002.csv", "test-00000-of-00001.csv"]
    for seed, name in enumerate(names):
        table(60, seed).to_csv(tmp_path / name, index=False)
    expected = {"train": f"{tmp_path}/train-*-of-*.csv", "test": str(tmp_path / names[2])}
    assert splits.given([str(tmp_path)], "").splits == expected == splits.given([], str(tmp_path)).splits
    found = splits.given([f"{tmp_path}/train-*.csv", f"{tmp_path}/test-*.csv"], "")
    assert found.splits == {split: f"{tmp_path}/{split}-*.csv" for split in ("train", "test")}
    assert look.look(found, "kind").examples["test"] == 60
    assert splits.given([str(tmp_path / name) for name in names[:2]], "").splits == {"train": expected["train"]}
    for name in ("train-00002-of-00002.csv", "tuned-config.yaml"):
        (tmp_path / name).touch()
    for asked, message in (
        (names[:2], "both named like `train`"),  # since the pattern has a file that is not named
        (["dev-*.csv"], "no file of data"),
        (["t*"], "are files of several kinds"),
        (["tuned*"], r"tuned-config\.yaml' is no table"),
    ):
        with pytest.raises(RequestError, match=message):
            splits.given([str(tmp_path / name) for name in asked], "")


@pytest.mark.parametrize(
    "names", ["train_v1 train_v2", "train-fold-1 train-fold-2", "train-2019 train-2020", "train-0 train-2"]
)
def test_files_that_no_number_counts_are_not_merged(names: str, tmp_path: Path) -> None:
    for seed, name in enumerate(names.split()):
        table(60, seed).to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(RequestError, match="both named like `train`"):
        splits.given([str(tmp_path)], "")
    seen = look.look(splits.given([f"{tmp_path}/train*.csv"], ""), "kind")
    assert "train: 2 files, `train*.csv`" in seen.reasons


def test_a_pattern_may_name_several_splits(tmp_path: Path) -> None:
    expected = {}
    for split in ("train", "test"):
        expected[split] = f"{tmp_path}/{split}.csv"
        (tmp_path / split).mkdir()
        for path in (f"{split}.csv", f"{split}/part-0.csv", f"{split}/part-1.csv"):
            (tmp_path / path).write_text("a,b\n1,2\n")
    assert splits.given([f"{tmp_path}/*.csv"], "").splits == expected
    of_folders = {split: f"{tmp_path}/{split}/part-*.csv" for split in expected}
    assert splits.given([f"{tmp_path}/*/part-*.csv"], "").splits == of_folders
    assert splits.given([f"{tmp_path}/train*.csv"], "").splits == {"train": f"{tmp_path}/train*.csv"}


def test_the_files_of_a_folder_may_have_its_split_in_their_names(tmp_path: Path) -> None:
    for folder in ("train", "dev"):
        (tmp_path / folder).mkdir()
        for k in range(2):
            table(60, k).to_csv(tmp_path / folder / f"train-{k}.csv", index=False)
    assert splits.given([str(tmp_path / "train")], "").splits == {"train": str(tmp_path / "train")}
    pattern = {"train": f"{tmp_path}/dev/train-*.csv"}
    assert splits.given([str(tmp_path / "dev")], "").splits == pattern  # files of another split than the folder's
    written(tmp_path / "train", tmp_path / "train")  # whose schema must not become a file of the split
    assert runs(tmp_path / "train").data.train == "train-*.csv"


def test_files_of_texts_may_have_different_columns(tmp_path: Path) -> None:
    for k, more in enumerate(({"note": "new"}, {})):
        rows = [{"text": f"the soup number {k}{n} was good", "kind": "uv"[n % 2], **more} for n in range(60)]
        (tmp_path / f"train-{k}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    seen = look.look(splits.given([f"{tmp_path}/train-*.jsonl"], ""), "kind", "text")
    assert seen.data["kind"] == "text" and seen.examples["train"] > 60


def test_a_folder_that_datasets_saved_is_refused(tmp_path: Path) -> None:
    (tmp_path / "news" / "train").mkdir(parents=True)
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / "news" / "train" / name).write_text("{}")
    for uri in (tmp_path / "news", tmp_path / "news" / "train"):
        with pytest.raises(RequestError, match=r"train': a folder that `datasets` saved, which `init` does not read"):
            splits.given([str(uri)], "")
    (tmp_path / "news" / "dataset_dict.json").write_text("{}")
    with pytest.raises(RequestError, match=r"news': a folder that `datasets` saved"):
        splits.given([str(tmp_path / "news")], "")


def test_what_lies_in_a_folder_of_a_program_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    for folder in ("test", "train"):
        assert not splits.has_data(str(tmp_path))
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "fixtures.json").write_text("{}")
        table().to_csv(tmp_path / folder / "rows.csv", index=False)
    assert splits.has_data(str(tmp_path))


def test_json_is_data_where_it_is_named_like_a_split(tmp_path: Path) -> None:
    for name in ("train.json", "test.json", "package.json"):
        (tmp_path / name).write_text("{}")
    assert splits.given([], str(tmp_path)).splits == {split: f"{tmp_path}/{split}.json" for split in ("train", "test")}


def test_a_file_beside_the_splits_hides_none_of_them(tmp_path: Path) -> None:
    for name in ("a/train/x.csv", "a/test/x.csv", "a/classes.csv", "b/train.csv", "b/test.csv", "b/README.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    for folder, name in (("a", "{}/x.csv"), ("b", "{}.csv")):
        expected = {split: str(tmp_path / folder / name.format(split)) for split in ("train", "test")}
        assert splits.given([str(tmp_path / folder)], "").splits == expected


def test_what_is_no_data(tmp_path: Path) -> None:
    for name, message in (("a.xlsx", "An Excel sheet"), ("a.pkl", "A pickle could run code"), ("a.bin", "no kind")):
        (tmp_path / name).write_bytes(b"\x80")
        with pytest.raises(RequestError, match=message):
            splits.given([str(tmp_path / name)], "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no data in it"):
        splits.given([str(tmp_path / "empty")], "")


def test_a_large_file_is_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "a.csv", "w") as file:
        table().to_csv(file, index=False)
        file.truncate(5 * 2**30)  # sparse
    found = splits.given([str(tmp_path / "a.csv")], "")
    with pytest.raises(RequestError, match="zero bytes"):
        look.look(found, None)
    table(2000).to_csv(tmp_path / "b.csv", index=False)
    monkeypatch.setattr(look, "WHOLE_BYTES", 2**10)
    monkeypatch.setattr(look, "HEAD_BYTES", 2**14)
    seen = look.look(splits.given([str(tmp_path / "b.csv")], ""), None)
    assert seen.loaded is None and abs(seen.examples["train"] - 2000) < 100 and seen.shape == (4,)
    assert "only its header and some of its rows were read" in seen.warnings[0]
    np.savez(tmp_path / "c.npz", x=np.zeros((500, 28, 28), np.uint8), y=np.arange(500) % 7)
    seen = look.look(splits.given([str(tmp_path / "c.npz")], ""), None)
    assert (seen.shape, seen.classes, seen.scale, seen.examples) == ((28, 28), 7, 255.0, {"train": 500})


def write_table(frame: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of its ending, Parquet in several row groups."""
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False, row_group_size=500)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_large_file_sorted_by_its_label(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = table(6000).sort_values("kind")
    path = tmp_path / f"a.{ending}"
    write_table(frame, path)
    monkeypatch.setattr(look, "WHOLE_BYTES", 2**10)
    monkeypatch.setattr(look, "HEAD_BYTES", 2**15)
    monkeypatch.setattr(look, "HEAD_ROWS", 1000)
    seen = look.look(splits.given([str(path)], ""), None)
    assert seen.data["label_column"] == "kind" and seen.label_names == ("u", "v", "w")
    assert seen.classes == 3 and abs(seen.examples["train"] - 6000) < 900


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_folder_of_large_files_is_read_in_part(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = table(6000).sort_values("kind")
    (tmp_path / "train").mkdir()
    for k in range(3):
        write_table(frame[2000 * k : 2000 * (k + 1)], tmp_path / "train" / f"part-{k}.{ending}")
    monkeypatch.setattr(look, "WHOLE_BYTES", 2**10)
    monkeypatch.setattr(look, "HEAD_BYTES", 2**16)
    monkeypatch.setattr(look, "HEAD_ROWS", 1500)
    assert look.texts_head(str(tmp_path / "train")).num_rows < 2400
    seen = look.look(splits.given([str(tmp_path / "train")], ""), None)
    assert seen.label_names == ("u", "v", "w") and abs(seen.examples["train"] - 6000) < 900


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl"])
def test_a_large_file_of_long_lines_is_read_in_part(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        table(50).to_json(path, orient="records", lines=True)
    else:
        table(50).to_csv(path, index=False)
    monkeypatch.setattr(look, "WHOLE_BYTES", 1)
    monkeypatch.setattr(look, "HEAD_BYTES", 8)  # less than a header or a row
    head = look.texts_head(str(path))
    assert head.column_names == ["a", "b", "c", "d", "kind"] and 0 < head.num_rows <= 50


def test_a_large_parquet_file_that_arrow_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(table: pa.Table) -> pa.Table:
        raise pa.ArrowNotImplementedError("no such conversion")

    table().to_parquet(tmp_path / "a.parquet", index=False)
    monkeypatch.setattr(look, "WHOLE_BYTES", 1)
    monkeypatch.setattr(look, "HEAD_BYTES", 1)
    monkeypatch.setattr(table_files, "flat", flat)
    with pytest.raises(RequestError, match=r"a\.parquet': cannot be read as a table \(no such conversion\)"):
        look.texts_head(str(tmp_path / "a.parquet"))


def test_a_large_file_of_one_class_in_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{k},"of two\nlines",{int(k >= 900)}' for k in range(1000)]  # pieces of it could begin within a value
    (tmp_path / "a.csv").write_text("\n".join(["x,z,label", *rows]) + "\n")
    monkeypatch.setattr(look, "WHOLE_BYTES", 2**10)
    monkeypatch.setattr(look, "HEAD_BYTES", 2**12)
    with pytest.raises(RequestError, match=r"1 different value in the rows that were read; .* sorted by it, shuffle"):
        look.look(splits.given([str(tmp_path / "a.csv")], ""), None)


def test_names_as_labels_of_a_large_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "WHOLE_BYTES", 2**10)
    np.savez(tmp_path / "a.npz", x=np.zeros((500, 5), np.float32), y=np.array(["u", "v", "w", "v"] * 125))
    seen = look.look(splits.given([str(tmp_path / "a.npz")], ""), None)
    assert (seen.classes, seen.label_names) == (3, ("u", "v", "w"))
    for labels, message in ((np.array(["u", 1] * 250, object), "array of text"), (np.zeros(0), "no labels in 'y'")):
        np.savez(tmp_path / "b.npz", x=np.zeros((500, 5), np.float32), y=labels)
        with pytest.raises(RequestError, match=message):
            look.look(splits.given([str(tmp_path / "b.npz")], ""), None)


# What is written


def test_a_table_as_a_run_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table().to_csv(tmp_path / "people.csv", index=False, sep=";", decimal=",")
    assert main(["init", str(tmp_path / "new"), "--data", str(tmp_path / "people.csv")]) == 0
    told = capsys.readouterr().out
    assert "Data: table, 216 train, 24 validation, 60 test" in told and "label: 'kind'" in told
    assert "test: no file for it, so 20% of the examples are set aside" in told
    assert f"stillhouse run {tmp_path / 'new' / 'config.yaml'}" in told
    config = runs(tmp_path / "new")
    assert config.data.test_share == 0.2 and config.name == "new" and config.ensemble.size == 5
    first = (tmp_path / "new" / "config.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=stillhouse.schema.json"
    assert json.loads((tmp_path / "new" / "stillhouse.schema.json").read_text())["title"] == "RunConfig"


def test_without_data_the_files_have_placeholders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new"
    for named in (["--label", "y"], ["--checkpoint", "a.pt"]):  # which need data
        assert main(["init", str(folder), *named]) == 2
        assert "no data in it. Name a table" in capsys.readouterr().err and not folder.exists()
    assert main(["init", str(folder)]) == 0
    told, config = capsys.readouterr().out, (folder / "config.yaml").read_text()
    assert "Data: none found" in told and "Run:" not in told
    assert told.count("  to do: ") == config.count("# To do: ") == 2
    for seed, name in enumerate(("train", "test")):
        x, y = blobs(60, seed, inputs=20)
        np.savez(folder / f"{name}.npz", x=x, y=y)
    assert runs(folder).data.train == "train.npz"


def test_in_the_folder_of_the_data_paths_are_relative(tmp_path: Path) -> None:
    for name, seed in (("train", 1), ("test", 2)):
        table(seed=seed).to_parquet(tmp_path / f"{name}.parquet")
    written(tmp_path)
    assert "  train: train.parquet  #" in (tmp_path / "config.yaml").read_text()
    runs(tmp_path)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("2024", "2024"), ("yes", "yes"), ("007", "007"), ("日本 #2", "2"), ("~", "table"), ("a" * 150, "a" * 100)],
)
def test_a_folder_of_any_name_names_the_run(folder: str, name: str, tmp_path: Path) -> None:
    table().to_csv(tmp_path / "train.csv", index=False)
    written(tmp_path / folder, tmp_path / "train.csv")
    config = RunConfig.load(str(tmp_path / folder / "config.yaml"))
    assert config.name == config.tracking.experiment == name


@pytest.mark.parametrize("names", ["08 09 1e5 0x1F", "yes no null ~", "1:30 2024-01-01 <<  =", "#a b:_c {d [e"])
def test_columns_and_paths_of_any_name(names: str, tmp_path: Path) -> None:
    four = [name.replace("_", " ") for name in names.split()]
    frame = table(constant=[0] * 300).rename(columns=dict(zip("abcd", four, strict=True)) | {"kind": "2.0e6"})
    frame.to_csv(tmp_path / "a: #1.csv", index=False)
    start.start(str(tmp_path / "new"), [str(tmp_path / "a: #1.csv")], [], "2.0e6")
    data = RunConfig.load(str(tmp_path / "new" / "config.yaml")).data
    assert data.feature_columns == tuple(four) and data.label_column == "2.0e6"
    assert data.train == "../a: #1.csv"


def test_names_of_layers_are_written_as_python(tmp_path: Path) -> None:
    guess = chains.Guess((('a"b\\', "nn.Linear(1, 1)"),), 1.0, 0.0)
    compile(guess.function("member", 1), "models.py", "exec")
    compile(checkpoints._place("member", {"a\nb": (1,)}), "models.py", "exec")


@pytest.mark.parametrize("shape", [(28, 28), (16, 16, 3), (3, 12, 12), (5,), (4, 6)])
def test_arrays_of_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, *shape)).astype(np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "data.npz", images=x, labels=y)
    found = written(tmp_path / "new", tmp_path / "data.npz")
    config = runs(tmp_path / "new")
    is_image = min(recipe.side_of(shape)) >= 8 if len(shape) > 1 else False
    assert found.chosen.factory == ("cnn" if is_image else "mlp") and config.data.label_column == "labels"


def test_images_in_folders_become_a_configuration_that_loads(tmp_path: Path) -> None:
    for split, n in (("train", 30), ("val", 12), ("test", 14)):
        for k in range(n):
            folder = tmp_path / "photos" / split / ("cat" if k % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + k, 35), (k, 7 * k, n)).save(folder / f"{k}.png")
    found = written(tmp_path / "new", tmp_path / "photos")
    config = runs(tmp_path / "new")
    assert config.data.image_size == (32, 32) and config.data.validation == "../photos/val"
    assert found.seen.label_names == ("cat", "dog")


def pictures(folder: Path, *classes: str) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for k in range(8):
            Image.new("RGB", (40 + k, 35), (k, 7 * k, sum(name.encode()) % 256)).save(folder / name / f"{k}.png")


def test_a_class_may_have_the_name_of_a_split(tmp_path: Path) -> None:
    pictures(tmp_path, "train", "bus", "more")
    assert splits.given([], str(tmp_path)).splits == {"train": str(tmp_path)}
    pictures(tmp_path / "photos", "train/cat", "train/dog", "more")
    assert splits.given([], str(tmp_path / "photos")).splits.keys() == {"train", "unlabeled"}
    pictures(tmp_path / "flat", "train", "test")  # of which the class is in the names of the images
    assert splits.given([], str(tmp_path / "flat")).splits.keys() == {"train", "test"}


def test_images_of_another_storage_are_read_through_it(tmp_path: Path) -> None:
    pictures(tmp_path, "cat", "dog")
    seen = look.look(splits.given([f"file://{tmp_path}"], ""), None)
    assert seen.data["image_size"] == [32, 32] and seen.label_names == ("cat", "dog")
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(RequestError, match="no image that can be read"):
        look.look(splits.given([f"file://{tmp_path}"], ""), None)


def test_damaged_images_are_named_together_and_columns_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path, "cat", "dog")
    found = splits.given([str(tmp_path)], "")
    with pytest.raises(RequestError, match=r"--label 'kind': images have no columns"):
        look.look(found, "kind")
    for name in ("cat/0.png", "dog/7.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(RequestError, match=r"cat/0\.png': no image .* of 1 more of 16: 'dog/7\.png'\."):
        look.look(found, None)


def test_large_folders_of_images_are_opened_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "WHOLE_BYTES", 2**8)
    pictures(tmp_path / "photos", "train/cat", "train/dog", "test/cat", "test/dog", "unlabeled")
    found = written(tmp_path / "new", tmp_path / "photos")
    seen = found.seen
    assert seen.loaded is None and seen.shape == (3, 32, 32) and found.chosen.factory == "cnn"
    assert (seen.classes, seen.label_names) == (2, ("cat", "dog"))
    assert seen.examples == {"train": 16, "test": 16, "unlabeled": 8}
    assert "only some of its images were opened" in seen.warnings[0]
    runs(tmp_path / "new")
    pictures(tmp_path / "one", "train/cat", "test/cat")
    with pytest.raises(RequestError, match="there is one class; expected at least two"):
        look.look(splits.given([str(tmp_path / "one")], ""), None)


def test_it_writes_into_a_folder_of_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table().to_csv(tmp_path / "train.csv", index=False)
    for folder, message in (
        ("s3://b/x", "in another storage. Expected a folder of this machine"),
        (str(tmp_path / ("a" * 300)), "cannot be written (File name too long)"),
    ):
        assert main(["init", folder, "--data", str(tmp_path / "train.csv")]) == 2
        assert message in capsys.readouterr().err


def test_texts_get_a_tokenizer(tmp_path: Path) -> None:
    rows = [{"body": f"{'好' if k % 2 else '坏'}酒店服务热情房间干净 {k}", "label": k % 2} for k in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    found = written(tmp_path / "new", tmp_path / "a.jsonl")
    config = RunConfig.load(str(tmp_path / "new" / "config.yaml"))
    assert config.data.kind == "text" and config.data.text_column == "body" and found.chosen.factory == "textcnn"
    tokens = tmp_path / "new" / "tokenizer" / "tokenizer.json"
    assert tokens.exists() and config.student.model.tokenizer == str(tokens.parent)
    made = Tokenizer.from_file(str(tokens)).get_vocab_size()
    assert config.student.model.kwargs["vocabulary"] == made < recipe.VOCABULARY


def test_leaks_and_imbalance_are_noted(tmp_path: Path) -> None:
    frame = table(400)
    frame["kind"] = ["v" if k % 100 == 0 else "u" for k in range(400)]
    frame[:300].to_csv(tmp_path / "train.csv", index=False)
    frame[250:].to_csv(tmp_path / "test.csv", index=False)
    told = " ".join(written(tmp_path).seen.warnings)
    assert "of 150 examples are also in data.train" in told and "% of the labelled examples are of class 'u'" in told


@pytest.mark.parametrize("name", ["config.yaml", "models.py", "stillhouse.schema.json"])
def test_nothing_is_overwritten(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table().to_csv(tmp_path / "train.csv", index=False)
    (tmp_path / name).write_text("mine")
    assert main(["init", str(tmp_path)]) == 2
    assert f"{name}' exists, and nothing is overwritten" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "train.csv"])


@pytest.mark.parametrize(("folder", "written"), [(".", "a.csv"), ("new", "../a.csv"), ("x/new", None)])
def test_paths_near_the_folder_are_relative(folder: str, written: str | None, tmp_path: Path) -> None:
    data = str(tmp_path / "a.csv")
    assert configuration.located({"a": [data, "s3://b/a.csv"]}, tmp_path / folder) == {
        "a": [written or data, "s3://b/a.csv"]
    }


def test_a_refused_request_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_bytes("a,label\nKöln,1\n".encode("latin-1"))
    assert main(["init", str(tmp_path / "new"), "--data", str(tmp_path / "a.csv")]) == 2
    assert "not UTF-8" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_trainings_fit_the_size_of_the_data() -> None:
    def chosen(shape: tuple[int, ...], examples: int) -> recipe.Recipe:
        values: dict[str, Any] = {"data": {"kind": "npz"}, "shape": shape, "scale": 1.0, "classes": 10}
        values |= {"label_names": (), "reasons": (), "warnings": ()}
        return recipe.recipe(look.Seen(**values, examples={"train": examples, "test": 100}), 8000)

    for shape in ((20,), (28, 28), (3, 64, 64)):
        found = [chosen(shape, examples) for examples in (100, 1000, 10_000, 100_000)]
        epochs = [each.training["epochs"] for each in found]
        assert epochs == sorted(epochs, reverse=True) and all(each.minutes < 30 for each in found[:3])
    assert recipe.batch_size(65) == 31 and recipe.batch_size(64) == 32  # none leaves one example alone


# Checkpoints


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 16), activation(), nn.Linear(16, 3))


class Named(nn.Module):
    """Layers under names whose order in a file is not that of the chain."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


def trained(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_chain_is_found_with_its_activation(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    x, y = (torch.from_numpy(each) for each in blobs(600, 1, inputs=4))
    model = trained(mlp(activation), x * 3, y)
    layers = chains.layers_of({name: tuple(value.shape) for name, value in model.state_dict().items()})
    assert layers is not None
    guess = chains.best(layers, model.state_dict(), x * 3, y)
    assert guess is not None and ("", f"nn.{activation.__name__}()") in guess.layers
    assert guess.accuracy == float((model(x * 3).argmax(1) == y).double().mean())


def test_convolutions_in_any_order_of_names() -> None:
    torch.manual_seed(0)
    y = torch.arange(90) % 3
    x = torch.randn(90, 1, 12, 12) + y[:, None, None, None]
    model = trained(Named(), x, y)
    shuffled = OrderedDict(sorted(model.state_dict().items()))  # as safetensors has them
    layers = chains.layers_of({name: tuple(value.shape) for name, value in shuffled.items()})
    assert layers is not None and [layer.name for layer in layers] == ["features.0", "classifier"]
    guess = chains.best(layers, shuffled, x, y)
    assert guess is not None and guess.accuracy == float((model(x).argmax(1) == y).double().mean())


def test_other_networks_are_no_chain() -> None:
    lstm = {"lstm.weight_ih_l0": (16, 4), "lstm.weight_hh_l0": (16, 4), "output.weight": (3, 4), "output.bias": (3,)}
    assert chains.layers_of(lstm) is None
    assert chains.layers_of({"a.weight": (5, 4), "b.weight": (3, 7)}) is None


def test_checkpoints_become_members(tmp_path: Path) -> None:
    torch.manual_seed(0)
    frame = table(600)
    frame.to_parquet(tmp_path / "train.parquet")
    x, y = (torch.from_numpy(each) for each in blobs(600, 1, inputs=4))
    (tmp_path / "members").mkdir()
    for k in range(3):
        torch.save(trained(mlp(nn.Tanh), x, y).state_dict(), tmp_path / "members" / f"{k}.pt")
    found = written(tmp_path / "new", tmp_path / "train.parquet", given=(tmp_path / "members",))
    assert "nn.Tanh()" in found.members.functions[0] and not found.members.missing
    config = runs(tmp_path / "new")
    assert len(config.ensemble.given()) == 3 and config.ensemble.groups[0].training is None


def test_a_network_of_another_kind_has_a_place(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "train.csv", index=False)
    torch.save(nn.LSTM(4, 3).state_dict(), tmp_path / "lstm.pt")
    found = written(tmp_path / "new", tmp_path / "train.csv", given=(tmp_path / "lstm.pt",))
    assert "put the class of the network into `member` of models.py" in found.members.missing[0]
    models = (tmp_path / "new" / "models.py").read_text()
    assert "#   weight_ih_l0 [12, 4]" in models and "raise NotImplementedError" in models


def test_layers_are_not_tried_on_large_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "WHOLE_BYTES", 2**10)
    np.savez(tmp_path / "a.npz", x=np.zeros((500, 4), np.float32), y=np.arange(500) % 3)
    torch.save(mlp(nn.ReLU).state_dict(), tmp_path / "a.pt")
    seen = look.look(splits.given([str(tmp_path / "a.npz")], ""), None)
    found = checkpoints.look([str(tmp_path / "a.pt")], seen)
    assert "a chain of 2 layers, tried only on data of up to 256.0 MiB; name a part of yours by" in found.missing[0]
    assert "raise NotImplementedError" in found.functions[0]


def test_what_else_a_file_of_weights_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    table(600).sort_values("kind").to_csv(tmp_path / "train.csv", index=False)
    x, y = (torch.from_numpy(each) for each in blobs(600, 1, inputs=4))
    torch.save({"epoch": 3, **trained(mlp(nn.ReLU), x, y).state_dict()}, tmp_path / "a.pt")
    found = written(tmp_path / "new", tmp_path / "train.csv", given=(tmp_path / "a.pt",))
    assert not found.members.missing and "nn.ReLU()" in found.members.functions[0]


def test_the_examples_that_a_choice_is_tried_on_are_of_all_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chains, "TRIED", 90)
    table(600).sort_values("kind").to_csv(tmp_path / "train.csv", index=False)
    torch.save(mlp(nn.ReLU).state_dict(), tmp_path / "a.pt")
    seen = look.look(splits.given([str(tmp_path / "train.csv")], ""), None)
    tried: list[list[int]] = []
    monkeypatch.setattr(chains, "best", lambda layers, weights, x, y: tried.append(y.bincount().tolist()))
    checkpoints.look([str(tmp_path / "a.pt")], seen)
    assert len(tried[0]) == 3 and min(tried[0]) > 10


@pytest.mark.parametrize("shape", [(12, 12, 1), (1, 12, 12), (12, 12, 3)])
def test_convolutions_and_the_place_of_channels(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", x=np.random.default_rng(0).random((60, *shape)).astype(np.float32), y=np.arange(60) % 3
    )
    torch.save(Named().state_dict(), tmp_path / "a.pt")
    seen = look.look(splits.given([str(tmp_path / "a.npz")], ""), None)
    if shape[-1] == 3:
        with pytest.raises(RequestError, match=r"takes 1 numbers .* the data have 3 and 3"):
            checkpoints.look([str(tmp_path / "a.pt")], seen)
        return
    found = checkpoints.look([str(tmp_path / "a.pt")], seen)
    last = shape[-1] == 1
    assert ("have channels last; put a network that permutes them" in " ".join(found.missing)) == last
    assert ("raise NotImplementedError" in found.functions[0]) == last


def test_checkpoints_that_are_refused(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "train.csv", index=False)
    seen = look.look(splits.given([str(tmp_path / "train.csv")], ""), None)
    torch.save(nn.Sequential(nn.Linear(9, 3)).state_dict(), tmp_path / "wide.pt")
    torch.save(nn.Linear(4, 3), tmp_path / "model.pt")
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04")
    for name, message in (
        ("wide.pt", r"takes 9 numbers .* the data have 4 and 3"),
        ("model.pt", "holds more than tensors"),
        ("model.pkl", "Pickles of whole models"),
        ("gone.pt", "no such file"),
    ):
        with pytest.raises(RequestError, match=message):
            checkpoints.look([str(tmp_path / name)], seen)


def texts_and_bert(folder: Path, architecture: str) -> None:
    """Texts of two classes in `a.jsonl`, and the configuration of a BERT in `bert`."""
    rows = [{"text": f"{'good' if k % 2 else 'bad'} soup number {k} of many", "label": k % 2} for k in range(200)]
    (folder / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "bert").mkdir()
    described = {"model_type": "bert", "vocab_size": 30522, "architectures": [architecture]}
    (folder / "bert" / "config.json").write_text(json.dumps(described))


def test_a_folder_of_transformers_brings_its_tokenizer(tmp_path: Path) -> None:
    texts_and_bert(tmp_path, "BertForMaskedLM")
    written(tmp_path / "new", tmp_path / "a.jsonl", given=(tmp_path / "bert",))
    config = RunConfig.load(str(tmp_path / "new" / "config.yaml"))
    (group,) = config.ensemble.groups
    assert group.size == 3 and group.training is not None and group.training.epochs == 2
    student = config.student.model
    assert isinstance(student, ModelSpec) and student.kwargs["vocabulary"] == 30522
    assert student.tokenizer == str(tmp_path / "bert") and not (tmp_path / "new" / "tokenizer").exists()


def test_a_finished_classifier_of_two_classes_names_no_labels(tmp_path: Path) -> None:
    texts_and_bert(tmp_path, "BertForSequenceClassification")
    seen = look.look(splits.given([str(tmp_path / "a.jsonl")], ""), None)
    (group,) = checkpoints.look([str(tmp_path / "bert")], seen).groups
    assert "training" not in group


@pytest.mark.parametrize("config", ['{"epochs": 3}', '{"model_type": null}', "[]", '{"epo'])
def test_the_configuration_of_another_project_is_none_of_transformers(config: str, tmp_path: Path) -> None:
    table().to_csv(tmp_path / "train.csv", index=False)
    seen = look.look(splits.given([str(tmp_path / "train.csv")], ""), None)
    nets = [tmp_path / "nets" / f"seed{k}" for k in range(2)]
    for folder in nets:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(config)
    with pytest.raises(RequestError, match="no checkpoint in it, or in a folder in it"):
        checkpoints.look([str(tmp_path / "nets")], seen)
    for folder in nets:
        torch.save(mlp(nn.ReLU).state_dict(), folder / "best.pt")
    (group,) = checkpoints.look([str(tmp_path / "nets")], seen).groups
    assert group["checkpoints"] == [str(folder / "best.pt") for folder in nets]
    (one,) = checkpoints.look([str(nets[0])], seen).groups
    assert one["checkpoints"] == group["checkpoints"][:1]


def test_a_network_of_transformers_needs_a_vocabulary(tmp_path: Path) -> None:
    texts_and_bert(tmp_path, "BertModel")
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RequestError, match=r"bert': its config\.json has no `vocab_size`"):
        written(tmp_path / "new", tmp_path / "a.jsonl", given=(tmp_path / "bert",))


def test_files_for_other_libraries(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "train.csv", index=False)
    seen = look.look(splits.given([str(tmp_path / "train.csv")], ""), None)
    (tmp_path / "a.onnx").write_bytes(b"")
    assert checkpoints.look([str(tmp_path / "a.onnx")], seen).groups == [
        {"model": {"kind": "onnx", "path": storage.join(str(tmp_path), "a.onnx")}}
    ]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(RequestError, match="a network of transformers, and the data are no texts"):
        checkpoints.look([str(tmp_path / "bert")], seen)
