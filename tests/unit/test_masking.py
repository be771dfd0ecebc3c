"""Masked language modelling: which tokens are chosen, what becomes of them, and networks that predict them."""

from __future__ import annotations

import math
import pickle
import zlib
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.plan.facts import DataFacts
from orchestrator.plan.workload import Workload
from orchestrator.stages import tokens as tokens_stage
from orchestrator.stages.context import BaseContext
from tests import texts
from workers.data import loading, masked_texts, masking
from workers.data.arrays import spread
from workers.data.collate import Collator
from workers.data.dataset import Dataset
from workers.data.examples import Columns, arrays_of, take
from workers.data.labels import UNLABELLED
from workers.data.masked_texts import MaskedColumns, Masks
from workers.data.masking import Drawn, Masking, Vocabulary
from workers.data.ragged import Ragged
from workers.data.tokens import IDS
from workers.errors import RequestError
from workers.models import predictor
from workers.models.ask import ask
from workers.models.transformers_module import TransformersPredictor
from workers.specs.data import DataSpec, MaskingSpec
from workers.specs.models import TransformersModel
from workers.training.loader import HardLabels, batches
from workers.trial import sequences
from workers.trial.odd_rows import odd_rows

SIZE, MASK = 64, 4
VOCABULARY = Vocabulary(np.arange(SIZE) >= 5, MASK)


def ids(rows: int, length: int = 40, seed: int = 0) -> Ragged:
    draw = np.random.default_rng(seed)
    return Ragged.of([np.array([2, *draw.integers(5, SIZE, length), 3], np.int32) for _ in range(rows)])


def masking_of(given: Ragged, **also: Any) -> Masking:
    how = MaskingSpec(**{"tokenizer": "unused", **also})
    return Masking(how, VOCABULARY, np.ones(SIZE), how.positions, "").weighted(given)


def masked(given: Ragged, *, copies: int = 1, how: Masking | None = None, **also: Any) -> Drawn:
    """The copies of all texts, masked as those of train."""
    how = masking_of(given, **also) if how is None else how
    numbers = np.arange(copies * len(given))
    return masking.drawn(given[numbers % len(given)], masking.keys_of(len(numbers), how.spec.seed, "train"), how)


