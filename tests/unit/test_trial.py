"""Networks that cannot be trained, kept or loaded as a run does it are refused before it starts; others are not."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from orchestrator.cli.command import main
from orchestrator.config.run_config import RunConfig
from orchestrator.stages import preflight, roles
from tests import texts
from tests.makers import blobs, message, write_config
from workers import processes
from workers.data import loading
from workers.data.collate import Collator, collate
from workers.data.dataset import Dataset, Split
from workers.data.examples import Columns
from workers.data.texts import TEXT, of_strings
from workers.data.tokens import Tokenization
from workers.errors import RequestError, RunError
from workers.inference import saved_weights
from workers.inference.teacher import Member
from workers.models import checkpoints, torch_module
from workers.models.torch_module import TorchPredictor
from workers.specs.models import ModelSpec
from workers.specs.training import TrainingSpec
from workers.training import loop, tasks
from workers.training import ray_worker as student
from workers.training.loader import HardLabels
from workers.training.loop import Task
from workers.training.ray_worker import WorkerJob
from workers.trial import answers, compiling, loaded_models, trial
from workers.trial.answers import Network

MODELS = '''
import random
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm, weight_norm


def mlp(hidden=16, dropout=0.0, norm=False):
    """A sound network, and one with batch normalisation."""
    layers = [nn.Linear(8, hidden)] + [nn.BatchNorm1d(hidden)] * norm
    return nn.Sequential(*layers, nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, 3))


class Net(nn.Module):
    """Sound unless a subclass is not."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.body(x))


class Unused(Net):
    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(4, 4)

class Whole(Net):
    """Relates the examples of a batch, as it declares."""
    whole_batch = True

class Detached(Net):
    def forward(self, x):
        return super().forward(x).detach()

class NoGrad(Net):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

class ExtraState(Net):
    def get_extra_state(self):
        return {"steps": 3}
    def set_extra_state(self, state):
        pass

class ExtraTensor(Net):
    def get_extra_state(self):
        return torch.tensor([3])
    def set_extra_state(self, state):
        assert state.tolist() == [3]

class NotPersistent(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(16), persistent=False)
    def forward(self, x):
        hidden = self.body(x)
        if self.training:
            self.mean += 0.1 * (hidden.detach().mean(0) - self.mean)
        return self.head(hidden - self.mean)

class Features(Net):
    def __init__(self):
        super().__init__()
        self.project = torch.randn(8, 8)
    def forward(self, x):
        return super().forward(torch.tanh(x @ self.project))

class NumpyFeatures(Net):
    def __init__(self):
        super().__init__()
        self.order = np.random.permutation(8)
    def forward(self, x):
        return super().forward(x[:, self.order])

class Counter(Net):
    def __init__(self):
        super().__init__()
        self.steps = 0
    def forward(self, x):
        self.steps += self.training
        return super().forward(x) * (1 + self.steps)

class InAList(Net):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 8)]
    def forward(self, x):
        return super().forward(self.layers[0](x))

class OfTrainingAlone(Net):
    """State outside the state dict that no answer follows from."""
    def __init__(self):
        super().__init__()
        self.noise = torch.randn(8)
    def forward(self, x):
        return super().forward(x + 0.1 * self.noise if self.training else x)

class ZeroHead(Features):
    """As Features, but answers nothing before its first step."""
    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

class Skips(Net):
    """Leaves a layer out at random while training."""
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(6))
    def forward(self, x):
        h = self.body(x)
        for layer in self.layers:
            if not self.training or float(torch.rand(())) > 0.3:
                h = h + layer(h)
        return self.head(h)

class Late(Net):
    """Has state that is not saved, and that changes behind the first steps."""
    def __init__(self):
        super().__init__()
        self.steps = 0
    def forward(self, x):
        self.steps += self.training
        return super().forward(x) * (1 + max(0, self.steps - 10))

class Lazy(Net):
    def __init__(self):
        super().__init__()
        self.head = nn.LazyLinear(3)

class InTraining(Net):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
    def forward(self, x):
        logits = super().forward(x)
        if not self.training:
            return logits
        if self.kind == "tuple":
            return logits, x
        if self.kind == "dict":
            return {"scores": logits}
        if self.kind == "shape":
            return torch.cat([logits, logits])
        if self.kind == "nan":
            return logits / 0 * 0
        if self.kind == "gradient":
            return logits + torch.sqrt((0 * logits).sum()) * 0
        raise RuntimeError("not while training")

