"""Operations and bytes of a network, counted from its shapes; samples of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from orchestrator.config.run_config import RunConfig
from tests.makers import write_config
from workers.data import loading
from workers.models.profile import profile
from workers.specs.models import SklearnModel


def test_operations_of_a_network_are_counted(tmp_path: Path) -> None:
    config = RunConfig.load(str(write_config(tmp_path)))
    found = profile(config.student.model, np.zeros((10, 8), np.float32))
    hidden = config.student.model.kwargs["hidden"]  # type: ignore[union-attr]
    assert found is not None
    assert found.forward_flops == 2 * (8 * hidden + hidden * 3)  # a product is two operations
    assert found.parameters == 9 * hidden + (hidden + 1) * 3 and found.weight_bytes == 4 * found.parameters
    assert 4 * (8 + hidden) <= found.activation_bytes <= 4 * (8 + 3 * hidden)  # inputs, and each layer's outputs


def test_other_libraries_are_not_counted() -> None:
    model = SklearnModel(kind="sklearn", factory="sklearn.tree:DecisionTreeClassifier", folder="")
    assert profile(model, np.zeros((10, 8), np.float32)) is None


def test_a_sample_has_a_share_of_every_split(tmp_path: Path) -> None:
    config = RunConfig.load(str(write_config(tmp_path)))
    whole = loading.load(config.every_split, 0)
    few = whole.sampled(0.25, 100)
    assert len(few.train) == max(100, round(0.25 * len(whole.train)))
    assert len(few.test) == max(64, round(0.25 * len(whole.test))) and few.classes == whole.classes
    rows = few.numbering.of(np.arange(len(few.train))).example_ids
    assert (np.load(tmp_path / "train.npz")["y"][rows] == few.train.y).all()
    assert few.digests["train"] != whole.digests["train"]
    every = whole.sampled(1.0, 1)
    assert len(every.train) == len(whole.train) and every.digests["test"] == whole.digests["test"]
