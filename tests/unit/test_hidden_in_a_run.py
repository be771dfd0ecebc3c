"""What a run with hidden states, stages or masked texts refuses before it starts, by the key that is wrong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from orchestrator import RunConfig
from orchestrator.stages import preflight
from tests import texts as made
from workers.errors import RequestError

HIDDEN = [{"term": "relations"}]
CHANGES = dict[str, Any]


def config(folder: Path, changes: CHANGES) -> RunConfig:
    for name, rows in (("train", made.rows(60)), ("test", made.rows(12, 100)), ("general", made.rows(9, 300))):
        made.write_jsonl(folder / f"{name}.jsonl", rows)
    made.tokenizer(folder / "tokenizer")
    made.tokenizer(folder / "other")
    settings = folder / "other" / "tokenizer.json"
    settings.write_text(settings.read_text().replace('"river"', '"lake"'))
    (folder / "models.py").write_text(
        "import torch\n\n\nclass Bag(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.embed = torch.nn.EmbeddingBag(64, 3, mode='sum')\n\n"
        "    def forward(self, input_ids, attention_mask):\n"
        "        return self.embed(input_ids, per_sample_weights=attention_mask.float())\n"
    )
    training = {"epochs": 1, "batch_size": 16}
    small = {"kind": "transformers", "config": made.config(), "tokenizer": "tokenizer"}
    values: dict[str, Any] = {
        "name": "texts", "storage": str(folder / "runs"), "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        "data": {"kind": "text", "train": "train.jsonl", "test": "test.jsonl"},
        "ensemble": {"size": 1, "model": copy.deepcopy(small), "training": training},
        "distillation": {"objective": HIDDEN},
        "student": {"model": copy.deepcopy(small), "training": training},
    }  # fmt: skip
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return RunConfig.from_mapping(values, str(folder))


def stage(**also: Any) -> list[dict[str, Any]]:
    return [{"name": "ged", **also}, {"name": "last", "soft_weight": 1.0}]


MASKING = {"tokenizer": "tokenizer"}
BAG = {"factory": "models:Bag", "tokenizer": "tokenizer"}
WRONG: dict[str, tuple[CHANGES, str]] = {
    "heads that do not divide the width": (
        {"distillation.objective": [{"term": "relations", "kwargs": {"heads": 3}}]},
        r"student model 'bert': .* has 3 heads, which do not divide the width of the .*16",
    ),
    "a layer that is not there": (
        {"distillation.objective": [{"term": "hidden_mse", "kwargs": {"layers": [[5, 0]]}}]},
        r"names layer 5 of the student, which has 2",
    ),
    "a setting that is none": (
        {"distillation.objective": [{"term": "relations", "kwargs": {"head": 3}}]},
        r"'relations' does not take `kwargs`",
    ),
    "another tokenizer": ({"student.model.tokenizer": "other"}, "hidden.member: .* take different inputs"),
    "another length": ({"student.model.max_length": 9}, "hidden.member: .* take different inputs"),
    "no such member": ({"distillation.hidden": {"member": 3}}, "hidden.member: 3, .* numbered from 0 to 0"),
    "a member without a self-attention": (
        {"ensemble.model": BAG},
        r"hidden.member: 'models:Bag': Bag has no queries .* Expected linear layers called query",
    ),
    "a student without one": ({"student.model": BAG}, r"student model 'models:Bag': Bag has no queries"),
    "a compiled student": ({"student.training": {"epochs": 1, "compile": True}}, "`compile` is true, and its"),
    "layers of another width": (
        {"student.initial": "teacher_layers", "student.model.config": made.config(hidden_size=8)},
        r"student model 'bert': 'embeddings.word_embeddings.weight' is \[64, 8\], and the teacher's is \[64, 16\]",
    ),
    "layers of a network without any": (
        {"student.initial": "teacher_layers", "ensemble.model": BAG, "distillation.objective": [{"term": "soft"}]},
        "no stack of layers is known in the teacher",
    ),
    "soft targets on data of its own": (
        {"student.stages": stage(data={"unlabeled": "general.jsonl"}, objective=[{"term": "soft"}])},
        r"student\.stages\.ged: it has `data` of its own, and its term 'soft' needs soft targets or labels",
    ),
    "data that are not there": (
        {"student.stages": stage(data={"unlabeled": "nothing.jsonl"}, objective=HIDDEN)},
        "nothing.jsonl': no such file",
    ),
    "masked-lm of texts": ({"student.model.task": "masked-lm"}, r"student\.model\.task: masked-lm, and the data"),
    "masked texts without a tokenizer": ({"data.masking": {"tokenizer": "nowhere"}}, "nowhere': no such file or"),
    "masked texts for a classifier": (
        {"data.masking": MASKING, "data.validation_share": 0.2},
        "Expected texts: `data.kind: text`",
    ),
    "masked texts longer than the positions": (
        {"data.masking": MASKING, "ensemble.model": {"kind": "transformers", "task": "masked-lm",
                                                     "config": made.config(max_position_embeddings=6, vocab_size=26)}},
        r"\d+ texts have more tokens than the 6 positions of 'bert', the longest \d+\. Set `data\.masking",
    ),
    "a smaller vocabulary": (
        {"data.masking": MASKING,
         "ensemble.model": {"kind": "transformers", "task": "masked-lm", "config": made.config(vocab_size=20)}},
        "predicts 20 tokens, and `data.masking.tokenizer` has 26",
    ),
    "a compiled masked language model": (
        {"data.masking": MASKING, "ensemble.training": {"epochs": 1, "compile": True},
         "ensemble.model": {"kind": "transformers", "task": "masked-lm", "config": made.config(vocab_size=26)}},
        "`compile` is true, and the logits of masked tokens alone",
    ),
    "a part that is not there": (
        {"ensemble.model.frozen": ["heads"]},
        "`frozen` names 'heads', and no parameter's name has it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_refused_by_its_key(tmp_path: Path, case: str) -> None:
    changes, message = WRONG[case]
    with pytest.raises(RequestError, match=message):
        preflight.check(config(tmp_path, changes))
    assert not (tmp_path / "runs").exists()


def test_keeping_the_best_epoch_of_what_accuracy_does_not_measure_is_noted(tmp_path: Path) -> None:
    found = preflight.check(config(tmp_path, {"student.training": {"epochs": 2, "batch_size": 16, "keep": "best"}}))
    assert any(note.startswith("student: `keep: best` takes the epoch") for note in found.notes)


@pytest.mark.slow
def test_a_right_request_with_stages_passes(tmp_path: Path) -> None:
    stages = stage(data={"unlabeled": "general.jsonl"}, objective=HIDDEN)
    changes = {"student.stages": stages, "student.initial": "teacher_layers", "ensemble.model.frozen": ["embeddings"]}
    found = preflight.check(config(tmp_path, changes))
    assert len(found.stages["stages.ged"]) == 9