def mixed(value: int) -> int:
    """The finaliser of SplitMix64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ value >> shift) * factor % 2**64
    return value ^ value >> 31


@pytest.mark.parametrize("positions", ["masked", "all"])
def test_the_masks_of_a_text_a_copy_and_a_seed_stay_the_same(positions: str) -> None:
    """By their definition, so that soft targets and figures of one version hold in the next."""
    given, golden, key = ids(4), 0x9E3779B97F4A7C15, 0
    how = masking_of(given, seed=7, positions=positions)
    found = masked(given, copies=2, how=how)
    for seed in (7, zlib.crc32(b"train")):
        key = mixed((key + seed + golden) % 2**64)
    for number in range(8):
        own, before = mixed((number + key) % 2**64), given[number % 4 : number % 4 + 1].flat.tolist()

        def uniform(place: int, which: int, own: int = own) -> float:
            return ((mixed((own + (3 * place + which + 1) * golden) % 2**64) >> 11) + 1) * 2.0**-53

        arrivals = {at: -math.log(uniform(at, 0)) / how.weights[token] for at, token in enumerate(before) if token > 4}
        chosen = sorted(sorted(arrivals, key=lambda at: arrivals[at])[: round(0.15 * len(arrivals))])
        made = list(before)
        for at in chosen:
            other = 5 + int(uniform(at, 2) * (SIZE - 5))
            made[at] = MASK if uniform(at, 1) <= 0.8 else other if uniform(at, 1) <= 0.9 else made[at]
        every = sorted(arrivals) if positions == "all" else chosen
        row = slice(number, number + 1)
        assert found.tokens[row].flat.tolist() == made and found.positions[row].flat.tolist() == every
        assert found.labels[row].flat.tolist() == [before[at] if at in chosen else UNLABELLED for at in every]


def test_of_the_chosen_tokens_eighty_percent_are_masked_ten_replaced_and_ten_stay() -> None:
    given = ids(1000)
    found = masked(given)
    assert set(found.labels.lengths) == {6} and len(found.tokens) == 1000
    places = np.repeat(np.arange(1000) * 42, 6) + found.positions.flat
    made, before = found.tokens.flat[places], given.flat[places]
    np.testing.assert_array_equal(found.labels.flat, before)
    assert (made == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (made == before).mean() == pytest.approx(0.1 + 0.1 / 59, abs=0.015)
    others = np.setdiff1d(np.arange(len(given.flat)), places)
    np.testing.assert_array_equal(found.tokens.flat[others], given.flat[others])
    assert not np.isin(before, [0, 1, 2, 3, 4]).any() and not np.isin(made, [0, 1, 2, 3]).any()


def test_rare_tokens_are_chosen_more_often() -> None:
    draw = np.random.default_rng(1)
    often = np.where(draw.random((2000, 20)) < 0.9, 10, 11)
    given = Ragged.of([row.astype(np.int32) for row in often])
    shares = {
        smoothing: (masked(given, smoothing=smoothing, probability=0.1).labels.flat == 11).mean()
        for smoothing in (0.0, 0.7)
    }
    assert shares[0.0] == pytest.approx(0.1, abs=0.02)
    assert shares[0.7] == pytest.approx(0.1 * 9**0.7 / (0.1 * 9**0.7 + 0.9), abs=0.06)


def test_texts_are_masked_in_blocks_as_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ids(50)
    found = []
    for size in (2**22, 700):  # four texts a block
        monkeypatch.setattr(masking, "BLOCK_BYTES", size)
        monkeypatch.setattr(masked_texts, "BLOCK_BYTES", size)
        how = masking_of(given)
        positions = how.positions_of(masking.ordinary_of(given, how, "train"))
        masks = Masks.over(given, masking.keys_of(50, 0, "train"), how, positions)
        assert positions.tolist() == masks.drawn().positions.lengths.tolist()
        found.append([array for column in masks.drawn() for array in (column.flat, column.lengths)])
    for once, in_blocks in zip(*found, strict=True):
        np.testing.assert_array_equal(once, in_blocks)


def test_masks_follow_from_example_copy_and_seed_and_not_from_the_rows_beside() -> None:
    given = ids(6)

    def made(of: Ragged, copies: int = 1, seed: int = 0) -> list[list[int]]:
        found = masked(of, copies=copies, how=masking_of(given, seed=seed)).tokens
        return [found[k : k + 1].flat.tolist() for k in range(len(found))]

    assert made(given[:4]) == made(given)[:4]
    copies = made(given, copies=3)
    assert len(copies) == 18 and copies[:6] == made(given) and copies[6:12] != copies[:6]
    assert made(given, seed=1) != made(given)


def test_all_tokens_may_be_positions_and_only_masked_ones_have_labels() -> None:
    found = masked(ids(4), copies=2, positions="all")
    assert found.positions.lengths.tolist() == [40] * 8 and found.labels.lengths.tolist() == [40] * 8
    assert (found.labels.flat != UNLABELLED).sum() == 6 * 8


def test_a_text_of_special_tokens_alone_is_refused() -> None:
    given = Ragged.of([np.array([2, 9, 3], np.int32), np.array([2, 3], np.int32)])
    for rows, message in ((None, "text 1 has no token"), (np.array([4, 9]), "text 9 has no token")):
        with pytest.raises(RequestError, match=message):
            masking.ordinary_of(given, masking_of(given), "train", rows)


def test_without_smoothing_masks_do_not_follow_from_the_counts_of_tokens(tmp_path: Path) -> None:
    tokenizer = texts.tokenizer(tmp_path / "tokenizer")
    for smoothing in (0.0, 0.7):
        how = masking_of(ids(4), tokenizer=tokenizer, smoothing=smoothing)
        assert (replace(how, counted="others").identity == how.identity) == (smoothing == 0.0)


# --- a run's data and networks ----------------------------------------------------------------------------


def asked(tmp_path: Path, *, empty: str = "", keys: dict[str, Any] | None = None, **also: Any) -> DataSpec:
    """A request for data of 60 texts for training. empty: a split without texts. also: of the masking."""
    sizes = {"train": (60, 0), "test": (20, 100), "validation": (20, 200), "more": (10, 300)}
    for name, (count, first) in sizes.items():
        given = [{"text": row["text"], "user": k // 4} for k, row in enumerate(texts.rows(count, first))]
        texts.write_jsonl(tmp_path / f"{name}.jsonl", [] if name == empty else given)
    how = {"tokenizer": texts.tokenizer(tmp_path / "tokenizer"), **also}
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test", "validation")}
    return DataSpec.model_validate({"kind": "text", "masking": how, **files, **(keys or {})})


def data(tmp_path: Path, *, empty: str = "", keys: dict[str, Any] | None = None, **also: Any) -> Dataset:
    return loading.load(asked(tmp_path, empty=empty, keys=keys, **also), 0)


def of_train(found: Dataset) -> MaskedColumns:
    assert isinstance(found.train.x, MaskedColumns)
    return found.train.x


def assert_same(one: Columns, other: Columns) -> None:
    """Raises unless two splits have the same masked tokens and positions."""
    for x, y in ((one.columns[IDS], other.columns[IDS]), (one.positions, other.positions)):
        assert isinstance(x, Ragged) and isinstance(y, Ragged)
        np.testing.assert_array_equal(x.lengths, y.lengths)
        np.testing.assert_array_equal(x.flat, y.flat)


def test_data_of_masked_texts_has_the_vocabulary_as_its_classes(tmp_path: Path) -> None:
    found = data(tmp_path, copies=2)
    assert found.classes == 26  # five special tokens, eleven words, ten digits
    assert len(found.train) == 120 and len(found.test) == 20
    assert (found.test.y >= 5).all() and len(found.test.y) == len(found.test.rows)
    assert not [note for note in found.notes if "class" in note]  # tokens are rare, or missing in a split, as they are


def test_some_rows_have_the_masks_that_they_have_among_all(tmp_path: Path) -> None:
    found = data(tmp_path, copies=2, keys={"unlabeled": str(tmp_path / "more.jsonl")})
    transfer, picked = found.transfer, np.array([130, 3, 77, 3])
    x = transfer.x
    assert isinstance(x, MaskedColumns) and len(transfer) == 140
    whole, some = x[:], x[picked]
    assert_same(some, whole[picked])
    assert_same(some, take(x, picked)[:])  # type: ignore[index]
    assert_same(some, pickle.loads(pickle.dumps(x))[picked])
    names = found.numbering.of(picked)
    assert some.positions is not None and names.positions is not None
    np.testing.assert_array_equal(names.positions, some.positions.flat)
    assert found.numbering.example_ids(picked).tolist() == [60, 3, 17, 3]
    np.testing.assert_array_equal(found.numbering.view_of(picked), [1, 0, 1, 0])
    for k, row in enumerate(picked):
        before, where = x.columns[IDS][row : row + 1].flat, some.positions[k : k + 1].flat  # type: ignore[union-attr]
        wanted = before[where] if row < 120 else np.full(len(where), UNLABELLED)
        np.testing.assert_array_equal(transfer.labels_of(picked[k : k + 1]), wanted)
    np.testing.assert_array_equal(found.train.y, transfer.y[: len(found.train.rows)])


def test_messages_name_the_row_that_an_example_is_a_copy_of(tmp_path: Path) -> None:
    found = data(tmp_path, copies=2, keys={"unlabeled": str(tmp_path / "more.jsonl"), "transfer_share": 0.5})
    assert [found.given_row(split, 13) for split in ("train", "validation", "test")] == [13, 13, 13]
    assert found.given_row("train", 73) == 13 and found.drawn is not None
    assert [found.given_row("unlabeled", k) for k in range(10)] == (found.drawn % 10).tolist()
    assert all(row.row < 60 for row in odd_rows(found) if row.split == "train")


def test_copies_share_their_tokens_in_memory(tmp_path: Path) -> None:
    tokens = of_train(data(tmp_path, copies=3)).columns[IDS]
    assert isinstance(tokens, Ragged) and 3 * sum(map(len, tokens.arrays)) == tokens.lengths.sum()


def test_with_all_tokens_as_positions_systems_are_measured_on_masked_ones(tmp_path: Path) -> None:
    found, usual = data(tmp_path, positions="all"), data(tmp_path)
    assert len(found.train.y) == len(found.train.rows) > len(usual.train.rows) == (found.train.y >= 0).sum()
    np.testing.assert_array_equal(found.test.y, usual.test.y)
    assert_same(found.test.x[:], usual.test.x[:])  # type: ignore[arg-type]
    assert found.digests["test"] == usual.digests["test"] and found.digests["train"] != usual.digests["train"]


def test_two_workers_draw_the_masks_of_one(tmp_path: Path) -> None:
    train, cpu = HardLabels(data(tmp_path, copies=2).train), torch.device("cpu")
    cuts = [batches(train, 0, 16, 0, cpu, rank=rank, world=2) for rank in range(2)]
    for batch, *parts in zip(batches(train, 0, 16, 0, cpu), *cuts, strict=True):
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
        values = [each.x.columns[IDS].values for each in (batch, *parts)]  # type: ignore[union-attr]
        assert torch.equal(torch.cat(values[1:]), values[0]) and {part.rows for part in parts} == {batch.rows}


@pytest.mark.parametrize("positions", ["masked", "all"])
def test_each_mask_of_an_epoch_is_drawn_once(tmp_path: Path, positions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the worker that learns from it; the number of all labels follows from lengths."""
    found = data(tmp_path, copies=2, positions=positions, keys={"unlabeled": str(tmp_path / "more.jsonl")})
    train, cpu, draw, rows = HardLabels(found.transfer), torch.device("cpu"), masking.drawn, list[int]()

    def drawn(given: Ragged, keys: Any, how: Masking) -> Drawn:
        rows.append(len(keys))
        return draw(given, keys, how)

    monkeypatch.setattr(masking, "drawn", drawn)
    cuts = [[*batches(train, 0, 16, 0, cpu, rank=rank, world=2)] for rank in range(2)]
    assert sum(rows) == 140
    for parts in zip(*cuts, strict=True):
        labelled = sum(int((part.labels != UNLABELLED).sum()) for part in parts)
        assert {part.labelled_rows for part in parts} == {labelled}


