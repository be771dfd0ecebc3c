"""`stillhouse plan`: the outlook of a run, and the run beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli.command import main
from tests.makers import write_config

CLUSTERS = Path(__file__).parents[2] / "clusters"
STAGES = ["members", "predictions", "baseline", "soft targets", "student", "evaluation"]


def test_a_plan_from_shapes_alone_has_every_stage_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_config(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    asked = ["--no-probe", "--cluster", str(CLUSTERS / "aws.yaml"), "--examples", "1000000"]
    assert main(["plan", path, *asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in found["stages"]] == STAGES and found["probed_examples"] == 0
    assert found["soft_targets"] == 1_000_000 * 3 * 4 and found["gpu_hours"] > 0 and found["seconds"] > 0
    assert found["does_not_fit"] == [] and "twice the nodes for members" in found["what_if"]
    assert main(["plan", path, *asked, "--gpu-tflops", "4"]) == 0
    shown = capsys.readouterr().out
    assert "from shapes alone" in shown and "0.5 CPU and 1 GPU each" in shown and "as configured" in shown
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_requests_are_refused_by_their_option_or_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_config(tmp_path))
    for asked, expected in (
        (["--examples", "0"], "--examples: 0; expected at least 1"),
        (["--cluster", str(tmp_path / "gone.yaml")], "gone.yaml' cannot be read"),
        (["--gpu-tflops", "-1"], "--gpu-tflops: -1; expected a number above 0"),
        (["--set", "ensemble.resources_per_member.num_cpus=999"], "asked for 999 a member"),
        (["--set", "data.train=gone.npz"], "gone.npz': no such file"),
    ):
        assert main(["plan", path, "--no-probe", *asked]) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_a_rehearsed_plan_is_shown_beside_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training = {"epochs": 3, "batch_size": 16, "learning_rate": 1.0e-3}
    path = str(write_config(tmp_path, student__training=training, data__unlabeled="more.npz"))
    assert main(["plan", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    planned = {stage["name"]: stage["seconds"] for stage in found["stages"]}
    assert list(planned) == STAGES and all(planned.values()) and found["probed_examples"] > 0
    folder = tmp_path / "runs" / "small"
    assert sorted(each.name for each in folder.iterdir()) == ["plan.json", "stillhouse.json"]
    assert [*folder.parent.iterdir()] == [folder], "the folder of the rehearsal is removed"
    assert main(["run", path]) == 0
    report = json.loads((folder / "report.json").read_text())
    assert {stage["name"]: stage["planned"]["seconds"] for stage in report["stages"]} == planned
    actual_s = sum(stage["seconds"] for stage in report["stages"])
    assert 0.2 < sum(planned.values()) / actual_s < 5, "a run of seconds, which starting its stages dominates"
    assert report["soft_targets"]["planned"]["bytes"] == 900 * 3 * 4
    assert report["soft_targets"]["bytes"] == pytest.approx(900 * 3 * 4, rel=0.2), "Parquet adds ids and a footer"
    assert "| stage | seconds | planned | from |" in (folder / "report.md").read_text()
    assert main(["run", path, "--set", "seed=1"]) == 0  # another run, which was not planned
    assert json.loads((folder / "report.json").read_text())["soft_targets"]["planned"] is None
