"""Runs on texts: an ensemble of two architectures with tokenizers of their own, distilled into a small network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from orchestrator import RunConfig, planning, run
from orchestrator.plan import summary
from orchestrator.stages import evaluation, predictions
from orchestrator.stages import tokens as tokens_stage
from tests import texts as made

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_ray")]

MODELS = """
import torch

class Bag(torch.nn.Module):
    def __init__(self, classes, size=8):
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(64, size), torch.nn.Linear(size, classes)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        return self.out((self.embed(input_ids) * mask).sum(1) / mask.sum(1))
"""


def config(folder: Path, name: str = "texts", **changes: Any) -> RunConfig:
    (folder / "models.py").write_text(MODELS)
    made.write_jsonl(folder / "train.jsonl", made.rows(300))
    made.write_jsonl(folder / "unlabeled.jsonl", [{"text": row["text"]} for row in made.rows(60, 400)])
    made.write_jsonl(folder / "test.jsonl", made.rows(60, 600))
    bert = {"kind": "transformers", "checkpoint": made.checkpoint(folder / "bert"), "max_length": 12}
    bag = {"factory": "models:Bag", "kwargs": {"classes": 3}, "tokenizer": made.tokenizer(folder / "tokenizer")}
    training = {"epochs": 6, "batch_size": 16, "learning_rate": 0.01}
    values = {
        "name": name, "storage": str(folder / "runs"), "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        "data": {"kind": "text", "train": "train.jsonl", "test": "test.jsonl", "unlabeled": "unlabeled.jsonl"},
        "ensemble": {"members": [{"model": bert, "size": 2, "training": training},
                                 {"model": bag, "training": training}]},
        "student": {"model": {**bert, "checkpoint": None, "config": made.config(), "tokenizer": bert["checkpoint"]},
                    "training": training},
        "evaluation": {"latency_repeats": 5},
        **changes,
    }  # fmt: skip
    return RunConfig.from_mapping(values, str(folder))


def assert_same_weights(one: Path, two: Path) -> None:
    """Raises where weights in two folders differ by more than rounding.

    The bias of keys adds the same to all scores of a query. So its gradient is rounding alone, which Adam scales to
    steps as large as any; no output depends on it.
    """
    first, second = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (one, two))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if not name.endswith(("key.bias", "k_lin.bias")):
            np.testing.assert_allclose(tensor.numpy(), second[name].numpy(), atol=2e-3, err_msg=f"{one.name} {name}")


def test_a_run_on_texts_is_rehearsed(tmp_path: Path) -> None:
    found = json.loads(summary.as_json(planning.planned(config(tmp_path), planning.Asked())))
    assert found["probed_examples"] > 0 and found["seconds"] > 0
    assert {"members", "soft targets", "student"} <= {stage["name"] for stage in found["stages"] if stage["seconds"]}


def test_texts_are_distilled_and_tokenized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForSequenceClassification

    monkeypatch.setattr(tokens_stage, "BLOCK_BYTES", 1500)  # several blocks, so that Ray tasks tokenize them
    first = run(config(tmp_path))
    assert first.system("ensemble").test.accuracy > 0.7 and first.system("student").test.accuracy > 0.5
    given = {row["text"] for row in made.rows(60, 600)}
    assert first.examples and all(each.text in given for each in first.examples)
    folder = tmp_path / "runs" / "texts"
    files = sorted((folder / "tokens").glob("*/part-*.arrow"))
    assert len({file.parent for file in files}) == 4 * 2  # four splits, two lengths of one tokenizer
    student = AutoModelForSequenceClassification.from_pretrained(folder / "student")
    assert student.config.id2label == {0: "geography", 1: "science", 2: "sport"}

    again = run(config(tmp_path, "again", seed=0, distillation={"temperature": 3.0}))
    stages = {stage.name: stage.reused for stage in again.stages}
    assert stages["tokens"] and stages["members"] and not stages["soft targets"]
    notes = [json.loads(line) for line in (tmp_path / "runs/again/events.jsonl").read_text().splitlines()]
    assert any(note.get("text") == "reused from run 'texts': 8 of 8 tokens" for note in notes)

    damaged = next((tmp_path / "runs/again/tokens").glob("*/part-000000-*.arrow"))
    before = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(b"damaged")  # a file of its own, and no link to that of the first run
    third = run(config(tmp_path, "again", seed=0, distillation={"temperature": 3.0}))
    assert damaged.read_bytes() == before
    assert all(stage.reused for stage in third.stages if stage.name in ("members", "soft targets", "student"))


def test_two_workers_give_the_student_of_one_in_every_stage(tmp_path: Path) -> None:
    """With general texts first, relations and projected hidden states of a member beside it, then soft targets.

    The member computes in the one worker, and for the two in an actor.
    """
    from transformers import AutoModelForSequenceClassification

    hidden = [{"term": "relations", "kwargs": {"of": ["query-key", "value-value"]}}, {"term": "hidden_cosine"}]
    small = {"hidden_size": 8, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    found = []
    for workers in (1, 2):
        apart = {"storage": str(tmp_path / f"storage-{workers}")}  # one would find the student of the other
        settings = config(tmp_path, f"of-{workers}")
        made.write_jsonl(tmp_path / "general.jsonl", [{"text": row["text"]} for row in made.rows(90, 900)])
        student = {
            **settings.student.model_dump(),
            "num_workers": workers,
            "stages": [
                {"name": "ged", "data": {"unlabeled": "general.jsonl"}, "objective": hidden},
                {"name": "td1", "objective": hidden},
                {"name": "td2"},
            ],
        }
        student["model"]["config"] |= small
        where = {"where": "worker" if workers == 1 else "actor"}
        report = run(config(tmp_path, f"of-{workers}", student=student, distillation={"hidden": where}, **apart))
        assert not any(stage.reused for stage in report.stages)
        folder = tmp_path / f"storage-{workers}/of-{workers}"
        found.append({part: folder / part for part in ("stages/ged", "stages/td1", "student")})
    for part in found[0]:
        assert_same_weights(*(of[part] for of in found))
    record = json.loads((found[0]["stages/ged"] / "training.json").read_text())
    first, *_, last = record["facts"]["history"]
    assert last["terms"]["relations"] < first["terms"]["relations"] and last["examples"] == 90
    assert AutoModelForSequenceClassification.from_pretrained(found[1]["student"]).config.hidden_size == 8


def test_a_masked_language_model_is_distilled_by_three_terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DistilBERT: soft targets of masked tokens, their labels, the cosine of hidden states; one worker and two."""
    import pyarrow.parquet as pq
    from transformers import AutoModelForMaskedLM

    plain = {name: [{"text": row["text"]} for row in made.rows(count, first)]
             for name, count, first in (("train", 240, 0), ("validation", 40, 500), ("test", 80, 700))}  # fmt: skip
    for name, rows in plain.items():
        made.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    tokenizer = made.tokenizer(tmp_path / "tokenizer")
    vocabulary = len(json.loads((tmp_path / "tokenizer/tokenizer.json").read_text())["model"]["vocab"])
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "vocab_size": vocabulary}
    teacher = {"kind": "transformers", "task": "masked-lm", "tokenizer": tokenizer,
               "config": made.config(num_hidden_layers=2, **still)}  # fmt: skip
    small = {"model_type": "distilbert", "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "dropout": 0.0,
             "attention_dropout": 0.0, "vocab_size": vocabulary, "max_position_embeddings": 40}  # fmt: skip
    training = {"epochs": 12, "batch_size": 32, "learning_rate": 0.01}
    found = []
    for workers in (1, 2):
        values = {
            "name": f"of-{workers}", "storage": str(tmp_path / f"storage-{workers}"),
            "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
            "data": {"kind": "text", **{name: f"{name}.jsonl" for name in plain},
                     "masking": {"tokenizer": tokenizer, "copies": 2}},
            "ensemble": {"model": teacher, "size": 2, "training": training},
            "distillation": {"top_k": 8, "objective": [{"term": "soft", "weight": 5.0},
                                                       {"term": "masked_lm", "weight": 2.0},
                                                       {"term": "hidden_cosine", "weight": 1.0}]},
            "student": {"model": {**teacher, "config": small}, "initial": "teacher_layers",
                        "training": {**training, "epochs": 3}, "num_workers": workers},
            "evaluation": {"latency_repeats": 5},
        }  # fmt: skip
        report = run(RunConfig.from_mapping(values, str(tmp_path)))
        if workers == 1:  # once more, as with a vocabulary of which predictions take too much room
            shutil.rmtree(tmp_path / "storage-1/of-1/predictions")
            monkeypatch.setattr(predictions, "KEPT_BYTES", 0)
            monkeypatch.setattr(evaluation, "RANGE_BYTES", 2 * 4 * vocabulary * 70)
            again = run(RunConfig.from_mapping(values, str(tmp_path)))
            monkeypatch.undo()
            assert again.agreement is None and not again.examples
            assert [system.test.accuracy for system in again.systems] == [s.test.accuracy for s in report.systems]
            assert [s.test.nll for s in again.systems] == pytest.approx([s.test.nll for s in report.systems], rel=1e-5)
            assert [point.nll for point in again.curve] == pytest.approx([point.nll for point in report.curve])
            assert not [*(tmp_path / "storage-1/of-1").glob("predictions/*")]
        assert not any(stage.reused for stage in report.stages)
        found.append(tmp_path / f"storage-{workers}/of-{workers}")
    assert report.accuracy_name == "masked accuracy" and report.classes == vocabulary
    assert report.agreement is not None and all(each.position is not None for each in report.examples)
    assert "masked accuracy" in (found[0] / "report.html").read_text()
    student, baseline = (report.system(role).test for role in ("student", "baseline"))
    assert student.figure("perplexity") == pytest.approx(np.exp(student.nll))
    assert student.nll_interval is not None
    assert student.interval("perplexity") == pytest.approx(np.exp(student.nll_interval))
    assert student.figure("perplexity") < vocabulary / 2 and baseline.examples == student.examples > 80
    rows = [pq.read_table(part) for part in sorted(found[0].glob("soft_targets/*/part-*.parquet"))]
    names = ("example_id", "view", "position")
    positions = {name for table in rows for name in zip(*map(table.column, names), strict=True)}
    assert len(positions) == sum(len(table) for table in rows) >= 2 * 240
    assert {text.as_py() for text, *_ in positions} == {*range(240)}
    assert len([*found[0].glob("tokens/*/tokens.json")]) == 3  # a file of texts each, for both copies
    assert AutoModelForMaskedLM.from_pretrained(found[0] / "student").config.n_layers == 1
    assert_same_weights(*(folder / "student" for folder in found))