def test_a_sample_of_texts_stands_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = np.array([5, 5, 1, 5, 5, 5, 9, 5, 5])
    rows, stands = masked_texts.sampled(sizes)
    assert rows.tolist() == stands.tolist() == list(range(9))
    monkeypatch.setattr(masked_texts, "SAMPLE", 3)
    monkeypatch.setattr(masked_texts, "ENDS", 1)
    rows, stands = masked_texts.sampled(sizes)
    assert rows[stands].tolist() == [0, 0, 2, 0, 4, 4, 6, 4, 8]


def test_data_know_their_size_and_digests_before_all_texts_are_tokenized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = asked(tmp_path, copies=2)
    complete = loading.load(spec, 0)
    monkeypatch.setattr(masked_texts, "SAMPLE", 24)
    monkeypatch.setattr(masked_texts, "ENDS", 2)
    part, whole = loading.load(spec, 0), loading.load_whole(spec, 0)
    assert len(part.train) == len(complete.train) and part.digests == complete.digests == whole.digests
    assert part.train.rows.mean == pytest.approx(complete.train.rows.mean, rel=0.3)
    assert of_train(part).columns[IDS].lengths.tolist() != of_train(complete).columns[IDS].lengths.tolist()  # type: ignore[union-attr]
    assert_same(of_train(whole)[:], of_train(complete)[:])
    np.testing.assert_array_equal(whole.test.y, complete.test.y)
    few = part.sampled(0.1, 6)
    assert len(few.train) == 12 and len(of_train(few).texts.columns) == 12  # type: ignore[union-attr]
    assert isinstance(few.test.x, MaskedColumns) and few.test.x.masks.how.counted == of_train(few).source
    np.testing.assert_array_equal(of_train(few).texts.rows, np.unique(spread(120, 12) % 60))  # type: ignore[union-attr]
    assert [Workload.of(each).tokenized for each in (part, whole, few)] == [100, 100, 52]
    assert Workload.of(part).of_size(240).tokenized == 175  # texts of 280 examples instead of 160


