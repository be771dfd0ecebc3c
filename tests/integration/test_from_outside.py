"""One run of which every kind comes from a package outside of this tree, as a user installs one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests import commands
from tests.integration.test_objective_in_a_run import OWN as TERMS

pytestmark = pytest.mark.slow

PACKAGE = '''
"""Texts of letters, tagged letter by letter: is the letter a vowel, behind a vowel, or neither?"""

import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from workers.data.collate import Collator, NamedInputs
from workers.data.examples import Columns
from workers.data.ragged import Ragged
from workers.models.predictor import Outputs, Predictor

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Lines:
    """A data kind: a file with a text a line."""

    def __init__(self, shift=0):
        self.shift = shift

    def __call__(self, uri):
        words = [np.array([LETTERS.index(c) for c in line]) + self.shift for line in open(uri).read().split()]
        vowels = [np.isin(word - self.shift, [0, 4, 8, 14, 20]) for word in words]
        tags = [np.where(v, 1, np.where(np.roll(v, 1) & (np.arange(len(v)) > 0), 2, 0)) for v in vowels]
        return Columns({"letters": Ragged.of(words), "length": np.array([[len(w)] for w in words], np.float32)}), tags


def louder(x, draws):
    """An augmentation: noise on the dense column, letters as they are."""
    return {**x, "length": x["length"] + draws.normal(1)}


class Tagger(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed, self.out = nn.Embedding(40, width), nn.Linear(2 * width, 3)

    def forward(self, letters, attention_mask):
        x = self.embed(letters) * attention_mask.unsqueeze(-1)
        return self.out(torch.cat([x, nn.functional.pad(x[:, :-1], (0, 0, 1, 0))], -1))


@dataclass(frozen=True)
class Windows(Collator):
    """A collator: each letter with the one before it, instead of padded rows."""

    def __call__(self, x, rows, room=None, *, narrow=False):
        letters = x[rows].columns["letters"]
        before = np.concatenate([np.concatenate([[-1], row[:-1]]) for row in rowwise(letters)])
        return Pairs(torch.from_numpy(np.stack([letters.flat, before], 1)), letters.lengths)


def rowwise(ragged):
    return np.split(ragged.flat, np.cumsum(ragged.lengths)[:-1])


class Pairs(NamedInputs):
    """Batches of that collator."""

    def __init__(self, pairs, lengths):
        super().__init__({"pairs": pairs}, Ragged.packed(np.concatenate([np.arange(n) for n in lengths]), lengths))
        object.__setattr__(self, "lengths", lengths)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, rows):
        start, stop, _ = rows.indices(len(self))
        begin, end = int(self.lengths[:start].sum()), int(self.lengths[:stop].sum())
        return Pairs(self.columns["pairs"][begin:end], self.lengths[start:stop])

    def to(self, device, *, non_blocking=False):
        return self

    def widened(self):
        return self


class Table(Predictor):
    """A model kind: counts of tags by pairs of letters, in a file of JSON."""

    @classmethod
    def collator(cls, model):
        return Windows()

    @classmethod
    def load(cls, model, weights):
        made = cls()
        made.vowels = json.load(open(weights))
        return made

    def __call__(self, x, precision="float32"):
        pairs = x.columns["pairs"]
        now, before = (torch.isin(pairs[:, k] - 1, torch.tensor(self.vowels)) for k in range(2))
        tag = torch.where(now, 1, torch.where(before, 2, 0))
        return Outputs(3.0 * nn.functional.one_hot(tag, 3).float())


def surest(probabilities):
    """A rule of member weights."""
    return probabilities.max(dim=-1).values


def vowels_found(probabilities, labels):
    """A metric."""
    return {"vowels found": float((probabilities.argmax(1)[labels == 1] == 1).mean())}
'''


def test_every_kind_from_a_package_of_ones_own(tmp_path: Path) -> None:
    package, work = tmp_path / "site" / "outside", tmp_path / "work"
    package.mkdir(parents=True)
    work.mkdir()
    (package / "__init__.py").write_text("")
    (package / "kinds.py").write_text(PACKAGE)
    (package / "terms.py").write_text(TERMS)
    rng = np.random.default_rng(0)
    for name, count in (("train", 400), ("test", 200), ("more", 100)):
        words = ["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(2, 12))) for _ in range(count)]
        (work / f"{name}.txt").write_text("\n".join(words))
    (work / "vowels.json").write_text("[0, 4, 8, 14, 20]")
    training = {"epochs": 3, "batch_size": 32, "learning_rate": 0.02}
    config = {
        "name": "outside",
        "storage": str(work / "runs"),
        "data": {
            "kind": "outside.kinds:Lines", "kwargs": {"shift": 1}, "train": "train.txt", "test": "test.txt",
            "unlabeled": "more.txt", "augment": {"factory": "outside.kinds:louder", "views": 2},
        },
        "ensemble": {
            "members": [
                {"model": {"factory": "outside.kinds:Tagger", "kwargs": {"width": 8}, "inputs": ["letters"]},
                 "size": 2, "training": training},
                {"model": {"kind": "outside.kinds:Table", "path": "vowels.json"}},
            ],
            "weights": {"factory": "outside.kinds:surest"},
            "resources_per_member": {"num_cpus": 0.5},
        },
        "distillation": {"objective": [
            {"term": "outside.terms:Brier", "weight": {"from": 1.0, "to": 2.0, "schedule": "outside.terms:Late"}},
            {"term": "soft", "weight": 0.5},
        ]},
        "student": {
            "model": {"factory": "outside.kinds:Tagger", "kwargs": {"width": 4}, "inputs": ["letters"]},
            "training": training,
        },
        "evaluation": {"latency_repeats": 5, "metrics": [{"factory": "outside.kinds:vowels_found"}]},
        "tracking": {"uri": f"sqlite:///{work}/mlflow.db"},
    }  # fmt: skip
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    report = go(work, tmp_path / "site")
    letters = sum(len(line) for line in (work / "test.txt").read_text().split())
    found = {system["name"]: system["test"] for system in report["systems"]}
    assert {test["examples"] for test in found.values()} == {letters}
    assert found["member-2"]["accuracy"] == found["member-2"]["vowels found"] == 1.0
    assert found["ensemble"]["accuracy"] > 0.95 and found["student"]["accuracy"] > 0.8
    rows = pq.read_table(next(work.glob("runs/outside/soft_targets/*/part-*.parquet")))
    assert rows.column_names == ["example_id", "view", "position", "probabilities"]
    reused = {stage["name"]: stage["reused"] for stage in go(work, tmp_path / "site")["stages"]}
    assert reused["members"] and reused["soft targets"] and reused["student"]


def go(work: Path, site: Path) -> dict[str, Any]:
    """The report of the run, whose package is on the path of its process and of Ray's."""
    found = [str(site), os.environ.get("PYTHONPATH", "")]
    variables = commands.environment(PYTHONPATH=os.pathsep.join(filter(None, found)))
    commands.output(*commands.STILLHOUSE, "run", work / "config.yaml", env=variables)
    report: dict[str, Any] = json.loads((work / "runs/outside/report.json").read_text())
    return report
