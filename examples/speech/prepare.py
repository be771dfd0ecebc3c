"""Builds `frames.npz` from telephone-prompt recordings: log-mel frames, phone-state labels, splits.

The recordings are Debian packages of free voice prompts, 16 kHz G.722:

    apt-get install asterisk-core-sounds-en asterisk-core-sounds-{en,es,fr,it}-g722
    pip install imageio-ffmpeg pocketsphinx
    python prepare.py --sounds /usr/share --out frames.npz

The English prompts come with transcripts. `pocketsphinx` aligns each prompt with its words, and every
phone is cut into three states of equal length: those are the frame labels that the nets learn, as in
hybrid speech recognition, where the labels come from an older system's alignment. The other languages
have no transcripts here: they are what only an ensemble can label. The same packages give the same file.
"""

import argparse
import gzip
import lzma
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pocketsphinx
from numpy.typing import NDArray

RATE = 16_000
HOP = 160
WINDOW = 400
CHANNELS = 40
STATES = 3
SILENCE = "SIL"
LABELLED_VOICE = "en_US_f_Allison"

# Nats between two codes. A log-mel value of noise-like speech scatters by about half a nat from one
# frame to the next, so that neither step costs information that a net could use.
STEP = 0.2
UNLABELLED_STEP = 0.8

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

SPELLINGS = {
    "exclaimation": "exclamation",
    "fourtieth": "fortieth",
    "indentified": "identified",
    "represenatives": "representatives",
    "umute": "unmute",
    "witheld": "withheld",
    "www": "w w w",
    "xray": "x ray",
    "#": "pound",
    "*": "star",
    **dict(zip("0123456789", DIGITS, strict=True)),
}

PRONUNCIATIONS = {
    "backtick": "B AE K T IH K",
    "caret": "K AE R AH T",
    "dahdi": "D AA D IY",
    "digium": "D IH JH IY AH M",
    "forevermore": "F ER EH V ER M AO R",
    "lowercase": "L OW ER K EY S",
    "prepend": "P R IY P EH N D",
    "prepending": "P R IY P EH N D IH NG",
    "rerecord": "R IY R AH K AO R D",
    "semicolon": "S EH M IY K OW L AH N",
    "touchtone": "T AH CH T OW N",
    "undelete": "AH N D IH L IY T",
    "undeleted": "AH N D IH L IY T AH D",
    "unistim": "Y UW N IH S T IH M",
    "unmute": "AH N M Y UW T",
    "unmuted": "AH N M Y UW T AH D",
    "uppercase": "AH P ER K EY S",
    "waldo's": "W AA L D OW Z",
}


@dataclass(frozen=True)
class Utterance:
    """One prompt: its words, its frames, and the phone-state label of every frame."""

    name: str
    words: str
    frames: NDArray[np.float32]
    phones: list[tuple[str, int, int]]


def main() -> None:
    arguments = parse_arguments()
    sounds: Path = arguments.sounds / "asterisk" / "sounds"
    texts = arguments.sounds / "doc" / "asterisk-core-sounds-en" / "core-sounds-en.txt.gz"
    for path in (sounds / LABELLED_VOICE, texts):
        if not path.exists():
            raise SystemExit(
                f"--sounds {arguments.sounds}: found no {path}, expected the unpacked packages "
                "asterisk-core-sounds-en and asterisk-core-sounds-en-g722; install them or name "
                "the folder that holds asterisk/ and doc/"
            )
    dictionary = read_dictionary()
    utterances = list(align_all(sounds / LABELLED_VOICE, read_transcripts(texts), dictionary))
    unlabelled = {
        folder.name: [log_mel(decode(path)) for path in recordings(folder)]
        for folder in sorted(sounds.iterdir())
        if folder.is_dir() and folder.name != LABELLED_VOICE
    }
    np.savez_compressed(arguments.out, **pack(utterances, unlabelled, dictionary, arguments.seed))
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build frames.npz from the Debian packages.")
    parser.add_argument("--sounds", type=Path, default=Path("/usr/share"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("frames.npz"))
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    return parser.parse_args()


def recordings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.g722") if path.parent.name != "silence")


def decode(path: Path) -> NDArray[np.int16]:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "g722", "-i", str(path)]
    command += ["-ar", str(RATE), "-ac", "1", "-f", "s16le", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.int16)


