"""What a run finds again of an earlier one that was complete, damaged or killed, and what its tasks report. No Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from orchestrator.cluster.resources import Machines, Node, Placement
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import (
    evaluation,
    member_logits,
    predictions,
    ray_tasks,
    soft_targets,
    students,
    tokens,
    trained,
    training,
)
from orchestrator.stages.fitters import StudentJob
from orchestrator.stages.soft_target_pass import SoftTargetPass
from workers import processes
from workers.artifacts import parts as part_files
from workers.artifacts import store
from workers.artifacts.catalogue import Catalogue
from workers.artifacts.kinds import LOGITS, NETWORK, SOFT_TARGETS
from workers.data.examples import Columns
from workers.data.ragged import Ragged
from workers.data.texts import TEXT
from workers.inference.teacher import Member
from workers.specs.models import ModelSpec
from workers.specs.training import TrainingSpec
from workers.targets.layout import PartLayout
from workers.targets.soft_targets import Manifest, MemberRecord, Numerics, Part
from workers.training.loop import Epoch

NUMERICS = Numerics(device="cpu", precision="float32", threads=1, micro_batch=8)
SPEC = ModelSpec(factory="models:mlp")
HELD = Placement(1, 1, 1.0, 0.0)
EPOCH = Epoch(epoch=0, train_loss=1.0, validation_accuracy=0.5, validation_nll=1.0, seconds=1.0, examples=4)


def a_run(folder: Path, **more: Any) -> Any:
    """As much of a run's context as these stages need."""
    config = SimpleNamespace(
        folder=str(folder / "small"),
        name="small",
        ensemble=SimpleNamespace(start_timeout_s=1.0),
        distillation=SimpleNamespace(keeps_logits=True),
    )
    common: dict[str, Any] = {"config": config, "artifacts": Catalogue(str(folder), "small"), "events": MagicMock()}
    return SimpleNamespace(**{**common, "heartbeat": MagicMock(), "note": MagicMock(), **more})


def a_pass(lacking: tuple[int, ...] = (), *, made: int = 2) -> SoftTargetPass:
    """A pass under `reweight` with `made` of its two parts, some of which lack member-1."""
    records = [MemberRecord(name=name, sha256="0") for name in ("member-0", "member-1")]
    planned = Manifest(
        fingerprint="f", temperature=2.0, combine="arithmetic", weights=[0.5, 0.5], classes=3, dtype="float32",
        top_k=None, examples=8, views=1, members=records, parts=[], seconds=0.0, complete=False,
    )  # fmt: skip
    there = {
        number: Part(
            path=f"{number}", rows=4, sha256=f"{number}", numerics=NUMERICS,
            members=["member-0"] if number in lacking else ["member-0", "member-1"],
        )
        for number in range(made)
    }  # fmt: skip
    missing = list(range(made, 2))
    return SoftTargetPass(
        folder="", key=SOFT_TARGETS.key(of="a"), layout=PartLayout(8, 4), planned=planned, parts=there, missing=missing,
        kept={}, survivors_too=True, manifest=None if missing else planned,
    )  # fmt: skip


def test_a_damaged_copy_of_a_network_is_made_again(tmp_path: Path) -> None:
    catalogue, key, place = Catalogue(str(tmp_path), "small"), NETWORK.key(of="a"), tmp_path / "small" / "student"
    weights = tmp_path / "small" / "trained" / key.digest / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    member = Member("student", SPEC, str(weights))
    trained.commit(catalogue, member, key, [EPOCH])
    trained.show(member, str(place))
    shown = place / "model.safetensors"
    shown.unlink()
    shown.write_bytes(b"others!")  # a file of its own, as a download or a copy of an object store
    trained.show(member, str(place))
    assert shown.read_bytes() == b"weights" == weights.read_bytes()


def test_a_student_of_a_pass_that_lost_a_member_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[str] = []

    def fit(run: Any, job: StudentJob, member: Member, folder: str, name: str) -> list[Epoch]:
        resumed.append(name)
        Path(member.weights).parent.mkdir(parents=True, exist_ok=True)
        Path(member.weights).write_bytes(b"weights")
        return [EPOCH]

    monkeypatch.setattr(training, "FITTERS", {"network": SimpleNamespace(student=fit)})
    monkeypatch.setattr(training, "key_of", lambda model, recipe, seed, **also: NETWORK.key(**also))
    monkeypatch.setattr(training, "_learnt_from", lambda dataset, job: {})
    monkeypatch.setattr(training, "check_elsewhere", MagicMock())
    run = a_run(tmp_path, dataset=MagicMock())

    def student(made: SoftTargetPass, content: str) -> bool:
        learnt = {**students._soft_targets(made), "store": None, "store_content": lambda: content}
        job = StudentJob("student", SPEC, TrainingSpec(epochs=1), 3, **learnt)
        return training.train_student(run, job).reused

    assert not student(a_pass(made=0), "a")  # which began with the pass, before a member was lost
    assert student(a_pass(lacking=(1,)), "a")
    assert not student(a_pass(lacking=(1,)), "b")  # other soft targets
    assert len({*resumed}) == 2  # and no checkpoint of a training on other parts is resumed