class AtRandom(Net):
    def __init__(self, of):
        super().__init__()
        self.of = of
    def forward(self, x):
        if self.of == "torch":
            x = functional.dropout(x)
        elif self.of == "numpy":
            x = x * float(np.random.rand())
        elif self.of == "python":
            x = x * random.random()
        return super().forward(x)

class BatchStatistics(Net):
    def forward(self, x):
        return super().forward((x - x.mean(0)) / (x.std(0, unbiased=False) + 1e-5))

class UnitNorm(Net):
    def forward(self, x):
        return super().forward(x / x.norm(dim=1, keepdim=True))

class Standardised(Net):
    def forward(self, x):
        return super().forward((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))

class Exponential(Net):
    def forward(self, x):
        return super().forward(torch.exp(x))

class Recurrent(nn.Module):
    def __init__(self, whole):
        super().__init__()
        self.lstm, self.head, self.whole = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 3), whole
    def forward(self, x):
        found, state = self.lstm(x[:, :, None])
        logits = self.head(found[:, -1])
        return (logits, state) if self.whole else logits

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Linear(1, 16), nn.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 3)
    def forward(self, x):
        h = self.embed(x[:, :, None])
        return self.head(self.norm(h + self.attention(h, h, h)[0]).mean(1))

class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.head = nn.Linear(8, 3)
        self.to(memory_format=torch.channels_last)
    def forward(self, x):
        h = functional.relu(self.norms[0](self.first(x.view(-1, 1, 2, 4))))
        h = h + self.norms[1](self.second(h))
        return self.head(functional.dropout(h.mean((2, 3)), 0.2, self.training))

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.outer.weight = self.inner.weight
    def forward(self, x):
        return self.head(self.outer(torch.relu(self.inner(x))))

class Grows(Net):
    """Keeps its rows in a buffer."""
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(0, 8))
    def forward(self, x):
        if self.training:
            self.seen = torch.cat([self.seen, x.detach()])
        return super().forward(x)