def test_an_export_tokenizes_no_unlabelled_texts(tmp_path: Path) -> None:
    spec = asked(tmp_path, keys={"unlabeled": str(tmp_path / "more.jsonl")})
    looked_up: list[str] = []
    found = loading.load_whole(spec, 0, lambda source, how: looked_up.append(source))
    assert len(looked_up) == 3
    assert isinstance(found.unlabeled, MaskedColumns) and found.unlabeled.texts is not None
    assert of_train(found).texts is None and found.digests == loading.load(spec, 0).digests


def test_texts_that_are_too_long_are_counted_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a sample about."""
    config = texts.config(vocab_size=26, max_position_embeddings=6)
    model = TransformersModel(kind="transformers", task="masked-lm", config=config, classes=26)
    found = data(tmp_path, copies=2)
    count = int((of_train(found).masks.tokens.lengths[:60] > 6).sum())
    with pytest.raises(RequestError, match=rf"data\.train: {count} texts have more tokens than the 6 positions"):
        sequences.check_tokens({"m": model}, found)
    monkeypatch.setattr(masked_texts, "SAMPLE", 8)
    monkeypatch.setattr(masked_texts, "ENDS", 2)
    with pytest.raises(RequestError, match=r"data\.train: about \d+ texts have more tokens than the 6 positions"):
        sequences.check_tokens({"m": model}, data(tmp_path, copies=2))


def test_a_plan_counts_the_texts_that_are_still_to_be_tokenized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_texts, "SAMPLE", 24)
    monkeypatch.setattr(masked_texts, "ENDS", 2)
    part = data(tmp_path, copies=2)
    waiting = [x.texts.columns for x in part.inputs.values() if isinstance(x, MaskedColumns) and x.texts is not None]
    held = {id(a): a.nbytes for x in (*waiting, *part.inputs.values()) for a in arrays_of(x)}
    assert waiting and DataFacts.of(part).held == sum(held.values())
    assert 0 < DataFacts.of(part).texts < sum(held.values())


def test_a_run_tokenizes_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that from which the validation split is drawn."""
    whole = data(tmp_path)
    monkeypatch.setattr(masked_texts, "SAMPLE", 8)
    monkeypatch.setattr(masked_texts, "ENDS", 2)
    begun, made, notes = data(tmp_path, keys={"validation": None}, max_length=6), list[str](), list[str]()

    def obtained(_: Any, x: Columns, how: Any, key: Any, found: Any) -> Any:
        made.append(key.digest)
        return how(x.columns["text"])

    monkeypatch.setattr(tokens_stage, "_obtained", obtained)
    artifacts = SimpleNamespace(obtain_all=lambda keys: [None for _ in keys])
    events = SimpleNamespace(stage=lambda _: nullcontext(SimpleNamespace()), note=notes.append)
    parts: Any = {
        "config": SimpleNamespace(models={}),
        "machines": None,
        "heartbeat": None,
        "artifacts": artifacts,
        "events": events,
    }
    run = BaseContext(**parts)
    found = tokens_stage.tokenized(run, begun)
    assert len(made) == 2 and found.digests == begun.digests and of_train(found).texts is None
    (note,) = notes
    assert "of 60 texts of train" in note and "validation" not in note
    assert tokens_stage.tokenized(run, found) is found

    begun = data(tmp_path, keys={"validation": None})
    found, held = tokens_stage.tokenized(run, begun), np.setdiff1d(np.arange(60), begun.kept)
    assert isinstance(found.validation.x, MaskedColumns) and len(held) == 6
    assert_same(found.validation.x[:], of_train(whole)[held])


