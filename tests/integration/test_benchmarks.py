"""Every benchmark in small, as its user runs it: it ends well and writes the figures that its marks name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import texts, top_k
from tests import commands
from workers.targets.top_k import compress

ROOT = Path(__file__).parents[2]
RUN_S = 900.0
QUICK = (
    "simulated_accelerators --teachers 10 --examples 4096",
    "teacher_forward --members 2 --rows 256 --repeats 1",
    "text_forward --texts 64 --members 2 --repeats 1",
    "text_student --texts 64 --turns 2",
)
SLOW = (
    "soft_target_pass --examples 2000 --members 2 --repeats 1",
    "student_with_distillation --examples 2000 --turns 2",
    "scaling_cost --parts 1",
    "memory --base 2048",
    "end_to_end --examples 2000 --members 2 --epochs 1 --only by\\ hand --cache {folder}",
    "text_teacher_pass --texts 200 --members 2 --repeats 1",
    "text_memory --texts 256",
    "text_memory --texts 256 --copies 2",
    "text_end_to_end --texts 100 --epochs 1 --only bare\\ loop",
    "wait_policy --turns 1 --seconds 1",
)
WITHOUT_MARKS = ("scaling_cost", "wait_policy")


def result(command: str, folder: Path) -> dict[str, object]:
    """What a benchmark writes."""
    name, *options = command.format(folder=folder).replace("\\ ", "\0").split()
    words = [option.replace("\0", " ") for option in options]
    program = [sys.executable, "-m", f"benchmarks.{name}", *words, "--results", folder / "results"]
    commands.output(*program, timeout_s=RUN_S, cwd=ROOT)
    (file,) = (folder / "results").glob(f"{name}*.json")
    found: dict[str, object] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("command", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_a_benchmark_in_small(command: str, tmp_path: Path) -> None:
    found = result(command, tmp_path)
    assert found["rows"], "a table"
    marks = found.get("marks", {})
    assert isinstance(marks, dict)
    assert all(isinstance(mark["ratio"], float) and mark["ratio"] > 0 for mark in marks.values())
    assert marks or command.startswith(WITHOUT_MARKS), "figures beside what they are to reach"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package"),
    [("bare loop, caching", "transformers"), ("textbrewer", "textbrewer"), ("textbrewer, grouped", "textbrewer"),
     ("trainer", "accelerate"), ("sentence-transformers", "sentence_transformers")],
)  # fmt: skip
def test_a_contender_of_texts_in_small(name: str, package: str, tmp_path: Path) -> None:
    """Those of the extra `bench` only where it is installed."""
    pytest.importorskip(package)
    texts.write_teachers(texts.write(tmp_path, 64, others=16), 1)
    command = [sys.executable, "-m", "benchmarks.text_contenders", name, "--data", tmp_path, "--members", tmp_path]
    shown = commands.output(*command, "--epochs", "2", "--threads", "1", timeout_s=RUN_S, cwd=ROOT)
    assert json.loads(shown.splitlines()[-1])["work_s"] > 0


def test_top_k_against_the_fit_of_another() -> None:
    """The exact events lose less of the gradient than a fit through their ranks; all of it is lost nowhere."""
    torch.manual_seed(0)
    teacher, student = torch.randn(32, 300) * 3, torch.randn(32, 300) * 3
    for k, fit in top_k.DISTILLKIT.items():
        targets, found = top_k.compare(teacher, student, 1.0, k)
        assert len(targets.ids[0]) == k
        assert 0 < found["gradient_off"] < found["peer_gradient_off"] < found["gradient"]
        assert found["gradient_off"] < found["scaled_gradient_off"]
        exact = compress(torch.softmax(teacher, -1), k, torch.float32)
        again = top_k.fitted(exact, fit)
        assert torch.equal(again.ids, exact.ids)
        torch.testing.assert_close(again.probabilities.sum(1) + again.tail, torch.ones(32))


def test_a_fit_returns_what_it_can_express() -> None:
    """Log-probabilities that are a straight line over the ranks come back to rounding."""
    p = torch.softmax(-0.05 * torch.arange(300.0), 0).repeat(4, 1)
    exact = compress(p, 50, torch.float32)
    again = top_k.fitted(exact, top_k.DISTILLKIT[50])
    torch.testing.assert_close(again.probabilities[:, 1:], exact.probabilities[:, 1:], rtol=1e-3, atol=1e-6)
