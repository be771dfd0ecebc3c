"""The digits of `examples/mnist` from idx files and shifted, and the drawing of `examples/omitted-class`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.makers import write_idx
from workers.data import loading
from workers.data.augment import Draws
from workers.specs.data import DataSpec
from workers.user_code import factories

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "mnist"


@pytest.mark.parametrize(("classes", "held"), [(10, 2), (12, 1)])
def test_images_of_a_folder(classes: int, held: int, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (90, 28, 28))
    for prefix, rows in (("train", slice(0, 60)), ("t10k", slice(60, 90))):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", images[rows])
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", np.arange(90)[rows] % classes)
    spec = DataSpec(
        kind="python",
        root=str(tmp_path),
        folder=str(EXAMPLE),
        factory="digits:splits",
        kwargs={"source": str(tmp_path), "validation": 20},
    )
    found = loading.load(spec, 0)
    sizes = {name: len(split) for name, split in (("train", found.train), ("test", found.test))}
    assert sizes == {"train": 60 - held * classes, "test": 30} and found.classes == classes
    assert np.bincount(found.validation.y[:]).tolist() == [held] * classes
    np.testing.assert_allclose(found.test.x[:], images[60:].reshape(30, -1) / 255, rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 6, 9)])
def test_shifts_move_images_and_keep_them(shape: tuple[int, int, int]) -> None:
    x = np.zeros((200, *shape), np.float32)
    x[:, :, 3, 4] = 1.0
    shifted = factories.load("digits:shifted", str(EXAMPLE))
    draws = Draws(np.arange(200, dtype=np.uint64))
    moved = shifted(x.reshape(200, -1), draws, pixels=2, shape=shape).reshape(x.shape)
    places = np.argwhere(moved[:, 0])
    assert places[:, 0].tolist() == list(range(200)) and moved.max() == 1.0
    assert {*map(tuple, places[:, 1:] - (3, 4))} == {(a, b) for a in range(-2, 3) for b in range(-2, 3)}
    assert (moved == moved[:, :1]).all()


def test_digits_of_some_classes_are_drawn_with_the_students_answers() -> None:
    student = nn.Linear(784, 10)
    x = np.random.default_rng(0).uniform(size=(60, 784)).astype(np.float32)
    y = np.arange(60) % 10
    drawn = factories.load("drawing:unseen", str(EXAMPLES / "omitted-class"))(student, x, y, classes=[3, 4], rows=1)
    answers = student(torch.from_numpy(x)).argmax(dim=-1).numpy()
    of = np.isin(y, [3, 4])
    ((title, figure),) = drawn.items()
    assert title == f"Test digits (3, 4), and the student's answers: {(answers == y)[of].sum()} of 12 are right"
    assert [axes.get_xlabel() for axes in figure.axes] == [str(k) for k in answers[of][:10]]