def test_splits_that_share_texts_are_found_whatever_their_masks(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data\.train and data\.test are the same examples"):
        data(tmp_path, copies=2, keys={"test": str(tmp_path / "train.jsonl")})
    texts.write_jsonl(tmp_path / "mixed.jsonl", texts.rows(20, 50))
    found = data(tmp_path, copies=2, keys={"test": str(tmp_path / "mixed.jsonl")})
    assert any(note.startswith("data.test: 10 of 20 examples are also in data.train") for note in found.notes)


def test_copies_and_groups_stay_together(tmp_path: Path) -> None:
    found = data(tmp_path, copies=3, keys={"group_column": "user", "transfer_share": 0.2})
    assert found.taught is not None
    of_group = np.bincount(found.taught % 60 // 4, minlength=15)
    assert sorted(of_group.tolist()) == [0] * 12 + [12] * 3


@pytest.mark.parametrize("empty", ["train", "test"])
def test_a_split_without_texts_is_refused(empty: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"data\.{empty}: no examples"):
        data(tmp_path, empty=empty)


def test_a_length_of_special_tokens_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data\.masking\.max_length: 2, and .* Expected at least 3"):
        data(tmp_path, max_length=2)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "albert", "electra", "mpnet"])
def test_logits_of_positions_are_those_of_all_tokens_at_them(tmp_path: Path, kind: str) -> None:
    found = data(tmp_path)
    keys = {
        "model_type": kind,
        "vocab_size": found.classes,
        "embedding_size": 8,
        "dim": 16,
        "n_layers": 1,
        "n_heads": 2,
    }
    torch.manual_seed(0)
    model = TransformersModel(kind="transformers", task="masked-lm", config=texts.config(**keys), classes=found.classes)
    module = TransformersPredictor.made(model).eval()
    x = predictor.collator(model)(found.test.x, np.arange(8))
    with torch.no_grad():
        at_positions = ask(module, x)
        whole = type(module).__mro__[2].forward(module, **x.padded()).logits
    assert at_positions.shape == (len(found.test.rows.rows(np.arange(8))), found.classes)
    torch.testing.assert_close(at_positions, x.at_positions(whole), rtol=1e-4, atol=1e-5)