def test_parts_of_another_or_an_unknown_precision_are_computed_again() -> None:
    made, auto = a_pass(), {"threads": 1, "micro_batch": 8, "precision": "auto"}
    of = {0: Numerics(device="cpu", **auto), 1: Numerics(device="cuda", **auto)}
    found = {number: part.model_copy(update={"numerics": of[number]}) for number, part in made.parts.items()}
    for precision, kept in {"float32": [0], "bfloat16": []}.items():
        plan = SimpleNamespace(numerics=NUMERICS.model_copy(update={"precision": precision}))
        run: Any = SimpleNamespace(config=SimpleNamespace(ensemble=SimpleNamespace(on_member_loss="wait")), plan=plan)
        assert list(soft_targets._accepted(run, made.planned, found)) == kept


@pytest.mark.parametrize(
    ("device", "bfloat16", "expected"),
    [
        ("cpu", False, {"precision": "auto", "device": "cpu"}),  # as in keys of earlier versions
        ("cuda", False, {"precision": "float32"}),
        ("cuda", True, {"precision": "bfloat16"}),
    ],
)
def test_keys_have_the_precision_of_the_machines(
    device: str, bfloat16: bool, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.inference.teacher.follows_from", lambda member: {"weights": member.weights})
    ensemble = SimpleNamespace(precision="auto", micro_batch_size=None)
    dataset = SimpleNamespace(digests={"train": "a", "unlabeled": ""}, augmentation={}, numbering=MagicMock())
    plan = SimpleNamespace(device=device, layout=PartLayout(8, 4), teachers=replace(HELD, device=device))
    run: Any = SimpleNamespace(
        config=SimpleNamespace(ensemble=ensemble), dataset=dataset, plan=plan,
        machines=Machines((Node(8, 1),), cuda=device == "cuda", bfloat16=bfloat16),
    )  # fmt: skip
    what = soft_targets._logits_keys(run, [Member("member-0", SPEC, "weights")])["member-0"].what
    assert {name: what[name] for name in ("precision", "device") if name in what} == expected
    assert predictions.computed(evaluation._of_members(run))["precision"] == expected["precision"]


def test_logits_of_a_run_that_was_killed_behind_its_last_part_are_found_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, key, made = a_run(tmp_path), LOGITS.key(of="a"), a_pass()
    folder = Path(RunFolder(run.config.folder).logits(key.digest))
    folder.mkdir(parents=True)
    for piece in range(2):
        (folder / part_files.name_of(piece, f"{piece}" * 64)).write_bytes(b"logits")
    monkeypatch.setattr(soft_targets, "_logits_keys", lambda run, members: {"member-0": key})
    soft_targets._work(run, made, [])
    assert made.error is None
    found = Catalogue(str(tmp_path), "other").find(key, lambda digest: f"logits/{digest}/logits.json")
    assert found is not None and found.run == "small" and len(found.record.files) == 2
    written = (folder / "logits.json").stat().st_mtime_ns
    member_logits.commit(run, {"member-0": key}, made.layout)
    assert (folder / "logits.json").stat().st_mtime_ns == written and store.read(found.uri, LOGITS) == found.record


def test_a_block_of_texts_that_is_tokenized_is_known_to_be_in_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced, run = (
        MagicMock(),
        a_run(tmp_path, machines=SimpleNamespace(cpus=2.0, asked=lambda role: {}, borrowed=False)),
    )

    def inline(pending: Any, *_: Any, **__: Any) -> Any:
        yield from ((task, task.job._function(*task.arguments)) for task in pending)

    monkeypatch.setattr(processes, "announce", announced)
    monkeypatch.setattr(ray_tasks, "completed", inline)
    monkeypatch.setattr("workers.data.token_files.tokenize_block", lambda folder, number, texts, how: (f"{number}", ""))
    x = Columns({TEXT: Ragged.packed(np.zeros(4, np.uint8), np.array([2, 2]))})
    how: Any = SimpleNamespace(uri="tokenizer")
    blocks = [(0, slice(0, 1)), (1, slice(1, 2))]
    assert list(tokens._computed(run, x, str(tmp_path), how, blocks)) == [(0, "0"), (1, "1")]
    assert [call.args for call in announced.call_args_list] == [
        (f"tokens {number}", run.heartbeat.queue) for number in range(2)
    ]


@pytest.mark.parametrize("borrowed", [False, True])
def test_measurements_end_with_the_run_on_a_ray_that_goes_on(
    borrowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def completed(pending: Any, *_: Any, cancel: bool = False) -> Any:
        asked.append(cancel)
        yield from ((task, 1) for task in pending)

    monkeypatch.setattr(ray_tasks, "completed", completed)
    run = a_run(tmp_path, machines=SimpleNamespace(borrowed=borrowed))
    assert predictions.results_of(run, "predicting", MagicMock(), {"a": (), "b": ()}, HELD) == {"a": 1, "b": 1}
    assert asked == [borrowed]
