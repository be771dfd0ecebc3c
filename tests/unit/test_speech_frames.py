"""The frames of `examples/speech`: windows and labels by split, and the utterances of test frames."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np

from workers.data import loading
from workers.specs.data import DataSpec
from workers.user_code import factories

EXAMPLE = Path(__file__).parents[2] / "examples" / "speech"
TRAIN, VALIDATION, TEST = 0, 1, 2


def written(path: Path, sides: list[int], lengths: list[int]) -> None:
    """An archive of small utterances, in the form of `prepare.py`. sides: the split of each."""
    codes = np.random.default_rng(0).integers(1, 40, (sum(lengths), 40)).astype(np.uint8)
    for axis in (0, 1):
        codes = np.diff(codes, axis=axis, prepend=np.uint8(0))
    np.savez(
        path,
        frames_xz=np.frombuffer(lzma.compress(codes.tobytes()), np.uint8),
        frames_step=np.array(0.2),
        lengths=np.array(lengths, np.int32),
        labels=np.concatenate([np.arange(length) % 3 for length in lengths]).astype(np.uint8),
        split=np.array(sides, np.uint8),
        lexicon=np.array(["a AA"]),
        transcripts=np.array(["a"] * len(sides)),
        phones=np.array(["AA"]),
    )


def test_test_frames_belong_to_their_utterances(tmp_path: Path) -> None:
    """Frames of an utterance resemble each other: intervals by single frames were too narrow."""
    sides = [TRAIN, TEST, VALIDATION, *[TEST] * 10, TRAIN]
    lengths = [30, *range(5, 5 + len(sides) - 2), 30]
    written(tmp_path / "frames.npz", sides, lengths)
    kwargs = {"path": str(tmp_path / "frames.npz"), "context": 1, "copies": 1}
    spec = DataSpec(kind="python", root=str(tmp_path), folder=str(EXAMPLE), factory="frames:splits", kwargs=kwargs)
    found = loading.load(spec, 0)
    of_test = [length for side, length in zip(sides, lengths, strict=True) if side == TEST]
    np.testing.assert_array_equal(found.groups["test"], np.repeat(np.arange(len(of_test)), of_test))
    assert len(found.test) == sum(of_test) and len(found.train) == 60 and found.unlabeled is not None


def test_windows_stop_at_the_utterance() -> None:
    frames = np.arange(6, dtype=np.float32)[:, None]
    windows = factories.load("frames:Windows", str(EXAMPLE))([frames[:3], frames[3:]], context=1)
    np.testing.assert_array_equal(windows[np.array([2, 3, 5])], [[1, 2, 2], [3, 3, 4], [4, 5, 5]])
    np.testing.assert_array_equal(windows[1:3], [[0, 1, 2], [1, 2, 2]])
    assert windows.shape == (6, 3) and len(windows) == 6
