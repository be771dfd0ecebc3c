"""`data.max_length` is that of every model that takes texts and has none of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.run_config import RunConfig
from workers.errors import RequestError

DATA = {"kind": "text", "train": "a.jsonl", "test": "b.jsonl", "validation_share": 0.1, "max_length": 128}
TRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
NET = {"factory": "nets:lstm", "tokenizer": "encoder", "kwargs": {"tokenizer": "x"}}
COUNTS = {"factory": "nets:counts"}
ENCODER = {"kind": "transformers", "checkpoint": "encoder"}


def config(folder: Path, data: dict[str, Any], student: dict[str, Any], *models: dict[str, Any]) -> RunConfig:
    groups = [{"model": model, "size": 1, "training": TRAINING} for model in models]
    found = {"name": "small", "data": data, "ensemble": {"members": groups}}
    return RunConfig.from_mapping({**found, "student": {"model": student, "training": TRAINING}}, str(folder))


def test_every_model_of_texts_has_the_length_of_the_data(tmp_path: Path) -> None:
    found = config(tmp_path, DATA, NET, ENCODER, {**NET, "max_length": 64}, COUNTS)
    assert [group.model.max_length for group in found.ensemble.groups] == [128, 64, None]
    assert found.student.model.max_length == 128 and found.student.model.kwargs == {"tokenizer": "x"}
    own = [{**model, "max_length": 128} for model in (NET, ENCODER)]
    written = {key: value for key, value in DATA.items() if key != "max_length"}
    alike = config(tmp_path, written, own[0], own[1], {**NET, "max_length": 64}, COUNTS)
    assert found.to_redacted_yaml() == alike.to_redacted_yaml(), "so the keys of what is reused are the same"


def test_of_masked_texts_the_masks_have_it(tmp_path: Path) -> None:
    masking = {"tokenizer": "encoder"}
    model = {**ENCODER, "task": "masked-lm"}
    found = config(tmp_path, {**DATA, "masking": masking}, model, model)
    assert found.data.masking is not None and found.data.masking.max_length == 128
    assert found.student.model.max_length is None


def test_other_data_have_no_tokens(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="`max_length` belongs to kind 'text', not 'npz'"):
        config(tmp_path, {**DATA, "kind": "npz", "train": "a.npz", "test": "b.npz"}, COUNTS, COUNTS)
