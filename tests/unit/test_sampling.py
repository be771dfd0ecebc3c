"""`ensemble.sample`: what a member learns from, as ids that follow from its own seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from orchestrator.config.run_config import RunConfig
from orchestrator.stages import preflight
from tests.makers import blobs, settings
from workers import processes
from workers.data import sampling
from workers.data.dataset import Dataset, Split
from workers.data.labels import UNLABELLED
from workers.errors import RequestError
from workers.inference.teacher import Member
from workers.models import checkpoints
from workers.specs.members import ClassSample, MemberSample
from workers.specs.models import ModelSpec
from workers.specs.training import TrainingSpec
from workers.training import lessons, tasks
from workers.training.loader import HardLabels

SPECIAL = ClassSample(classes=(1, "b"), share=0.5)
SAMPLES: list[MemberSample] = ["all", "bootstrap", SPECIAL]


def data(n: int = 3000, classes: int = 6) -> Dataset:
    split = Split(*blobs(n, 1, classes=classes))
    return Dataset(split, Split(*blobs(100, 2, classes=classes)), split, None, classes, label_names=tuple("abcdef"))


def drawn(sample: MemberSample, of: Dataset, seed: int = 0, epoch: int = 0) -> Any:
    draw = sampling.draw_of(sample, of, seed)
    assert draw is not None
    return draw(epoch)


def test_a_bootstrap_sample_has_as_many_examples_and_two_thirds_of_them() -> None:
    of = data()
    ids = drawn("bootstrap", of)
    assert len(ids) == 3000 and ids.min() >= 0 and ids.max() < 3000
    assert len(np.unique(ids)) / 3000 == pytest.approx(1 - np.exp(-1), abs=0.02)
    np.testing.assert_array_equal(ids, drawn("bootstrap", of, epoch=7))  # one bag, in every epoch
    assert not np.array_equal(ids, drawn("bootstrap", of, seed=1))
    assert sampling.draw_of("all", of, 0) is None


def test_some_classes_make_up_their_share_of_every_epoch() -> None:
    of = replace(data(), label_names=())
    few = ClassSample(classes=(1, 2), share=0.75)
    ids = [drawn(few, of, epoch=epoch) for epoch in (0, 1, 0)]
    for each in ids:
        assert len(each) == 3000 and np.isin(of.train.y[each], (1, 2)).sum() == 2250
        rest = each[~np.isin(of.train.y[each], (1, 2))]
        assert len(np.unique(rest)) == len(rest) == 750  # there are enough of them
    np.testing.assert_array_equal(ids[0], ids[2])
    assert not np.array_equal(ids[0], ids[1])
    assert len(np.unique(ids[0])) < 3000  # of 1000 examples, with replacement


def test_examples_without_a_label_and_classes_that_a_part_lacks_are_not_drawn() -> None:
    y = np.array([0, 1, 2, UNLABELLED] * 10)
    found = sampling.of_classes(y, (1,), 0.25, [0])
    assert len(found) == 40 and (y[found] == 1).sum() == 10 and not (y[found] == UNLABELLED).any()
    assert {*y[sampling.of_classes(y, (7,), 0.25, [0])]} == {0, 1, 2}  # as in a part of the data


def test_the_loader_takes_the_drawn_examples_in_another_order_each_epoch() -> None:
    of = data(200)
    epochs = HardLabels(of.train, draw=sampling.draw_of("bootstrap", of, 3))
    (first,), (second,) = epochs.runs(0, 3), epochs.runs(1, 3)
    np.testing.assert_array_equal(np.sort(first.ids), np.sort(second.ids))
    np.testing.assert_array_equal(np.sort(first.ids), np.sort(drawn("bootstrap", of, 3)))
    assert len(epochs) == 200 and not np.array_equal(first.ids, second.ids)


def test_an_estimator_learns_from_the_drawn_examples() -> None:
    of = data(200)
    ids = drawn("bootstrap", of)
    given = lessons.hard(of.train, 6, 0, drawn=ids)
    np.testing.assert_array_equal(given.x, of.train.x[ids])
    np.testing.assert_array_equal(given.labels, of.train.y[ids])


def test_only_a_sample_is_in_the_key_and_a_name_is_its_class() -> None:
    of = data(200)
    assert sampling.determining("all", of) == {} and sampling.determining("bootstrap", of) == {"sample": "bootstrap"}
    numbered = {"sample": {"classes": (1,), "share": 0.5}}
    assert sampling.determining(SPECIAL, of) == sampling.determining(ClassSample(classes=("b",)), of) == numbered


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
@pytest.mark.parametrize("begun", [False, True])
def test_a_member_that_is_resumed_has_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: MemberSample, begun: bool
) -> None:
    monkeypatch.setattr(processes, "announce", MagicMock())
    settings(tmp_path)
    spec = ModelSpec(factory="models:mlp", kwargs={"classes": 6, "dropout": 0.3}, folder=str(tmp_path))
    training = TrainingSpec(epochs=3, batch_size=32, schedule="cosine")
    of, save = data(200), checkpoints.save_state
    initial = str(tmp_path / "initial.safetensors") if begun else None
    if initial is not None:
        torch.manual_seed(9)
        shapes = {"0.weight": (16, 8), "0.bias": (16,), "3.weight": (6, 16), "3.bias": (6,)}
        checkpoints.save({name: torch.randn(shape) for name, shape in shapes.items()}, initial)

    def trained(name: str) -> bytes:
        weights = tmp_path / name / "model.safetensors"
        job = tasks.MemberJob(
            Member("member-0", spec, str(weights)), training, 5, "key", 1, sample=sample, initial=initial
        )
        cast(Any, tasks.train_member)._function(job, of, MagicMock())
        return weights.read_bytes()

    def killed(state: Any, uri: str, key: str = "") -> None:
        save(state, uri, key)
        if len(state.get("history", ())) == 2:
            raise KeyboardInterrupt

    whole = trained("whole")
    monkeypatch.setattr(checkpoints, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        trained("killed")
    monkeypatch.setattr(checkpoints, "save_state", save)
    assert trained("killed") == whole


WRONG: dict[str, tuple[Any, str]] = {
    "no such class": ({"classes": [9]}, r"ensemble\.sample\.classes: there is no class 9; expected a number from 0"),
    "no such name": ({"classes": ["cat"]}, "there is no class 'cat'"),
    "a class without examples": (
        {"classes": [0, 3]},
        r"ensemble\.sample\.classes: class 3 has no labelled example in the training split\. Expected classes that it",
    ),
    "all classes": ({"classes": [0, 1, 2]}, "these are all classes of the training split, so that none is left"),
    "all of an epoch": ({"classes": [0], "share": 1}, r"sample\.share: found 1; expected less than 1"),
    "nothing of an epoch": ({"classes": [0], "share": 0}, r"sample\.share: found 0; expected greater than 0"),
    "no class": ({"classes": []}, r"sample\.classes: found \[\]; expected it to have at least 1 item"),
    "another name": ("bag", r"ensemble\.sample: found 'bag'; expected 'all' or 'bootstrap'"),
    "another key": ({"classes": [0], "part": 0.5}, r"sample\.part: unknown key"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_samples_are_refused(tmp_path: Path, case: str) -> None:
    sample, words = WRONG[case]
    changes: dict[str, Any] = {"ensemble__sample": sample, "data__classes": 4}
    with pytest.raises(RequestError, match=words):
        preflight.check(RunConfig.from_mapping(settings(tmp_path, **changes), str(tmp_path)))


def test_loaded_members_have_no_sample(tmp_path: Path) -> None:
    given = {"model": {"factory": "models:mlp"}, "checkpoints": ["a.pt"], "sample": "bootstrap"}
    with pytest.raises(RequestError, match="`sample` is of members that are trained, and these are loaded; leave it"):
        RunConfig.from_mapping(settings(tmp_path, ensemble=given), str(tmp_path))
