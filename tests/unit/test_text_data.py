"""Texts from every kind of file, their labels by name, and their tokens."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.stages import tokens as tokens_stage
from orchestrator.stages.context import BaseContext
from tests import texts as made
from workers import storage
from workers.data import loading, masking, text_files, texts, token_files, tokens
from workers.data.collate import Collator, NamedInputs
from workers.data.dataset import Dataset
from workers.data.examples import Columns
from workers.data.label_names import NamedLabels, resolved
from workers.data.ragged import Ragged
from workers.data.tokens import IDS, TYPES, Tokenization
from workers.errors import RequestError
from workers.specs.data import AugmentSpec, DataSpec
from workers.specs.models import AnyModel, ModelSpec, TransformersModel
from workers.storage import retries
from workers.trial import sequences

ODD = ["😀 emoji", "zero\u200bwidth", "שלום עולם", 'a "quoted", comma', "two\nlines", "x" * 10_000]


def column(x: Any, name: str = texts.TEXT) -> list[str]:
    found = x.columns[name]
    assert isinstance(found, Ragged)
    return texts.strings(found)


def write(folder: Path, ending: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"rows{ending}"
    match ending:
        case ".jsonl":
            made.write_jsonl(path, rows)
        case ".csv":
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        case ".tsv":  # without quotes, so without line ends in values
            lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
            path.write_text("\n".join(lines) + "\n")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case "":
            datasets.Dataset.from_list(rows).save_to_disk(path)
    return str(path)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv", ".parquet", ""])
def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path, ending: str) -> None:
    odd = [text.replace("\n", " ") for text in ODD] if ending == ".tsv" else ODD
    rows = [{"id": k, "text": text, "label": "ab"[k % 2]} for k, text in enumerate(odd)]
    x, labels = text_files.read(write(tmp_path, ending, rows), "train", ("text",), "label")
    assert column(x) == odd
    assert [labels.names[k] for k in labels.ids] == [row["label"] for row in rows]


def test_a_folder_and_a_pattern_join_files_by_name(tmp_path: Path) -> None:
    for name, number in (("b", 1), ("a", 0)):
        made.write_jsonl(tmp_path / f"part-{name}.jsonl", [{"text": f"text {number}", "label": number}])
    for uri in (str(tmp_path), f"{tmp_path}/part-*.jsonl"):
        x, labels = text_files.read(uri, "train", ("text",), "label")
        assert (column(x), labels.tolist()) == (["text 0", "text 1"], [0, 1])


def test_hidden_files_are_read_only_by_a_pattern_that_names_them(tmp_path: Path) -> None:
    folder = tmp_path / ".cache"
    (folder / "a" / ".old").mkdir(parents=True)
    for name in ("a/part.jsonl", "a/._part.jsonl", "a/.old/part.jsonl"):
        made.write_jsonl(folder / name, [{"text": name, "label": 0}])
    expected = {"a": "a/part.jsonl", "*/*.jsonl": "a/part.jsonl", "a/.old/*.jsonl": "a/.old/part.jsonl"}
    found = {uri: column(text_files.read(f"{folder}/{uri}", "train", ("text",), "label")[0]) for uri in expected}
    assert found == {uri: [name] for uri, name in expected.items()}


def test_a_large_column_is_mapped_and_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made.rows(20_000)
    path = write(tmp_path, ".parquet", [dict(row) for row in rows])
    in_memory, _ = text_files.read(path, "train", ("text",), None)
    monkeypatch.setattr(texts, "IN_MEMORY", 1000)
    mapped, _ = text_files.read(path, "train", ("text",), None)
    assert isinstance(mapped.columns["text"], Ragged) and isinstance(mapped.columns["text"].arrays[0], np.memmap)
    assert column(mapped) == column(in_memory) == [row["text"] for row in rows]


def spec(folder: Path, **also: Any) -> DataSpec:
    return DataSpec.model_validate({"kind": "text", "root": str(folder), **also})


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    made.write_jsonl(tmp_path / "train.jsonl", made.rows(60))
    made.write_jsonl(tmp_path / "test.jsonl", list(reversed(made.rows(9, 100))))
    found = loading.load(spec(tmp_path, train="train.jsonl", test="test.jsonl"), 0)
    assert found.label_names == ("geography", "science", "sport") and found.classes == 3
    assert [found.label_names[k] for k in found.test.y] == [row["label"] for row in reversed(made.rows(9, 100))]


def test_a_declared_order_of_classes_is_kept(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["z", "a"])})
    rows = {"text": [f"text {k}" for k in range(40)], "label": [k % 2 for k in range(40)]}
    whole = datasets.Dataset.from_dict(rows, features=features)
    whole.save_to_disk(tmp_path / "train")
    whole.select(range(8)).map(lambda row: {"text": "other " + row["text"]}).to_parquet(tmp_path / "test.parquet")
    found = loading.load(spec(tmp_path, train="train", test="test.parquet"), 0)
    assert found.label_names == ("z", "a")
    assert found.test.y.tolist() == [0, 1] * 4


@pytest.mark.parametrize("name", ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"])
@pytest.mark.parametrize("content", [None, b"{"])
def test_a_damaged_folder_of_datasets_is_refused(name: str, content: bytes | None, tmp_path: Path) -> None:
    folder = Path(write(tmp_path, "", [{"text": f"text {k}", "label": "x"} for k in range(9)]))
    assert (folder / name).exists()
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(RequestError, match=r"rows': cannot be read as a folder of `datasets` .*; save it anew"):
        text_files.read(str(folder), "train", ("text",), "label")


def test_a_folder_with_a_state_is_not_one_of_datasets(tmp_path: Path) -> None:
    made.write_jsonl(tmp_path / "a.jsonl", [{"text": "a"}])
    (tmp_path / "state.json").write_text('{"text": "b"}\n')
    assert column(text_files.read(str(tmp_path), "train", ("text",), None)[0]) == ["a", "b"]


def test_ids_in_a_file_without_types_are_numbers() -> None:
    train, test = (NamedLabels.of(np.array(y)) for y in (["0", "1", "10"], ["10", "0"]))
    found, names = resolved({"train": train, "test": test})
    assert names == () and found["test"].tolist() == [10, 0]


@pytest.mark.parametrize("label", [-1, -2, -100])
def test_ids_below_zero_are_no_class_that_a_file_declares(label: int) -> None:
    train = NamedLabels(np.array([0, 1, -1]), ("a", "b"), declared=True)
    test = NamedLabels(np.array([1, label]), ("b", "a"), declared=True)
    assert resolved({"train": train, "test": test})[0]["test"].tolist() == [0, label]


BAD: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "empty": ([{"text": "a", "label": "x"}, {"text": " \n", "label": "x"}], {}, "'text' of example 1 is empty"),
    "null": ([{"text": None, "label": "x"}], {}, "'text' of example 0 is null"),
    "null label": ([{"text": "a", "label": None}], {}, "'label' of example 0 is null"),
    "no label in a row": ([{"text": "a", "label": "x"}, {"text": "b"}], {}, "'label' of example 1 is null"),
    "number": ([{"text": 3, "label": "x"}], {}, "column 'text' is int64; expected texts"),
    "large label": ([{"text": "a", "label": 10**21}], {}, f"'label' is {10**21} in one row; expected class ids"),
    "fraction": ([{"text": "a", "label": 0.5}], {}, "'label' is 0.5"),
    "texts and numbers": ([{"text": "a", "label": "x"}, {"text": "b", "label": 3}], {}, "mixes text .* write all"),
    "no column": ([{"text": "a", "topic": "x"}], {}, "no column 'label'; found 'text', 'topic'"),
    "other column": ([{"text": "a", "label": "x"}], {"text_column": "body"}, "no column 'body'"),
    "one class": ([{"text": f"a {k}", "label": "x"} for k in range(30)], {}, "one class"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_refused_with_its_row(tmp_path: Path, name: str) -> None:
    rows, keys, message = BAD[name]
    made.write_jsonl(tmp_path / "train.jsonl", rows)
    with pytest.raises(RequestError, match=message):
        loading.load(spec(tmp_path, train="train.jsonl", test="train.jsonl", allow_overlap=True, **keys), 0)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet", ""])
def test_nested_columns_and_truth_values_are_those_of_tables(ending: str, tmp_path: Path) -> None:
    rows = [{"id": k, "data": {"text": f"text {k}"}, "meta": {"of": {"label": k != 1}}} for k in range(3)]
    path = write(tmp_path, ending, rows)
    x, labels = text_files.read(path, "train", ("data.text",), "meta.of.label")
    assert column(x) == ["text 0", "text 1", "text 2"]
    assert [labels.names[k] for k in labels.ids] == ["True", "False", "True"]
    assert text_files.read_groups(path, "meta.of.label") == [True, False, True]
    with pytest.raises(RequestError, match=r"no column 'meta\.label'; found 'id', 'data\.text', 'meta\.of\.label'\. "):
        text_files.read(path, "train", ("data.text",), "meta.label")
    with pytest.raises(RequestError, match=r"column 'meta\.of\.label' is bool; expected texts"):
        text_files.read(path, "train", ("meta.of.label",), None)


def test_a_declared_order_of_nested_labels_is_kept(tmp_path: Path) -> None:
    names = {"label": datasets.ClassLabel(names=["z", "a"])}
    features = datasets.Features({"text": datasets.Value("string"), "meta": names})
    rows = [{"text": f"text {k}", "meta": {"label": k % 2}} for k in range(4)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "a.parquet")
    _, labels = text_files.read(str(tmp_path / "a.parquet"), "train", ("text",), "meta.label")
    assert labels.names == ("z", "a") and labels.declared and labels.ids.tolist() == [0, 1, 0, 1]


def test_texts_of_parquet_may_be_views(tmp_path: Path) -> None:
    views = pa.array(["a", "b"], pa.string_view())
    pq.write_table(pa.table({"text": views, "label": views}), tmp_path / "a.parquet")
    x, labels = text_files.read(str(tmp_path / "a.parquet"), "train", ("text",), "label")
    assert column(x) == ["a", "b"] and labels.names == ("a", "b") and labels.ids.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["text", "label", "user"])
def test_bytes_that_are_no_text_are_refused_with_their_column(tmp_path: Path, name: str) -> None:
    """A Parquet file may have any bytes in a column of texts."""
    edges, content = np.array([0, 1, 4], np.int32), b"ab\xffc"
    damaged = pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(edges.tobytes()), pa.py_buffer(content)])
    sound = {"text": ["a", "b"], "label": ["x", "y"], "user": ["u", "v"]}
    pq.write_table(pa.table({**sound, name: damaged}), tmp_path / "rows.parquet")
    uri = str(tmp_path / "rows.parquet")
    with pytest.raises(RequestError, match=rf"rows\.parquet': column '{name}' has damaged values \(.*UTF"):
        text_files.read_groups(uri, "user")
        text_files.read(uri, "train", ("text",), "label")


def test_whole_numbers_of_json_may_have_a_point(tmp_path: Path) -> None:
    path = made.write_jsonl(
        tmp_path / "a.jsonl", [{"text": "a", "label": 1.0, "user": 17.0}, {"text": "b", "label": 0}]
    )
    assert text_files.read(path, "train", ("text",), "label")[1].tolist() == [1, 0]
    assert text_files.read_groups(path, "user") == [17, None]


def test_a_label_beyond_int64_is_not_taken_for_none(tmp_path: Path) -> None:
    ids = pa.array([0, 2**64 - 1], pa.uint64())  # as int64, the second is -1
    pq.write_table(pa.table({"text": ["a", "b"], "label": ids}), tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=f"the label 'label' of example 1 is {2**64 - 1}; expected class ids from 0"):
        text_files.read(str(tmp_path / "a.parquet"), "train", ("text",), "label")


def test_a_label_that_train_never_has_is_refused(tmp_path: Path) -> None:
    made.write_jsonl(tmp_path / "train.jsonl", made.rows(60))
    made.write_jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": "cooking"}])
    words = r"data.test: the label 'cooking' of example 0 is none of the 3.* in all\. Correct them, or leave .* out\.$"
    with pytest.raises(RequestError, match=words):
        loading.load(spec(tmp_path, train="train.jsonl", test="test.jsonl"), 0)


@pytest.mark.parametrize("label", ["Ärger", " ärger", "a\u0308rger"])
def test_a_label_that_looks_like_a_known_one_is_named_with_it(tmp_path: Path, label: str) -> None:
    texts = [{"text": f"a text {k}", "label": ("ärger", "joy")[k % 2]} for k in range(40)]
    made.write_jsonl(tmp_path / "train.jsonl", texts)
    made.write_jsonl(tmp_path / "test.jsonl", [{"text": "a", "label": label}])
    with pytest.raises(RequestError, match=r"differs from 'ärger' in case, white space, .* or Unicode form alone"):
        loading.load(spec(tmp_path, train="train.jsonl", test="test.jsonl"), 0)


@pytest.mark.parametrize("empty", ["train", "test"])
def test_a_split_without_rows_is_named(tmp_path: Path, empty: str) -> None:
    for split in ("train", "test"):
        made.write_jsonl(tmp_path / f"{split}.jsonl", [] if split == empty else made.rows(60))
    with pytest.raises(RequestError, match=rf"data\.{empty}: no examples\. Expected at least one"):
        loading.load(spec(tmp_path, train="train.jsonl", test="test.jsonl"), 0)


@pytest.mark.parametrize("content, message", [
    (b'{"text": \n', "line 1: not JSON"),
    (b'[1]\n', "line 1: list"),
    (b'{"text": "\\ud83d", "label": "a"}\n', "no Unicode"),
    (b'{"text": "caf\xe9", "label": "a"}\n', r"line 1: not UTF-8 \(byte 0xe9\)\. Convert it"),
    pytest.param(b"[" * 100_000, "line 1: not JSON", id="nested"),
])  # fmt: skip
def test_a_damaged_line_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        text_files.read(str(tmp_path / "train.jsonl"), "train", ("text",), "label")


@pytest.mark.parametrize("content", [b"text,label\ncaf\xe9,a\n", b"text,label,caf\xe9\na,a,b\n"])
def test_a_csv_of_another_encoding_is_refused_with_the_way_to_convert_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(RequestError, match=r"train\.csv': not UTF-8 \(.*\)\. Convert it, for example with `iconv -f"):
        text_files.read(str(tmp_path / "train.csv"), "train", ("text",), "label")


def test_a_file_that_cannot_be_parsed_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = text_files.READERS[".csv"]
    calls: list[Any] = []

    def counted(*given: Any) -> Any:
        calls.append(given)
        return reader(*given)

    monkeypatch.setitem(text_files.READERS, ".csv", counted)
    monkeypatch.setattr(retries, "BACK_OFF_S", (0.0,) * 5)
    uri = "memory://damaged/rows.csv"
    storage.write_text(uri, "text,label\na,b,c\n")
    with pytest.raises(RequestError, match=r"rows\.csv': cannot be read \(CSV parse error.*Write the file anew"):
        text_files.read(uri, "train", ("text",), "label")
    assert len(calls) == 1


# --- tokens -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return made.tokenizer(tmp_path_factory.mktemp("tokenizer"))


def batch(x: Columns, how: Tokenization, rows: list[int]) -> NamedInputs:
    found = Collator(tokens=how)(x, np.array(rows))
    assert isinstance(found, NamedInputs)
    return found


def test_a_batch_of_texts_is_padded_and_masked(folder: str) -> None:
    x = Columns({"text": texts.of_strings(["river", "river of the mountain", "goal 12"])})
    found = batch(x, Tokenization(folder), [1, 0]).padded()
    ids = tokens.load(folder)(["river of the mountain", "river"], padding=True, return_tensors="pt")
    assert found.keys() == {"input_ids", "attention_mask"}
    assert all((found[name] == ids[name]).all() for name in found)


def test_pairs_have_types_and_long_texts_are_cut(folder: str) -> None:
    x = Columns({"text": texts.of_strings(["river of the"]), "text_pair": texts.of_strings(["goal match"])})
    found = batch(x, Tokenization(folder, 6), [0]).padded()
    assert found[IDS].shape == (1, 6)
    assert found[TYPES].tolist() == [[0, 0, 0, 1, 1, 1]] or found[TYPES].sum() > 0


def test_a_length_has_room_for_a_token_besides_special_ones(folder: str) -> None:
    for length, pair in ((3, False), (4, True)):  # [CLS] [SEP], and [CLS] [SEP] [SEP]
        Tokenization(folder, length).check_room("model.max_length", pair=pair)
        with pytest.raises(RequestError, match=rf"model.max_length: {length - 1}, and .* Expected at least {length}"):
            Tokenization(folder, length - 1).check_room("model.max_length", pair=pair)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "with special tokens"])
def hiding(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer that drops invisible characters, without special tokens or with two in each text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    known = {"[UNK]": 0, "river": 1, "[CLS]": 2, "[SEP]": 3}
    made_ = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    made_.normalizer, made_.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    if request.param:
        made_.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    path = str(tmp_path_factory.mktemp("hiding") / "tokenizer.json")
    made_.save(path)
    return path


def with_last(folder: Path, text: str, **also: Any) -> Dataset:
    """Texts of a river, of which the last has another text."""
    rows = [{"text": f"river {k}", "label": k % 2} for k in range(30)] + [{"text": text, "label": 0}]
    made.write_jsonl(folder / "train.jsonl", rows)
    made.write_jsonl(folder / "test.jsonl", [{"text": "river", "label": 0}])
    found = loading.load(spec(folder, train="train.jsonl", test="test.jsonl", **also), 0)
    assert found.kept is not None and found.kept[-1] == 30 and len(found.train) < 31  # the last row is of train
    return found


def tokenized(model: AnyModel, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage of a run in which texts become tokens."""
    monkeypatch.setattr(tokens_stage, "_obtained", lambda _, x, how, *rest: how(x.columns["text"]))
    artifacts = SimpleNamespace(obtain_all=lambda keys: [None for _ in keys])
    events = SimpleNamespace(stage=lambda _: nullcontext(SimpleNamespace()), note=print)
    parts: Any = {
        "config": SimpleNamespace(models={"m": model}),
        "machines": None,
        "heartbeat": None,
        "artifacts": artifacts,
        "events": events,
    }
    run = BaseContext(**parts)
    tokens_stage.tokenized(run, data)