def test_a_masked_language_model_is_saved_under_its_own_name_and_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import AutoModelForMaskedLM

    found = data(tmp_path)
    config = texts.config(vocab_size=found.classes)
    model = TransformersModel(
        kind="transformers",
        task="masked-lm",
        config=config,
        classes=found.classes,
        tokenizer=str(tmp_path / "tokenizer"),
    )
    module = TransformersPredictor.made(model)
    folder = tmp_path / "saved"
    folder.mkdir()
    for name, content in TransformersPredictor.companions(model).items():
        (folder / name).write_bytes(content)
    save_file(
        {name: value.contiguous().clone() for name, value in module.state_dict().items()}, folder / "model.safetensors"
    )
    again = AutoModelForMaskedLM.from_pretrained(folder)
    assert again.config.architectures == ["BertForMaskedLM"]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in module.state_dict().items())
    complete = TransformersPredictor.load(
        model.model_copy(update={"checkpoint": str(folder), "config": None}), str(folder)
    )
    x = Collator()(found.test.x, np.arange(3))
    torch.testing.assert_close(complete(x).logits, ask(module.eval(), x))


def test_a_smaller_vocabulary_is_refused(tmp_path: Path) -> None:
    found = data(tmp_path)
    config = texts.config(vocab_size=found.classes - 3)
    with pytest.raises(RequestError, match=rf"predicts {found.classes - 3} tokens, and `data.masking.tokenizer` has"):
        TransformersPredictor.made(
            TransformersModel(kind="transformers", task="masked-lm", config=config, classes=found.classes)
        )


def test_ids_that_pad_a_vocabulary_get_no_logits(tmp_path: Path) -> None:
    """The weights stay, also those of the padding."""
    found = data(tmp_path)
    config = texts.config(vocab_size=found.classes + 6)
    model = TransformersModel(kind="transformers", task="masked-lm", config=config, classes=found.classes)
    module: Any = TransformersPredictor.made(model).eval()
    x: Any = predictor.collator(model)(found.test.x, np.arange(8))
    with torch.no_grad():
        at_positions, whole = ask(module, x), module(**x.padded()).logits
    assert at_positions.shape[-1] == whole.shape[-1] == found.classes
    torch.testing.assert_close(at_positions, x.at_positions(whole), rtol=1e-4, atol=1e-5)
    assert module.state_dict()["cls.predictions.bias"].shape == (found.classes + 6,)


def test_a_network_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    found, masked_by = data(tmp_path), str(tmp_path / "tokenizer")
    config = texts.config(vocab_size=found.classes)
    model = TransformersModel(kind="transformers", task="masked-lm", config=config, tokenizer=masked_by)
    sequences.check({"ensemble.model": model}, found, masked_by)
    other = model.model_copy(update={"tokenizer": texts.tokenizer(tmp_path / "other", texts.WORDS[::-1])})
    with pytest.raises(RequestError, match=r"ensemble\.model: '\w+' is token \d+ of .*, which is `data\.masking\.tok"):
        sequences.check({"ensemble.model": other}, found, masked_by)


def test_masking_belongs_to_texts_and_copies_need_a_validation_file() -> None:
    how = {"tokenizer": "t"}
    for wrong, message in (
        ({"kind": "npz", "masking": how}, "`masking` belongs to kind 'text', not 'npz'"),
        ({"kind": "text", "masking": {**how, "copies": 2}}, "expected `validation`"),
        ({"kind": "text", "masking": how, "transfer_without": [1]}, "`transfer_without` leaves out"),
    ):
        with pytest.raises(ValueError, match=message):
            DataSpec.model_validate({"train": "a", "test": "b", **wrong})


def test_the_hidden_states_of_a_masked_language_model_are_of_all_tokens(tmp_path: Path) -> None:
    from workers.models.hidden import observe
    from workers.signals import Signal

    found = data(tmp_path)
    model = TransformersModel(
        kind="transformers", task="masked-lm", config=texts.config(vocab_size=found.classes), classes=found.classes
    )
    module: nn.Module = TransformersPredictor.made(model).eval()
    x = predictor.collator(model)(found.test.x, np.arange(4))
    seen = observe(module, x, {Signal.HIDDEN_STATES})
    assert seen.hidden_states[-1].shape[:2] == seen.mask.shape and seen.logits.shape[1] == found.classes