TAGGED = """
import numpy as np

def splits():
    def split(rows, seed):
        draws = np.random.default_rng(seed)
        ids = [draws.integers(5, 40, draws.integers(1, 11)).astype(np.int64) for _ in range(rows)]
        tags = [np.where(np.append(0, row[:-1]) % 2 == 1, 2, row % 2) for row in ids]  # 2 behind an odd one
        return {"input_ids": ids}, tags
    train, labels = split(400, 0)
    labels = [np.where(np.arange(len(row)) == 9, -1, row) for row in labels]  # the last of long rows have no label
    return {"train": (train, labels), "validation": split(60, 1), "test": split(80, 2)}
"""


def _drawn(rows: int, seed: int) -> int:
    """The number of tokens that `TAGGED` draws for a split."""
    draws = np.random.default_rng(seed)
    return sum(len(draws.integers(5, 40, draws.integers(1, 11))) for _ in range(rows))


def test_tokens_with_a_label_each(tmp_path: Path) -> None:
    """Members and student tag each token by the token itself and the one before it."""
    import pyarrow.parquet as pq
    from transformers import AutoModelForTokenClassification

    (tmp_path / "tagged.py").write_text(TAGGED)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    teacher = {"kind": "transformers", "task": "token-classification", "config": made.config(hidden_size=32, **still)}
    training = {"epochs": 12, "batch_size": 32, "learning_rate": 0.005}
    values = {
        "name": "tags", "storage": str(tmp_path / "runs"), "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"},
        "data": {"kind": "python", "factory": "tagged:splits"},
        "ensemble": {"model": teacher, "size": 2, "training": training},
        "distillation": {"objective": [{"term": "soft", "weight": 0.9}, {"term": "hard", "weight": 0.1},
                                       {"term": "relations"}]},
        "student": {"model": {**teacher, "config": made.config(**still)}, "training": training},
        "evaluation": {"latency_repeats": 5},
    }  # fmt: skip
    report = run(RunConfig.from_mapping(values, str(tmp_path)))
    assert all(system.test.examples == _drawn(80, 2) for system in report.systems)
    assert report.system("ensemble").test.accuracy > 0.9 and report.system("student").test.accuracy > 0.8
    for each in report.examples:
        assert each.position is not None and each.position < 10 and each.values
    folder = tmp_path / "runs/tags"
    soft = [pq.read_table(part) for part in folder.glob("soft_targets/*/part-*.parquet")]
    assert sum(map(len, soft)) == _drawn(400, 0)
    assert AutoModelForTokenClassification.from_pretrained(folder / "student").config.num_labels == 3