def test_texts_without_tokens_are_refused_with_their_row(
    hiding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, model = with_last(tmp_path, "\u200b\u200b"), ModelSpec(factory="nets:no_matter", tokenizer=hiding)
    message = (
        r"data\.train: '\\u200b\\u200b', the text of example 30, has no tokens( besides 2 special ones)? by '.*'; "
        "found 1 such text, expected"
    )
    with pytest.raises(RequestError, match=message):
        sequences.check({"student.model": model}, found)
    monkeypatch.setattr(sequences, "MOST", 0)  # those that it does not look at are found once they have tokens
    sequences.check({"student.model": model}, found)
    with pytest.raises(RequestError, match=message):
        tokenized(model, found, monkeypatch)


def test_a_text_without_tokens_of_a_share_has_its_row_in_the_file(hiding: str, tmp_path: Path) -> None:
    made.write_jsonl(tmp_path / "more.jsonl", [{"text": "\u200b\u200b"}] * 40)
    found = with_last(tmp_path, "the river", unlabeled="more.jsonl", transfer_share=0.1)
    assert found.drawn is not None
    message = rf"data\.unlabeled: .*, the text of example {found.drawn[0]}, has no tokens"
    with pytest.raises(RequestError, match=message):
        sequences.check({"student.model": ModelSpec(factory="nets:no_matter", tokenizer=hiding)}, found)


def encoder(tokenizer: str, **also: Any) -> TransformersModel:
    """A BERT of eight positions."""
    config = made.config(max_position_embeddings=8)
    return TransformersModel(kind="transformers", config=config, tokenizer=tokenizer, classes=2, **also)


def test_a_text_that_is_longer_than_the_positions_is_found_once_it_has_tokens(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, model = with_last(tmp_path, "the river " * 5), encoder(folder)
    message = r"data\.train: 1 text has more tokens than the 8 positions of 'bert', the longest 12\. Set `"
    with pytest.raises(RequestError, match=message + r"student\.model\.max_length: 8`"):
        sequences.check({"student.model": model}, found)
    monkeypatch.setattr(sequences, "MOST", 0)  # as where so many others have more bytes
    sequences.check({"student.model": model}, found)
    with pytest.raises(RequestError, match=message):
        tokenized(model, found, monkeypatch)
    tokenized(encoder(folder, max_length=8), found, monkeypatch)


def test_varied_texts_that_are_longer_than_the_positions_are_refused(folder: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def longer(x, draws): return {'text': [text + ' of' * 9 for text in x['text']]}\n"
    )
    augment = {"factory": "mine:longer", "folder": str(tmp_path), "views": 2}
    found = with_last(tmp_path, "the river", augment=augment)
    of_all = 2 * len(found.transfer)
    with pytest.raises(RequestError, match=rf"data\.augment: {of_all} texts have more tokens than the 8 positions"):
        sequences.check({"student.model": encoder(folder)}, found)
    sequences.check({"student.model": encoder(folder, max_length=8)}, found)


def test_a_mask_that_a_tokenizer_does_not_have_is_noted(folder: str, hiding: str) -> None:
    def notes(uri: str, **kwargs: Any) -> tuple[str, ...]:
        augment = AugmentSpec(factory="workers.data.text_augment:words_and_stretches", kwargs=kwargs)
        data: Any = SimpleNamespace(augment=augment)
        return sequences.notes({"m": ModelSpec(factory="nets:no_matter", tokenizer=uri)}, data)

    assert notes(folder) == notes(folder, mask="river") == notes(folder, mask="<mask>", masked=0.0) == ()
    (other,), (without,) = notes(folder, mask="<mask>"), notes(hiding)
    assert f"the mask '<mask>' is 3 tokens of '{folder}', whose own mask is '[MASK]'. Set" in other
    assert f"the mask '[MASK]' is 3 tokens of '{hiding}', which has no mask of its own. Set" in without


def test_texts_that_reach_max_length_are_counted() -> None:
    lengths = {"train": np.array([3, 4, 4]), "validation": np.array([3]), "test": np.array([4, 1])}
    assert Tokenization("bert").cut(lengths) == "" == Tokenization("bert", 5).cut(lengths)
    assert Tokenization("bert", 4).cut(lengths) == (
        "2 of 3 texts of train, 1 of 2 texts of test have 4 tokens or more by 'bert'; `max_length` cuts longer ones"
    )


def test_known_tokens_take_the_place_of_texts(folder: str, tmp_path: Path) -> None:
    how, column = Tokenization(folder), texts.of_strings([row["text"] for row in made.rows(50)])
    names = [token_files.tokenize_block(str(tmp_path), k, (column[k * 20 : (k + 1) * 20],), how)[0] for k in range(3)]
    found = token_files.read(str(tmp_path), names)
    with_tokens = Columns({"text": column.lengths_only()}, derived={how: found})
    for rows in ([3, 49, 20], [0]):
        from_files, from_texts = batch(with_tokens, how, rows), batch(Columns({"text": column}), how, rows)
        assert all((from_files.padded()[name] == from_texts.padded()[name]).all() for name in (IDS, "attention_mask"))
    with pytest.raises(LookupError):
        batch(with_tokens, Tokenization(folder, 5), [0])


def test_a_part_of_the_data_has_its_digests_without_its_texts(folder: str, tmp_path: Path) -> None:
    for name, count in (("train", 60), ("test", 9)):
        made.write_jsonl(tmp_path / f"{name}.jsonl", made.rows(count))
    part = loading.load(spec(tmp_path, train="train.jsonl", test="test.jsonl"), 0).sampled(0.5, 8)
    digests, how = part.digests, Tokenization(folder)
    inputs = {name: replace(x, derived={how: how(x.columns["text"])}) for name, x in part.inputs.items()}
    run: Any = SimpleNamespace(models={"m": ModelSpec(factory="models:net", tokenizer=folder)})
    bare = tokens_stage.without_texts(run, part.with_inputs(inputs))
    with pytest.raises(LookupError, match="dropped"):
        column(bare.train.x)
    assert bare.digests == digests


def test_a_damaged_file_of_tokens_is_thrown_away(folder: str, tmp_path: Path) -> None:
    name, _ = token_files.tokenize_block(str(tmp_path), 0, (texts.of_strings(["river"]),), Tokenization(folder))
    assert token_files.is_whole(str(tmp_path), name)
    (tmp_path / name).write_bytes(b"damaged")
    assert not token_files.is_whole(str(tmp_path), name) and not (tmp_path / name).exists()


def test_the_identity_of_a_tokenizer_is_its_content(folder: str, tmp_path: Path) -> None:
    again = made.tokenizer(tmp_path / "elsewhere")
    assert Tokenization(folder, 8).identity == Tokenization(again, 8).identity != Tokenization(folder, 9).identity


@pytest.mark.parametrize("spoil, message", [
    (lambda path: (path / "tokenizer.json").write_text("{"), "cannot be loaded"),
    (lambda path: [each.unlink() for each in path.iterdir()], "cannot be loaded"),
])  # fmt: skip
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, spoil: Callable[[Path], Any], message: str) -> None:
    made.tokenizer(tmp_path)
    spoil(tmp_path)
    with pytest.raises(RequestError, match=message):
        tokens.load(str(tmp_path))


def test_a_tokenizer_of_special_tokens_alone_is_refused_for_texts(tmp_path: Path) -> None:
    """transformers makes one for a folder that has the network alone."""
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for ask in (lambda how: how.special(pair=False), lambda how: how(texts.of_strings(["the river"]))):
        with pytest.raises(RequestError, match=r"has 5 special tokens and no others.* set `tokenizer` to its folder"):
            ask(Tokenization(str(tmp_path)))
    with pytest.raises(RequestError, match="has 5 special tokens and no others"):
        masking.Vocabulary.of(str(tmp_path))


def test_quotes_are_characters_of_a_tsv_and_quotes_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "rows.tsv").write_text('text\tlabel\n"Hello there\t0\nsecond one\t1\nthird"\t0\n')
    x, _ = text_files.read(str(tmp_path / "rows.tsv"), "train", ("text",), "label")
    assert column(x) == ['"Hello there', "second one", 'third"']
    (tmp_path / "rows.csv").write_text('id,"te\nxt",label\n' + "1,a,x\n" * 3 + 'z,"b, ""c""",y\n')
    x, _ = text_files.read(str(tmp_path / "rows.csv"), "train", ("te\nxt",), "label")
    assert column(x) == ["a", "a", "a", 'b, "c"']
    (tmp_path / "twice.csv").write_text("text,label,text\na,0,b\n")
    with pytest.raises(RequestError, match="several columns are called 'text'"):
        text_files.read(str(tmp_path / "twice.csv"), "train", ("text",), "label")
    (tmp_path / "blank.csv").write_text("text,label\na,0\nb,\n")
    with pytest.raises(RequestError, match="'label' of example 1 is empty"):
        text_files.read(str(tmp_path / "blank.csv"), "train", ("text",), "label")


