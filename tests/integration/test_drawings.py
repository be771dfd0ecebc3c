"""Figures of the user's own in the report, its page and MLflow."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.cli.command import main
from tests.makers import write_config

DRAWING = """
def weights(student, x, y, bars=3):
    from matplotlib.figure import Figure
    figure = Figure(figsize=(2, 1))
    assert not student.training and len(x) == len(y) == 400
    figure.subplots().bar(range(bars), [float(p.abs().mean()) for p in list(student.parameters())[:bars]])
    return figure


def both(student, x, y):
    return {"One <b>": weights(student, x, y), "Other": weights(student, x, y)}


def broken(student, x, y):
    raise ValueError("no such layer")


def words(student, x, y):
    return "a picture"
"""


def config(folder: Path, *figures: dict[str, Any], **more: Any) -> str:
    path = write_config(folder, report={"figures": list(figures)}, **more)
    (folder / "drawing.py").write_text(DRAWING)
    return str(path)


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
def test_figures_are_shown_and_a_failing_one_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("weights", "both", "broken", "words")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    figures = [{"factory": f"drawing:{name}"} for name in names]
    path = config(tmp_path, *figures, tracking={"uri": uri, "experiment": "drawn"})
    assert main(["run", path]) == 0
    shown = " ".join(capsys.readouterr().err.split())
    assert "'drawing:broken' raised ValueError: no such layer" in shown
    assert "'drawing:words' returned str; expected a figure of matplotlib" in shown
    folder = tmp_path / "runs/small"
    found = json.loads((folder / "report.json").read_text())["figures"]
    assert [each["title"] for each in found] == ["weights", "One <b>", "Other"]
    assert all(base64.b64decode(each["image"]).startswith(b"\x89PNG") for each in found)
    page = (folder / "report.html").read_text()
    assert page.count('<figure class="picture">') == 3 and "One &lt;b&gt;" in page
    assert "Other: a picture in `report.html`." in (folder / "report.md").read_text()
    shown = json.loads((folder / "report.json").read_text())["page"]
    run_id = shown.partition("/runs/")[2].partition("?")[0]
    assert "plots/figure-3.png" in {each.path for each in MlflowClient(uri).list_artifacts(run_id, "plots")}


WRONG = {"gone": "gone", "weights": "cannot be called with (student, x, y, colour=...)"}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_function_starts_nothing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kwargs = {"colour": "red"} if name == "weights" else {}
    assert main(["run", config(tmp_path, {"factory": f"drawing:{name}", "kwargs": kwargs})]) == 2
    assert WRONG[name] in capsys.readouterr().err and not (tmp_path / "runs").exists()
