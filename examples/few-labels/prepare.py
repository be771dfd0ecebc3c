"""Builds the data of few labels from those of `../textcnn`, and the lexicon for replaced words.

    pip download --no-deps -d wheels textblob==0.20.1
    python prepare.py wheels

`labelled.jsonl`: the first 500 labelled texts of `../textcnn/topics`. `unlabeled.jsonl`: all its other texts but those
of validation and test, without labels. `lexicon.tsv`: words of these texts with their part of speech and their count;
parts of speech are those of `textblob` (MIT), Brill's lexicon of the Brown corpus and the Penn Treebank (MIT) and
words of TweetNLP (CC BY 3.0). The same packages give the same files.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from workers.data.lexicon import CORE

HERE = Path(__file__).parent
TOPICS = HERE.parent / "textcnn" / "topics"
LABELLED = 500


def main(wheels: Path) -> None:
    wheel = next(wheels.glob("textblob-*.whl"), None)
    if wheel is None:
        raise SystemExit(f"{wheels}: no textblob-*.whl; expected what `pip download` fetches into it:\n{__doc__}")
    train, more = (rows(TOPICS / f"{name}.jsonl") for name in ("train", "unlabeled"))
    others = [{"text": row["text"]} for row in [*train[LABELLED:], *more]]
    write("labelled.jsonl", (json.dumps(row, ensure_ascii=False) for row in train[:LABELLED]))
    write("unlabeled.jsonl", (json.dumps(row, ensure_ascii=False) for row in others))
    tags = parts_of_speech(zipfile.ZipFile(wheel))
    counts = counted([row["text"] for row in [*train, *more]], tags)
    write("lexicon.tsv", (f"{word}\t{tags[word]}\t{count}" for word, count in sorted(counts.items())))


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a file that `../textcnn/prepare.py` writes. Raises: `SystemExit` where it is not there."""
    if not path.exists():
        raise SystemExit(f"no {path}; expected that `../textcnn/prepare.py` was run before, as its first lines say")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def parts_of_speech(archive: zipfile.ZipFile) -> dict[str, str]:
    """The likeliest part of speech of each word: a tag of the Penn Treebank, of letters; punctuation has others."""
    lines = archive.read("textblob/en/en-lexicon.txt").decode().splitlines()
    words = [line.split() for line in lines if not line.startswith(";;;")]
    return {of[0]: of[1] for of in words if len(of) > 1 and CORE.fullmatch(of[0]) and of[1].strip("$").isalpha()}


def counted(texts: Iterable[str], tags: dict[str, str]) -> Counter[str]:
    """How often the texts have each word of the lexicon; at the beginning of a sentence it may have a capital."""
    cores = (core[0] for text in texts for word in text.split() if (core := CORE.search(word)))
    known = (next((each for each in (core, core.lower()) if each in tags), None) for core in cores)
    return Counter(word for word in known if word is not None)


def write(name: str, lines: Iterable[str]) -> None:
    (HERE / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"expected a folder of packages as the one argument\n{__doc__}")
    main(Path(sys.argv[1]))