def test_ids_agree_whatever_the_kinds_of_files(tmp_path: Path) -> None:
    made.write_jsonl(tmp_path / "train.jsonl", [{"text": f"text {k}", "label": k % 2} for k in range(40)])
    (tmp_path / "test.csv").write_text("text,label\nother,1\nanother,0\n")
    found = loading.load(spec(tmp_path, train="train.jsonl", test="test.csv"), 0)
    assert found.label_names == () and found.test.y.tolist() == [1, 0]


def test_the_digest_of_a_tokenizer_does_not_follow_from_its_last_call(tmp_path: Path) -> None:
    folder, other = made.tokenizer(tmp_path / "one"), made.tokenizer(tmp_path / "other")
    Tokenization(other, 5)(texts.of_strings(["river of the mountain in the very river"]))
    assert tokens.digest(folder) == tokens.digest(other)
    left = made.tokenizer(tmp_path / "left")
    settings = Path(left, "tokenizer_config.json")
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "truncation_side": "left"}))
    assert tokens.digest(left) != tokens.digest(folder)


def test_a_model_of_one_text_of_a_pair_gets_its_tokens_alone(folder: str) -> None:
    how = Tokenization(folder)
    one, other = texts.of_strings(["river", "goal"]), texts.of_strings(["mountain", "match"])
    x = Columns({"text": one, "text_pair": other}, derived={how: how(one, other)})
    alone = Collator(("text",), how)(x, np.arange(2))
    assert isinstance(alone, NamedInputs) and alone.padded()[IDS].shape == (2, 3)
    kept = tokens_stage._takes_texts  # a run that has its tokens drops texts which no model takes
    assert kept(Collator(("text",), how), {"text", "text_pair"}) and not kept(Collator(("text",), how), {"text"})
    assert not kept(Collator(None, how), {"text", "text_pair"}) and kept(Collator(None, None), {"text"})
    together = batch(x, how, [0, 1]).padded()
    assert together[IDS].shape == (2, 5) and together.keys() == {IDS, TYPES, "attention_mask"}