def log_mel(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """[frames, 40] natural logarithms of mel-band energies, 25 ms windows every 10 ms."""
    signal = samples.astype(np.float64)
    signal = np.append(signal[:1], signal[1:] - 0.97 * signal[:-1])
    signal = np.pad(signal, (0, max(0, WINDOW - len(signal))))
    windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hamming(WINDOW), 512)) ** 2
    # One unit of a 16-bit sample's variance as the floor: digital silence stays finite.
    return np.asarray(np.log(power @ mel_filters(512).T + WINDOW), dtype=np.float32)


def mel_filters(size: int, low: float = 64.0, high: float = 7600.0) -> NDArray[np.float64]:
    """[40, size / 2 + 1] triangles, evenly spaced on the mel scale between two frequencies."""
    edges = 700 * (np.geomspace(1 + low / 700, 1 + high / 700, CHANNELS + 2) - 1)
    bins = np.fft.rfftfreq(size, 1 / RATE)[None, :]
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.clip(np.minimum(rising, falling), 0, None)


def read_transcripts(path: Path) -> dict[str, str]:
    """Prompt name -> text without remarks in brackets; lines are `name: text`, `;` starts a comment."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        pairs = [line.partition(":") for line in lines if not line.startswith(";")]
    texts = {name.strip(): re.sub(r"\[.*?\]|\(.*?\)|<.*?>", " ", text) for name, _, text in pairs}
    return {name: text for name, text in texts.items() if text.strip()}


def read_dictionary() -> dict[str, list[list[str]]]:
    """Word -> its pronunciations: pocketsphinx's own dictionary and the words it lacks."""
    dictionary: dict[str, list[list[str]]] = {}
    path = Path(pocketsphinx.get_model_path("en-us/cmudict-en-us.dict"))
    for line in path.read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        dictionary.setdefault(word.partition("(")[0], []).append(phones)
    return dictionary | {word: [phones.split()] for word, phones in PRONUNCIATIONS.items()}


def to_words(text: str, dictionary: dict[str, list[list[str]]]) -> list[str]:
    """The words as they are spoken: digits one by one, unknown capitals (PBX) letter by letter."""
    words: list[str] = []
    for token in re.findall(r"[A-Za-z]+(?:'[A-Za-z]+)*|[0-9*#]", text):
        word = SPELLINGS.get(token.lower(), token.lower())
        spelled = token.isupper() and token.isalpha() and word not in dictionary
        words += list(word) if spelled else word.split()
    return words


