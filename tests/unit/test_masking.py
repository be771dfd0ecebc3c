"""Masked language modelling: which tokens are chosen, what becomes of them, and networks that predict them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests import texts
from workers.data import loading, masking
from workers.data.collate import Collator
from workers.data.dataset import Dataset
from workers.data.labels import UNLABELLED
from workers.data.masking import Vocabulary
from workers.data.ragged import Ragged
from workers.data.tokens import IDS
from workers.errors import RequestError
from workers.models import predictor
from workers.models.ask import ask
from workers.models.transformers_module import TransformersPredictor
from workers.specs.data import DataSpec, MaskingSpec
from workers.specs.models import TransformersModel
from workers.trial import sequences

SIZE, MASK = 64, 4
VOCABULARY = Vocabulary(np.arange(SIZE) >= 5, MASK)


def spec(**also: Any) -> MaskingSpec:
    return MaskingSpec(tokenizer="unused", **also)


def ids(rows: int, length: int = 40, seed: int = 0) -> Ragged:
    draw = np.random.default_rng(seed)
    return Ragged.of([np.array([2, *draw.integers(5, SIZE, length), 3], np.int32) for _ in range(rows)])


def test_of_the_chosen_tokens_eighty_percent_are_masked_ten_replaced_and_ten_stay() -> None:
    given = ids(1000)
    weights = masking.weights_of(given, VOCABULARY, 0.7)
    x, labels = masking.masked(given, weights, VOCABULARY, spec(), copies=1, where="train")
    assert set(labels.lengths) == {6} and len(x) == 1000
    places = np.repeat(np.arange(1000) * 42, 6) + x.positions.flat
    made, before = x.columns[IDS].flat[places], given.flat[places]
    np.testing.assert_array_equal(labels.flat, before)
    assert (made == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (made == before).mean() == pytest.approx(0.1 + 0.1 / 59, abs=0.015)
    others = np.setdiff1d(np.arange(len(given.flat)), places)
    np.testing.assert_array_equal(x.columns[IDS].flat[others], given.flat[others])
    assert not np.isin(before, [0, 1, 2, 3, 4]).any() and not np.isin(made, [0, 1, 2, 3]).any()


def test_rare_tokens_are_chosen_more_often() -> None:
    draw = np.random.default_rng(1)
    often = np.where(draw.random((2000, 20)) < 0.9, 10, 11)
    given = Ragged.of([row.astype(np.int32) for row in often])
    shares = {}
    for smoothing in (0.0, 0.7):
        weights = masking.weights_of(given, VOCABULARY, smoothing)
        _, labels = masking.masked(given, weights, VOCABULARY, spec(probability=0.1), copies=1, where="train")
        shares[smoothing] = (labels.flat == 11).mean()
    assert shares[0.0] == pytest.approx(0.1, abs=0.02)
    assert shares[0.7] == pytest.approx(0.1 * 9**0.7 / (0.1 * 9**0.7 + 0.9), abs=0.06)


def test_texts_are_masked_in_blocks_as_they_are_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ids(50)
    weights = masking.weights_of(given, VOCABULARY, 0.7)
    found = []
    for size in (2**22, 700):  # four texts a block
        monkeypatch.setattr(masking, "BLOCK_BYTES", size)
        x, labels = masking.masked(given, weights, VOCABULARY, spec(), copies=2, where="train")
        found.append([x.columns[IDS].flat, x.columns[IDS].lengths, x.positions.flat, labels.flat, labels.lengths])
    for once, in_blocks in zip(*found, strict=True):
        np.testing.assert_array_equal(once, in_blocks)


def test_masks_follow_from_example_copy_and_seed_and_not_from_the_rows_beside() -> None:
    given, weights = ids(6), masking.weights_of(ids(6), VOCABULARY, 0.7)

    def made(of: Ragged, copies: int = 1, seed: int = 0) -> list[list[int]]:
        x, _ = masking.masked(of, weights, VOCABULARY, spec(seed=seed), copies=copies, where="train")
        return [x.columns[IDS][k : k + 1].flat.tolist() for k in range(len(x))]

    assert made(given[:4]) == made(given)[:4]
    copies = made(given, copies=3)
    assert len(copies) == 18 and copies[:6] == made(given) and copies[6:12] != copies[:6]
    assert made(given, seed=1) != made(given)


def test_all_tokens_may_be_positions_and_only_masked_ones_have_labels() -> None:
    given = ids(4)
    weights = masking.weights_of(given, VOCABULARY, 0.7)
    x, labels = masking.masked(given, weights, VOCABULARY, spec(positions="all"), copies=2, where="train")
    assert x.positions.lengths.tolist() == [40] * 8 and labels.lengths.tolist() == [40] * 8
    assert (labels.flat != UNLABELLED).sum() == 6 * 8


def test_a_text_of_special_tokens_alone_is_refused() -> None:
    given = Ragged.of([np.array([2, 9, 3], np.int32), np.array([2, 3], np.int32)])
    with pytest.raises(RequestError, match="text 1 has no token"):
        masking.masked(given, masking.weights_of(given, VOCABULARY, 0.7), VOCABULARY, spec(), copies=1, where="train")


# --- a run's data and networks ----------------------------------------------------------------------------


def data(tmp_path: Path, *, empty: str = "", keys: dict[str, Any] | None = None, **also: Any) -> Dataset:
    for name, rows in (("train", texts.rows(60)), ("test", texts.rows(20, 100)), ("validation", texts.rows(20, 200))):
        given = [{"text": row["text"], "user": k // 4} for k, row in enumerate(rows)]
        texts.write_jsonl(tmp_path / f"{name}.jsonl", [] if name == empty else given)
    how = {"tokenizer": texts.tokenizer(tmp_path / "tokenizer"), **also}
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test", "validation")}
    return loading.load(DataSpec.model_validate({"kind": "text", "masking": how, **files, **(keys or {})}), 0)


def test_data_of_masked_texts_has_the_vocabulary_as_its_classes(tmp_path: Path) -> None:
    found = data(tmp_path, copies=2)
    assert found.classes == 26  # five special tokens, eleven words, ten digits
    assert len(found.train) == 120 and len(found.test) == 20
    assert (found.test.y >= 5).all() and len(found.test.y) == len(found.test.rows)
    assert not [note for note in found.notes if "class" in note]  # tokens are rare, or missing in a split, as they are


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
        ({"kind": "npz", "masking": how}, "expected kind 'text'"),
        ({"kind": "text", "masking": {**how, "copies": 2}}, "expected `validation`"),
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
