"""The data of the speech experiment: windows of log-mel frames, and transfer inputs without labels.

An example is a frame with its ten neighbours on either side, 21 x 40 numbers; its class is one of
117 phone states. Windows overlap, so only the frames are kept in memory and each batch cuts its own.

Labelled speech is scarce here, a quarter of an hour. What a student learns from an ensemble is
bounded by the inputs that it may ask the ensemble about, so the transfer set grows in two ways that need
no label: perturbed copies of the training utterances, and prompts in other languages.
"""

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS = 40
SPLITS = ("train", "validation", "test")

Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Corpus:
    """The labelled utterances, and what a decoder has to know about them."""

    utterances: list[Frames]
    labels: list[NDArray[np.int64]]
    sides: list[str]
    transcripts: list[str]
    phones: list[str]
    lexicon: dict[str, list[list[str]]]

    def of(self, side: str) -> list[int]:
        """The indices of the utterances of one split, in the order of its examples."""
        return [index for index, found in enumerate(self.sides) if found == side]


def splits(
    path: str = "frames.npz",
    context: int = 10,
    copies: int = 4,
    speed: float = 0.1,
    warp: float = 0.06,
    gain: float = 0.3,
    voices: Mapping[str, int] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train, validation and test windows with their labels, and windows without any.

    Of each test frame also its utterance: frames of one utterance resemble each other, so that intervals are drawn by
    utterances.

    copies: perturbed copies of each training utterance, each with a tempo, a vocal-tract length and
    a loudness of its own: +-`speed` and +-`warp` as shares, `gain` as a deviation in nats.
    voices: the voices without transcripts to add, and how many frames of each (0: all).
    """
    corpus = read_corpus(path)
    mean, deviation = statistics([corpus.utterances[i] for i in corpus.of("train")])
    found: dict[str, Any] = {}
    for side in SPLITS:
        chosen = corpus.of(side)
        frames = [(corpus.utterances[i] - mean) / deviation for i in chosen]
        found[side] = Windows(frames, context), np.concatenate([corpus.labels[i] for i in chosen])
    lengths = [len(corpus.utterances[i]) for i in corpus.of("test")]
    found["test"] = (*found["test"], np.repeat(corpus.of("test"), lengths))

    generator = np.random.default_rng(seed)
    unlabelled = [
        (perturb(corpus.utterances[i], generator, speed, warp, gain) - mean) / deviation
        for _ in range(copies)
        for i in corpus.of("train")
    ]
    for voice, count in (voices or {}).items():
        utterances = read_voice(path, voice, count)
        # By its own statistics, which takes a voice's channel away and leaves its speech.
        mean, deviation = statistics(utterances)
        unlabelled += [(utterance - mean) / deviation for utterance in utterances]
    if unlabelled:
        found["unlabeled"] = Windows(unlabelled, context)
    return found


class Windows:
    """Every frame of some utterances, in order, with its neighbours: a column of examples that are made on access.

    A row is the frames from `context` before to `context` behind, the utterance's edge frame repeated outside it,
    flattened to [(2 * context + 1) * C]. So windows of 21 frames take the memory of one.
    """

    def __init__(self, utterances: list[Frames], context: int) -> None:
        """utterances: each [F, C] float32."""
        lengths = np.array([len(utterance) for utterance in utterances])
        ends = np.cumsum(lengths)
        self.context, self.frames = context, np.concatenate(utterances)
        self.positions = np.arange(len(self.frames))
        self.starts, self.ends = np.repeat(ends - lengths, lengths), np.repeat(ends, lengths)
        self.shape = (len(self.frames), (2 * context + 1) * self.frames.shape[1])
        self.dtype = self.frames.dtype

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, rows: Any, /) -> Frames:
        at = self.positions[rows]
        window = at[:, None] + np.arange(-self.context, self.context + 1)
        window = np.clip(window, self.starts[at][:, None], self.ends[at][:, None] - 1)
        found: Frames = self.frames[window].reshape(len(at), -1)
        return found


def perturb(utterance: Frames, generator: np.random.Generator, speed: float, warp: float, gain: float) -> Frames:
    """The same words by somebody a little faster or slower, smaller or taller, nearer or farther."""
    tempo = 1 + generator.uniform(-speed, speed)
    stretch = 1 + generator.uniform(-warp, warp)
    frames = np.arange(0, len(utterance) - 1e-6, tempo)
    moved = interpolate(utterance, frames)
    moved = interpolate(moved.T, np.arange(CHANNELS) * stretch).T
    return np.asarray(moved + generator.normal(0, gain), dtype=np.float32)


def interpolate(rows: Frames, at: NDArray[np.floating[Any]]) -> Frames:
    """Rows at fractional positions, linearly between neighbours, the last row beyond the end."""
    at = np.minimum(at, len(rows) - 1)
    below = at.astype(np.int64)
    above = np.minimum(below + 1, len(rows) - 1)
    share = (at - below).astype(np.float32)[:, None]
    return rows[below] * (1 - share) + rows[above] * share


def statistics(utterances: list[Frames]) -> tuple[Frames, Frames]:
    """Mean and standard deviation of each channel."""
    frames = np.concatenate(utterances)
    return frames.mean(axis=0), frames.std(axis=0)


def read_corpus(path: str = "frames.npz") -> Corpus:
    """The labelled part of what `prepare.py` wrote."""
    with np.load(locate(path), allow_pickle=False) as archive:
        lengths = archive["lengths"]
        labels = archive["labels"].astype(np.int64)
        lexicon: dict[str, list[list[str]]] = {}
        for entry in archive["lexicon"].tolist():
            word, *phones = entry.split()
            lexicon.setdefault(word, []).append(phones)
        return Corpus(
            utterances=np.split(decompress(archive, "frames"), np.cumsum(lengths)[:-1]),
            labels=np.split(labels, np.cumsum(lengths)[:-1]),
            sides=[SPLITS[side] for side in archive["split"]],
            transcripts=archive["transcripts"].tolist(),
            phones=archive["phones"].tolist(),
            lexicon=lexicon,
        )


def read_voice(path: str, voice: str, count: int = 0) -> list[Frames]:
    """The utterances of a voice without transcripts, as many as make up `count` frames (0: all)."""
    with np.load(locate(path), allow_pickle=False) as archive:
        known = [name.removesuffix("_xz") for name in archive.files if name.endswith("_xz")]
        if voice not in known[1:]:
            raise ValueError(f"voices: found {voice!r}, expected one of {known[1:]} as in {path}")
        ends = np.cumsum(archive[f"{voice}_lengths"])
        utterances = np.split(decompress(archive, voice), ends[:-1])
    return utterances[: int(np.searchsorted(ends, count)) + 1] if count else utterances


def decompress(archive: Mapping[str, NDArray[Any]], name: str) -> Frames:
    """Undoes `prepare.compress`: bytes of differences -> frames in nats."""
    codes = np.frombuffer(lzma.decompress(archive[f"{name}_xz"].tobytes()), dtype=np.uint8)
    codes = codes.reshape(-1, CHANNELS)
    for axis in (1, 0):
        codes = np.add.accumulate(codes, axis=axis, dtype=np.uint8)
    return codes.astype(np.float32) * np.float32(archive[f"{name}_step"])


def locate(path: str) -> Path:
    """A path as it stands, or beside this file."""
    found = Path(path) if Path(path).exists() else Path(__file__).with_name(path)
    if not found.exists():
        raise FileNotFoundError(f"path: found no {path}; `python prepare.py` builds it")
    return found