def align_all(folder: Path, texts: dict[str, str], dictionary: dict[str, list[list[str]]]) -> Iterator[Utterance]:
    """Every prompt that has a transcript and can be aligned; what is left out is printed."""
    decoder = pocketsphinx.Decoder(lm=None, loglevel="FATAL", samprate=RATE)
    for word, phones in PRONUNCIATIONS.items():
        decoder.add_word(word, phones, True)
    for path in recordings(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        words = to_words(texts.get(name, ""), dictionary)
        unknown = [word for word in words if word not in dictionary]
        if not words or unknown:
            print(f"{name}: left out, " + (f"unknown words {unknown}" if unknown else "no words"))
            continue
        samples = decode(path)
        phones_found = align(decoder, samples, words)
        if not phones_found:
            print(f"{name}: left out, no alignment of {' '.join(words)!r}")
            continue
        yield Utterance(name, " ".join(words), log_mel(samples), phones_found)


def align(decoder: pocketsphinx.Decoder, samples: NDArray[np.int16], words: list[str]) -> list[tuple[str, int, int]]:
    """(phone, first frame, frames) of a prompt; empty where its words do not fit its sound."""
    decoder.set_align_text(" ".join(words))
    try:
        run(decoder, samples)
        decoder.set_alignment()
        run(decoder, samples)
    except RuntimeError:  # what pocketsphinx raises where no path through the words survives
        return []
    alignment = decoder.get_alignment()
    if alignment is None:
        return []
    # Breaths and clicks are pocketsphinx's "+NSN+" and its kind: not speech, hence silence.
    return [
        (SILENCE if phone.name.startswith("+") else phone.name, phone.start, phone.duration)
        for phone in alignment.phones()
    ]


def run(decoder: pocketsphinx.Decoder, samples: NDArray[np.int16]) -> None:
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()


def frame_labels(phones: list[tuple[str, int, int]], frames: int, classes: dict[str, int]) -> NDArray[np.uint8]:
    """Three states a phone, of equal length; what the alignment leaves at the end is silence."""
    labels = np.full(frames, classes[SILENCE] * STATES + STATES - 1, dtype=np.uint8)
    for phone, start, duration in phones:
        states = np.arange(duration) * STATES // duration
        labels[start : start + duration] = (classes[phone] * STATES + states)[: max(0, frames - start)]
    return labels


def split_by_text(texts: Iterable[str], lengths: Iterable[int], seed: int) -> NDArray[np.uint8]:
    """0 train, 1 validation, 2 test of each utterance: about 70/10/20 of the frames.

    Prompts that say the same fall on the same side, or the test would ask for what was learned.
    """
    frames_of: dict[str, int] = {}
    texts = list(texts)
    for text, length in zip(texts, lengths, strict=True):
        frames_of[text] = frames_of.get(text, 0) + length
    names = sorted(frames_of)
    order = np.random.default_rng(seed).permutation(len(names))
    before = np.cumsum([0] + [frames_of[names[i]] for i in order[:-1]]) / sum(frames_of.values())
    side = {names[i]: int(np.searchsorted([0.7, 0.8], at, "right")) for i, at in zip(order, before, strict=True)}
    return np.array([side[text] for text in texts], dtype=np.uint8)


def pack(
    utterances: list[Utterance],
    unlabelled: dict[str, list[NDArray[np.float32]]],
    dictionary: dict[str, list[list[str]]],
    seed: int,
) -> dict[str, Any]:
    """The arrays of `frames.npz`; `frames.py` reads them."""
    phones = sorted({phone for utterance in utterances for phone, _, _ in utterance.phones})
    classes = {phone: index for index, phone in enumerate(phones)}
    words = sorted({word for utterance in utterances for word in utterance.words.split()})
    lengths = [len(utterance.frames) for utterance in utterances]
    arrays: dict[str, Any] = {
        "phones": np.array(phones),
        "lexicon": np.array([f"{word} {' '.join(p)}" for word in words for p in dictionary[word]]),
        "names": np.array([utterance.name for utterance in utterances]),
        "transcripts": np.array([utterance.words for utterance in utterances]),
        "lengths": np.array(lengths, dtype=np.int32),
        "split": split_by_text((utterance.words for utterance in utterances), lengths, seed),
        "labels": np.concatenate([frame_labels(u.phones, len(u.frames), classes) for u in utterances]),
        "frames_step": np.array(STEP),
        "frames_xz": compress([utterance.frames for utterance in utterances], STEP),
    }
    for voice, voice_frames in unlabelled.items():
        arrays[f"{voice}_lengths"] = np.array([len(f) for f in voice_frames], dtype=np.int32)
        arrays[f"{voice}_step"] = np.array(UNLABELLED_STEP)
        arrays[f"{voice}_xz"] = compress(voice_frames, UNLABELLED_STEP)
    return arrays


def compress(frames: list[NDArray[np.float32]], step: float) -> NDArray[np.uint8]:
    """Rounded to `step`, as differences between neighbouring frames and channels, by xz."""
    codes = np.rint(np.concatenate(frames) / step).astype(np.uint8)
    for axis in (0, 1):
        codes = np.diff(codes, axis=axis, prepend=np.uint8(0))
    return np.frombuffer(lzma.compress(codes.tobytes(), preset=6), dtype=np.uint8)


if __name__ == "__main__":
    main()