class MakesLate(Net):
    """Makes a layer in its first forward pass."""
    def forward(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Linear(3, 3)
        return self.late(super().forward(x))

class Complex(Net):
    def __init__(self, returned=False):
        super().__init__()
        self.phase, self.returned = nn.Parameter(torch.randn(3, 3, dtype=torch.cfloat)), returned
    def forward(self, x):
        logits = super().forward(x).to(torch.cfloat) @ self.phase
        return logits if self.returned else logits.abs()

class Sparse(Net):
    def forward(self, x):
        return super().forward(x).to_sparse()

class Exits(Net):
    def __init__(self, always):
        super().__init__()
        self.always = always
    def forward(self, x):
        if self.always or self.training:
            raise SystemExit(0)
        return super().forward(x)

def normed(of):
    apply = {"weight": parametrizations.weight_norm, "spectral": parametrizations.spectral_norm,
             "old weight": weight_norm, "old spectral": spectral_norm}[of]
    return nn.Sequential(apply(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 3))

def softmaxed():
    return nn.Sequential(nn.Linear(8, 3), nn.Softmax(-1))

def log_softmaxed():
    return nn.Sequential(nn.Linear(8, 3), nn.LogSoftmax(-1))

def not_compiled():
    """Calls an operator that has no shape function."""
    @torch.library.custom_op("stillhouse_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    class Twice(Net):
        def forward(self, x):
            return super().forward(twice(x))

    return Twice()

def build(name, **kwargs):
    return globals()[name](**kwargs)


def accuracy(p, y): return {"accuracy": 1.0}
def interval(p, y): return {"top5_interval": 1.0}
def method(p, y): return {"copy": 1.0}
def strange(p, y): return {"top@5": 1.0}
def raises(p, y): raise KeyError("no such class")
def exits(p, y): raise SystemExit(3)
def nan(p, y): return {"f1": float("nan")}
def text(p, y): return {"f1": "high"}
def number(p, y): return 0.5
def pairs(p, y): return [("f1", 0.5)]
def in_place(p, y):
    p /= p.sum(1, keepdims=True)
    return {"mine": float(p.max())}
def behind_its_back(p, y):
    torch.from_numpy(p).zero_()
    return {"mine": 1.0}
def digits(p, y): return {"mine": "0.5"}
def too_large(p, y): return {"mine": 10**400}
def no_path(p, y): return {"a//b": 1.0}
def one_column(p, y): return {"wer": [[1, 2, 3]]}
def unequal(p, y): return {"wer": ([1, 2, 3], [1, 2])}
def no_counts(p, y): return {"wer": ([1, 2], [0, 0])}
def no_sums(p, y): return {"wer": ([float("nan"), 2], [1, 1])}
def top2(p, y, k=2, name="top2"):
    assert p.dtype == np.float32 and p.shape == (400, 3) and y.shape == (400,) and y.dtype == np.int64
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
    return {name: np.float32((np.argsort(-p, 1)[:, :k] == y[:, None]).any(1).mean())}
def slow(p, y):
    import time
    while True:
        try:
            time.sleep(0.05)
        except Exception:
            pass
'''


def write(folder: Path, student: str | None = None, kwargs: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A configuration whose student is one of `MODELS`, its members sound."""
    sound = {
        "ensemble__model": {"factory": "models:mlp", "kwargs": {}},
        "student__model": {"factory": "models:build", "kwargs": {"name": student or "Net", **(kwargs or {})}},
        "student__training": {"epochs": 2, "batch_size": 64},
    }
    path = write_config(folder, **{**sound, **changes})
    (folder / "models.py").write_text(MODELS)
    return path


def checked(path: Path) -> Dataset:
    return preflight.check(RunConfig.load(str(path)))


RAGGED = {"student__training__batch_size": 2, "student__training__micro_batch_size": 1}
TWO = {"student__num_workers": 2}
NORM = {"name": "mlp", "norm": True}

REFUSED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "a piece of one row": (
        *("mlp", {"norm": True}, RAGGED),
        r"failed in a step .*more than 1 value per channel.* micro_batch_size 1 leave a piece of one",
    ),
    "a batch of one row": (
        "mlp",
        {"norm": True},
        {"student__training__batch_size": 1},
        "batches of at most 1 leave a piece",
    ),
    "a worker's cut of one row": (
        *("mlp", {"norm": True}, {"student__training__batch_size": 3, **TWO}),
        "at most 3, 2 workers leave a piece of one example",
    ),
    "elastic workers": (
        *("mlp", {"norm": True}, {"student__training__batch_size": 4, "student__num_workers": [1, 3]}),
        "3 workers leave a piece of one example",
    ),
    "a network of whole batches in pieces": (
        *("Whole", {}, {"student__training__micro_batch_size": 16}),
        "`micro_batch_size` is 16, and the network relates all examples of a batch of 64 to each other",
    ),
    "parameters unused by two workers": (
        *("Unused", {}, TWO),
        r"no gradient reaches 'spare\.weight', 'spare\.bias' in a step .* 2 workers exchange .*requires_grad_\(False\)",
    ),
    "layers skipped at random by two workers": ("Skips", {}, TWO, r"no gradient reaches 'layers\.\d\.weight'"),
    "detached": ("Detached", {}, {}, "returns logits without a gradient in training mode"),
    "no_grad": ("NoGrad", {}, {}, "returns logits without a gradient in training mode"),
    "extra state": ("ExtraState", {}, {}, r"cannot be saved and loaded: .*'_extra_state' is dict.*register_buffer"),
    "a buffer that is not persistent": (
        *("NotPersistent", {}, {}),
        r"answers differently once .* 'mean \(a buffer with persistent=False\)'.*register_buffer",
    ),
    "random features": ("Features", {}, {}, r"'project \(a plain tensor attribute\)'"),
    "random features behind zeros": ("ZeroHead", {}, {}, r"'project \(a plain tensor attribute\)'"),
    "an order drawn with numpy": ("NumpyFeatures", {}, {}, r"'order \(a plain array attribute\)'"),
    "a count": ("Counter", {}, {}, r"'steps \(a plain attribute\)'"),
    "a module in a list": ("InAList", {}, {}, r"'layers\[0\]\.weight \(of a module in a plain list\)'"),
    "lazy layers": ("Lazy", {}, {}, r"has lazy layers: 'head\.weight' has no shape"),
    "a tuple in training": ("InTraining", {"kind": "tuple"}, {}, "returned tuple for a batch of .* in training mode"),
    "a dictionary in training": (
        "InTraining",
        {"kind": "dict"},
        {},
        "returned dict for a batch of .* in training mode",
    ),
    "another shape in training": ("InTraining", {"kind": "shape"}, {}, r"returned \[\d+, 3\] .* in training mode"),
    "NaN in training": (
        *("InTraining", {"kind": "nan"}, {}),
        "returned NaN or infinity in training mode for .* Expected finite logits: guard divisions",
    ),
    "a gradient of NaN": ("InTraining", {"kind": "gradient"}, {}, r"NaN or infinity in the gradient of 'body"),
    "raising in training": (
        "InTraining",
        {"kind": "else"},
        {},
        r"failed in a step .* RuntimeError: not while training\.",
    ),
    "functional dropout": ("AtRandom", {"of": "torch"}, {}, "student .* differently each time in evaluation mode"),
    "random numbers of numpy": ("AtRandom", {"of": "numpy"}, {}, "differently each time in evaluation mode"),
    "random numbers of Python": ("AtRandom", {"of": "python"}, {}, "differently each time in evaluation mode"),
    "statistics of a batch": ("BatchStatistics", {}, {}, "answers an example differently where others are beside it"),
    "a tuple always": ("Recurrent", {"whole": True}, {}, "returned tuple for a batch of 2; expected logits"),
    "a buffer that grows": ("Grows", {}, {}, "model 'models:build' has 'seen' after a step of training"),
    "a layer made in forward": ("MakesLate", {}, {}, r"has 'late\.weight', 'late\.bias' after a step"),
    "complex logits": ("Complex", {"returned": True}, {}, r"returned torch\.complex64 \[2, 3\]"),
    "sparse logits": ("Sparse", {}, {}, r"returned torch\.float32 \[2, 3\] \(torch\.sparse_coo\)"),
    "sys.exit": ("Exits", {"always": True}, {}, "failed on a batch .* SystemExit: 0"),
    "sys.exit in training": ("Exits", {"always": False}, {}, "failed in a step .* SystemExit: 0"),
    "compile": ("not_compiled", {}, {"student__training__compile": True}, "cannot be compiled .*stillhouse_tests"),
    "a first step too far": (
        *("Net", {}, {"student__training__learning_rate": 1e38}),
        "returned NaN or infinity after one step of training. Lower `learning_rate`",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_fails_its_trial_is_refused_and_leaves_no_file(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student, kwargs, changes, words = REFUSED[case]
    path = write(tmp_path, student, kwargs, **changes)
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", str(path)]) == 2
    said = message(capsys.readouterr().err)
    assert "Traceback" not in said and said.startswith("stillhouse: student model 'models:build'"), said
    assert re.search(words, said), said
    assert sorted(tmp_path.rglob("*")) == before


SOUND: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "unused parameters and one worker": ("Unused", {}, {}),
    "layers skipped at random by one worker": ("Skips", {}, {}),
    "batch normalisation": ("mlp", {"norm": True, "dropout": 0.5}, {}),
    "a last piece that is cut evenly": ("mlp", {"norm": True}, {"student__training__micro_batch_size": 9}),
    "whole batches, by two workers": ("Whole", {}, {"student__training__micro_batch_size": 64, **TWO}),
    "convolutions": ("Convolutions", {}, TWO),
    "attention": ("Attention", {}, TWO),
    "a recurrent net": ("Recurrent", {"whole": False}, {}),
    "tied weights": ("Tied", {}, TWO),
    "weight_norm": ("normed", {"of": "weight"}, TWO),
    "spectral_norm": ("normed", {"of": "spectral"}, {}),
    "weight_norm of an older torch": ("normed", {"of": "old weight"}, {}),
    "spectral_norm of an older torch": ("normed", {"of": "old spectral"}, {}),
    "a tensor as extra state": ("ExtraTensor", {}, {}),
    "state of training alone": ("OfTrainingAlone", {}, {}),
    "complex parameters": ("Complex", {}, {}),
    "bfloat16": ("Net", {}, {"student__training__precision": "bfloat16"}),
    "the largest of the classes": ("Net", {}, {"distillation__top_k": 2, "distillation__dtype": "float16"}),
    "soft targets alone, sgd, clipped": (
        *("Net", {}),
        {"distillation__hard_weight": 0, "student__training__optimizer": "sgd", "student__training__gradient_clip": 1},
    ),
    "more workers than examples of a batch": (
        *("Net", {}),
        {"student__num_workers": 60, "student__training__batch_size": 61},
    ),
    "log-probabilities": ("log_softmaxed", {}, {}),
}


@pytest.mark.parametrize("case", SOUND)
def test_sound_networks_pass_without_a_note(case: str, tmp_path: Path) -> None:
    student, kwargs, changes = SOUND[case]
    assert checked(write(tmp_path, student, kwargs, **changes)).notes == ()


def test_a_slow_network_computes_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.trial.answers.AFFORDABLE_S", 1e-9)
    rows: list[int] = []
    compute = torch.nn.Linear.forward

    def forward(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return compute(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    checked(write(tmp_path))
    layers = 2
    assert max(rows) == 2 and sum(rows) / layers < 60  # of members, student and baseline together


def test_terms_are_settled_on_the_examples_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[torch.Tensor] = []
    monkeypatch.setattr(loop, "prepare", lambda goal, model, beside, x, seed: found.append(x))
    first = loop.few(checked(write(tmp_path)).train.x, collate)
    assert len(first) == 2 and found and all(torch.equal(x, first) for x in found)


def test_members_and_baseline_are_tried_too(tmp_path: Path) -> None:
    path = write(tmp_path, ensemble__model={"factory": "models:Features", "kwargs": {}})
    with pytest.raises(RequestError, match="ensemble model 'models:Features' answers differently once"):
        checked(path)
    baseline = {"epochs": 1, "batch_size": 1}
    path = write(tmp_path, "mlp", {"norm": True}, student__baseline_training=baseline)
    with pytest.raises(RequestError, match="baseline model 'models:build' failed in a step"):
        checked(path)


@pytest.mark.parametrize(
    ("name", "split", "row", "value", "oddity"),
    [
        ("UnitNorm", "train", 17, 0.0, "all zeros"),
        ("UnitNorm", "test", 399, 0.0, "all zeros"),
        ("Standardised", "valid", 3, 2.5, "one value throughout"),
        ("Exponential", "test", 250, 200.0, "one value throughout"),
    ],
)
def test_rows_without_a_finite_answer_are_named(
    name: str, split: str, row: int, value: float, oddity: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name)
    found = dict(np.load(tmp_path / f"{split}.npz"))
    found["x"][row] = value
    np.savez(tmp_path / f"{split}.npz", **found)
    shown = {"valid": "validation"}.get(split, split)
    with pytest.raises(RequestError, match=rf"NaN or infinity for example {row} of the {shown} split \({oddity}\)"):
        checked(path)


def test_stages_are_named_with_the_keys_of_their_objectives(tmp_path: Path) -> None:
    stages = [{"name": "a"}, {"name": "b", "objective": [{"term": "hard"}]}]
    config = RunConfig.load(str(write(tmp_path, student__stages=stages)))
    found = roles.roles(config, loading.load(config.every_split, config.seed))
    assert [role.name for role in found] == ["ensemble", "student (stage a)", "student (stage b)", "baseline"]
    unknown = [stages[0], {"name": "b", "objective": [{"term": "nothing"}]}]
    config = RunConfig.load(str(write(tmp_path, student__stages=unknown)))
    with pytest.raises(RequestError, match=r"^student\.stages\.1\.objective: found 'nothing'; expected soft"):
        preflight.check(config)


def test_each_token_of_a_tokenizer_is_tried(tmp_path: Path) -> None:
    """Also one that no text has."""

    class Bag(torch.nn.Module):
        def __init__(self, words: int) -> None:
            super().__init__()
            self.words, self.output = torch.nn.Embedding(words, 4), torch.nn.Linear(4, 3)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            mask = attention_mask.unsqueeze(-1)
            return self.output((self.words(input_ids) * mask).sum(1) / mask.sum(1))  # type: ignore[no-any-return]

    x = Columns({TEXT: of_strings([row["text"] for row in texts.rows(6)])})
    collator = Collator(tokens=Tokenization(texts.tokenizer(tmp_path)))

    def notes(words: int) -> tuple[str, ...]:
        return answers.check(Network(TorchPredictor(Bag(words)), "'bag'", 3, x, "student", collator), ())

    assert notes(26) == ()
    with pytest.raises(RequestError, match=r"the token 25, the largest id of .* Expected a network of 26 tokens"):
        notes(25)


def test_probabilities_are_noted(tmp_path: Path) -> None:
    (note,) = checked(write(tmp_path, "softmaxed")).notes
    assert note.startswith("The student model 'models:build' returns probabilities (its rows sum to 1")


def test_members_that_are_loaded(tmp_path: Path) -> None:
    def loaded(factory: str) -> Path:
        spec = ModelSpec(factory=f"models:{factory}", folder=str(tmp_path))
        for seed in (3, 4):
            checkpoints.save(torch_module.build(spec, seed).state_dict(), str(tmp_path / f"{seed}.safetensors"))
        files = {"checkpoints": ["3.safetensors", "4.safetensors"]}
        return write(tmp_path, ensemble={"model": {"factory": f"models:{factory}"}, **files})

    write(tmp_path)
    assert checked(loaded("Tied")).notes == ()
    assert "model 'models:softmaxed' returns probabilities" in checked(loaded("softmaxed")).notes[0]
    with pytest.raises(
        RequestError, match=r"3\.safetensors': ensemble model 'models:Features' answers differently once"
    ):
        checked(loaded("Features"))
    path = loaded("Net")
    weights = torch_module.build(ModelSpec(factory="models:Net", folder=str(tmp_path))).state_dict()
    weights["head.bias"][1] = float("inf")
    checkpoints.save(weights, str(tmp_path / "4.safetensors"))
    with pytest.raises(RequestError, match=r"4\.safetensors': ensemble model 'models:Net' returned NaN or infinity"):
        checked(path)


METRICS = {
    "accuracy": "returned the name 'accuracy', which every report has",
    "interval": "returned the name 'top5_interval', which every report has",
    "method": "returned the name 'copy', which every report has",
    "strange": r"returned the name 'top@5'; expected a text of letters",
    "raises": r"raised KeyError: 'no such class'\. It was called with probabilities \[400, 3\] float32",
    "exits": "raised SystemExit: 3",
    "nan": "returned nan for 'f1'; expected a finite number",
    "text": "returned str for 'f1'; expected a number",
    "number": "returned float; expected a dictionary",
    "pairs": "returned list; expected a dictionary",
    "behind_its_back": "changed its arguments, which other metrics get as well",
    "digits": "returned str for 'mine'; expected a number",
    "too_large": "returned inf for 'mine'; expected a finite number",
    "no_path": "returned the name 'a//b'; expected",
    "one_column": r"returned for 'wer' arrays of the shapes \[3\]; expected \(sums, counts\), two arrays",
    "unequal": "returned for 'wer' a pair that is none of arrays .*; expected",
    "no_counts": "returned for 'wer' numbers from 0 to 2 and counts that add up to 0; expected",
    "no_sums": "returned for 'wer' numbers from nan to nan and counts that add up to 2; expected",
    "in_place": "raised ValueError: .*read-only",
}


@pytest.mark.parametrize("metric", METRICS)
def test_wrong_metrics_are_refused(metric: str, tmp_path: Path) -> None:
    path = write(tmp_path, evaluation={"metrics": [{"factory": "models:top2"}, {"factory": f"models:{metric}"}]})
    with pytest.raises(RequestError, match=f"evaluation.metrics: 'models:{metric}' {METRICS[metric]}"):
        checked(path)


def test_metrics_of_one_name_are_refused(tmp_path: Path) -> None:
    twice: list[dict[str, Any]] = [
        {"factory": "models:top2"},
        {"factory": "models:top2", "kwargs": {"k": 1, "name": "top1"}},
    ]
    assert checked(write(tmp_path, evaluation={"metrics": twice})).notes == ()
    twice[1] = {"factory": "models:top2", "kwargs": {"k": 1}}
    with pytest.raises(RequestError, match="returned the name 'top2', and so does another metric"):
        checked(write(tmp_path, evaluation={"metrics": twice}))


def test_a_slow_metric_is_left_to_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.evaluation.custom_metrics.LIMIT_S", 0.3)
    (note,) = checked(write(tmp_path, evaluation={"metrics": [{"factory": "models:slow"}]})).notes
    assert note.startswith("evaluation.metrics: 'models:slow' takes more than 0.3 s")


def test_names_of_the_report_are_reserved() -> None:
    from orchestrator.reporting.report import TestMetrics
    from workers.evaluation import custom_metrics

    own = {name for name in {*vars(TestMetrics), *TestMetrics.model_fields} if not name.startswith(("_", "model_"))}
    assert own <= custom_metrics.BUILT_IN | {name for name in own if name.endswith(custom_metrics.INTERVAL)}


def test_random_states_go_on_as_before(tmp_path: Path) -> None:
    path = write(tmp_path, "AtRandom", {"of": "none"})
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    checked(path)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected


@pytest.mark.parametrize(
    ("examples", "batch", "micro", "workers", "expected"),
    [
        (600, 64, None, (1, 1), [60]),
        (513, 256, None, (1, 1), [171]),
        (600, 64, 40, (1, 1), [30]),
        (257, 256, 100, (1, 1), [64, 65]),
        (600, 64, None, (2, 4), [15, 20, 30]),
        (5, 3, None, (3, 3), [0, 1]),
    ],
)
def test_pieces_are_those_that_the_loop_cuts(
    examples: int, batch: int, micro: int | None, workers: tuple[int, int], expected: list[int]
) -> None:
    spec = TrainingSpec(epochs=1, batch_size=batch, micro_batch_size=micro)
    assert trial.piece_sizes(examples, spec, workers) == expected
    seen: set[int] = set()

    class Spy(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.update([len(x)] if self.training else [])
            return super().forward(x)

    split = Split(*blobs(examples, 1))
    for world in range(workers[0], workers[1] + 1):
        for rank in range(world):
            progress = loop.begin(Spy(8, 3), spec, examples)
            next(loop.epochs(progress, Task(HardLabels(split), split), spec, 0, rank=rank, world=world))
    assert sorted(seen) == expected


def test_weights_that_were_kept_are_compared(tmp_path: Path) -> None:
    write(tmp_path)
    x = blobs(50, 1)[0]

    def kept(name: str) -> None:
        spec = ModelSpec(factory=f"models:{name}", folder=str(tmp_path))
        module, member = torch_module.build(spec, 7), Member("member-3", spec, str(tmp_path / "kept.safetensors"))
        weights = {key: value.clone() for key, value in module.state_dict().items()}
        with torch.no_grad():
            next(module.parameters()).add_(1)  # a later epoch than the best, which is kept
        checkpoints.save(weights, member.weights)
        saved_weights.check_network(module, weights, member, x)

    kept("Net")
    with pytest.raises(RunError, match=r"member-3 answers differently .* 32 validation .*'project \(a plain tensor"):
        kept("Features")


def test_a_network_that_follows_from_its_process_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "import os\nimport torch\n\n"
        "class Net(torch.nn.Linear):\n    def forward(self, x):\n        return super().forward(x) * SIGN\n\n"
        "SIGN = 1 if os.getpid() == {} else -1\n\ndef same():\n    return torch.nn.Linear(8, 3)\n\n"
        "def other():\n    return Net(8, 3)\n".replace("{}", str(os.getpid()))
    )
    x = blobs(50, 1)[0]
    code = (
        "import sys\nfrom tests.makers import blobs\nfrom workers.models import checkpoints, torch_module\n"
        "from workers.inference.teacher import Member\nfrom workers.specs.models import ModelSpec\n"
        "from workers.inference import saved_weights\nname, folder = sys.argv[1:]\n"
        "spec = ModelSpec(factory=f'models:{name}', folder=folder)\nmodule = torch_module.build(spec, 7)\n"
        "member = Member('student', spec, f'{folder}/{name}/model.safetensors')\n"
        "kept = module.state_dict()\ncheckpoints.save(kept, member.weights)\n"
        "saved_weights.check_network(module, kept, member, blobs(50, 1)[0])\n"
    )
    for name in ("same", "other"):
        subprocess.run([sys.executable, "-c", code, name, str(tmp_path)], check=True)
        spec = ModelSpec(factory=f"models:{name}", folder=str(tmp_path))
        member, answers = (
            Member("student", spec, str(tmp_path / name / "model.safetensors")),
            tmp_path / name / saved_weights.ANSWERS,
        )
        assert answers.exists()
        if name == "same":
            saved_weights.check_elsewhere(member, x)
        else:
            with pytest.raises(RunError, match=r"student answers differently in another process, .* by 2 of .* sorted"):
                saved_weights.check_elsewhere(member, x)
        assert not answers.exists()


@pytest.mark.parametrize("keep", ["last", "best"])
def test_training_ends_where_what_it_kept_answers_differently(
    keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checked(write(tmp_path, "Late")).notes == ()  # nothing to be seen in the first steps
    data = Dataset(Split(*blobs(300, 1)), Split(*blobs(100, 2)), Split(*blobs(100, 3)), None, 3)
    training = TrainingSpec(epochs=3, batch_size=50, keep=keep)  # type: ignore[arg-type]

    def of(factory: str, name: str) -> Member:
        spec = ModelSpec(factory=f"models:{factory}", folder=str(tmp_path))
        return Member(name, spec, str(tmp_path / name / factory / "model.safetensors"))

    def member(factory: str) -> Any:
        job = tasks.MemberJob(of(factory, "member-1"), training, 5, "", 1)
        return cast(Any, tasks.train_member)._function(job, data, MagicMock())

    def student_(factory: str) -> None:
        own = of(factory, "student")
        folder, reference = str(tmp_path / "student"), cast(Any, data)
        job = WorkerJob(
            role="student", model=cast(ModelSpec, own.model), training=training, seed=5, data=reference, folder=folder,
            weights=own.weights, threads=1, events=MagicMock(),
        )  # fmt: skip
        student._train(job, rank=0, world=1, begun=lambda progress: None)

    monkeypatch.setattr(processes, "announce", MagicMock())  # there is no Ray
    assert [epoch.epoch for epoch in member("Net")] == [0, 1, 2]
    with pytest.raises(RunError, match=r"member-1 answers differently .* 'steps \(a plain attribute\)'"):
        member("Late")
    monkeypatch.setattr("ray.get", lambda each, **_: each)
    for name, fake in (("report", MagicMock()), ("get_checkpoint", lambda: None), ("torch.prepare_model", lambda m: m)):
        monkeypatch.setattr(f"ray.train.{name}", fake)
    student_("Net")
    assert (tmp_path / "student" / student.HISTORY).exists()
    (tmp_path / "student" / student.HISTORY).unlink()
    with pytest.raises(RunError, match=r"student answers differently .* 'steps \(a plain attribute\)'"):
        student_("Late")
    assert not (tmp_path / "student" / student.HISTORY).exists()


def test_a_validation_row_without_an_answer_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    module = torch_module.build(ModelSpec(factory="models:UnitNorm", folder=str(tmp_path)))
    train, validation = Split(*blobs(100, 1)), Split(*blobs(50, 2))
    validation.x[31] = 0  # type: ignore[index]
    spec = TrainingSpec(epochs=1)
    task = Task(HardLabels(train), validation, system="member-2")
    with pytest.raises(RunError, match="member-2 answers NaN or infinity for example 31 of the validation split"):
        next(loop.epochs(loop.begin(module, spec, 100), task, spec, 0))


def test_a_missing_compiler_is_refused_by_the_key_that_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/bin/false",))
    with pytest.raises(RequestError, match=r"training.compile: this machine cannot compile .*C\+\+ compiler"):
        compiling.check_machine()


def test_a_network_is_tried_compiled_without_gradients_of_the_step_before() -> None:
    class Net(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.weight.grad is not None:
                raise ValueError("a gradient of an earlier step")
            return super().forward(x)

    net, x = Net(8, 3), torch.ones(2, 8)
    net(x).sum().backward()
    compiling.check_network(net, x, "student")


def test_masked_texts_are_not_all_masked_to_check_the_order_of_classes() -> None:
    """Their classes are tokens, which are compared by their ids."""
    network: Any = None  # not asked either
    loaded_models._check_order(network, Split(np.zeros((4, 8), np.float32), None), ())


def test_the_order_of_classes_is_checked_where_a_network_ends_in_a_softmax() -> None:
    labels, linear = np.arange(30) % 3, torch.nn.Linear(3, 3, bias=False)
    linear.weight.data = 20 * torch.eye(3)
    x = np.eye(3, dtype=np.float32)[(labels + 1) % 3]
    net = torch.nn.Sequential(linear, torch.nn.Softmax(-1))
    with pytest.raises(RequestError, match="classes in another order: what the labels say is 0 it calls 1"):
        loaded_models._check_order(Network(TorchPredictor(net), "'net'", 3, x, "ensemble"), Split(x, labels), ())
