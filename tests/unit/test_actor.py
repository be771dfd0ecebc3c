"""What an actor does around its teacher, without Ray: large parts in pieces, answers that are not repeatable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.makers import MODELS, NUMERICS, blobs
from workers import processes
from workers.data import memmap
from workers.data.arrays import micro_batch
from workers.data.dataset import Dataset, Split
from workers.errors import RunError
from workers.faults import Fault
from workers.inference import actor
from workers.inference.teacher import Member
from workers.models import checkpoints, torch_module
from workers.processes import Where
from workers.specs.models import ModelSpec
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits

Host: Any = actor.TeacherActor.__ray_metadata__.modified_class  # type: ignore[attr-defined]
ROWS = 50
SHARES = {"member-0": 0.5, "member-1": 0.5}


def host(folder: Path, code: str = MODELS, keep: bool = False) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "models.py").write_text(code)
    members = []
    for k in range(2):
        spec = ModelSpec(factory="models:mlp", folder=str(folder))
        members.append(Member(f"member-{k}", spec, str(folder / f"{k}.safetensors")))
        checkpoints.save(torch_module.build(spec, seed=k).state_dict(), members[-1].weights)
    split = Split(*blobs(ROWS, 0))
    kept = {m.name: MemberLogits(str(folder / "logits" / m.name)) for m in members} if keep else {}
    return Host(
        members, Dataset(split, split, split, None, 3), actor.TeacherWork(3, PartLayout(ROWS, 64), NUMERICS, kept)
    )


def test_a_part_in_pieces_is_the_same_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, whole = host(tmp_path / "whole", keep=True).soften(0, 2.0, SHARES, "arithmetic")
    monkeypatch.setattr(actor, "RESIDENT_BYTES", 20 * 8 * 4)  # of twenty rows, so two micro-batches of eight
    small = host(tmp_path / "pieces", keep=True)
    assert [rows.stop - rows.start for rows in small._cuts(ROWS)] == [16, 16, 16, 2]
    again, pieces = small.soften(0, 2.0, SHARES, "arithmetic")
    assert rows == again == ROWS and whole.tobytes() == pieces.tobytes()
    for k in range(2):
        names = [
            sorted(p.name for p in (tmp_path / f / "logits" / f"member-{k}").iterdir()) for f in ("whole", "pieces")
        ]
        assert names[0] == names[1] and len(names[0]) == 1  # named by their content
    assert small.soften(0, 2.0, SHARES, "arithmetic")[1].tobytes() == whole.tobytes()  # now from what was kept


def test_logits_of_some_members_alone_are_kept(tmp_path: Path) -> None:
    every, some = host(tmp_path, keep=True), host(tmp_path, keep=True)
    whole = every.soften(0, 2.0, SHARES, "arithmetic")[1]
    del some.kept["member-1"]
    assert some.soften(0, 2.0, SHARES, "arithmetic")[1].tobytes() == whole.tobytes()


def test_members_that_are_not_asked_are_left_out(tmp_path: Path) -> None:
    one = host(tmp_path)
    both = one.soften(0, 2.0, SHARES, "arithmetic")[1]
    each = [one.soften(0, 2.0, {name: 0.5}, "arithmetic")[1] for name in SHARES]
    assert np.array_equal(each[0] + each[1], both)


def test_when_it_starts_it_answers_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "here", lambda: Where("node", os.getpid()))
    started = host(tmp_path / "sound").ready(None)
    assert set(started.probes) == set(SHARES) and started.part_s > 0
    for said in started.probes.values():
        assert said.shape == (8, 3)  # a micro-batch of the part
        np.testing.assert_allclose(said.sum(1), 1, atol=1e-6)
    drawing = MODELS + (
        "\n\nclass Draws(nn.Linear):\n    def forward(self, x):\n        return super().forward(x) + torch.rand(1)\n"
        "\n\nclass Each(Draws):\n    def forward(self, x):\n        return super().forward(x) * torch.rand(len(x), 3)\n"
        "\n\ndef mlp():\n    return Each(8, 3)\n"
    )
    with pytest.raises(RunError, match="member-0 answers the same examples differently each time"):
        host(tmp_path / "drawing", drawing).ready(None)


def test_a_start_on_a_node_whose_gpu_torch_does_not_see_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool counts a fault as a lost teacher, and other exceptions as an error of the run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    started = host(tmp_path)
    started.numerics = NUMERICS.model_copy(update={"device": "cuda"})
    with pytest.raises(Fault, match=r"^RuntimeError: torch sees no CUDA on .*num_gpus: 0"):
        started.ready(None)


def test_larger_examples_come_fewer_at_a_time() -> None:
    assert [micro_batch(values) for values in (1, 840, 16384, 150_528, 10**9)] == [1024, 1024, 1024, 64, 1]


def test_no_part_is_made_of_rows_that_changed(tmp_path: Path) -> None:
    x, _ = blobs(ROWS, 0)
    np.save(tmp_path / "x.npy", x)
    one = host(tmp_path / "models")
    one.x = memmap.watched(np.load(tmp_path / "x.npy", mmap_mode="r"))
    whole = one.soften(0, 2.0, SHARES, "arithmetic")[1]
    assert whole.tobytes() == host(tmp_path / "models").soften(0, 2.0, SHARES, "arithmetic")[1].tobytes()
    os.truncate(tmp_path / "x.npy", 200)
    with pytest.raises(RunError, match=r"data file '.*x\.npy' has changed"):
        one.soften(0, 2.0, SHARES, "arithmetic")
