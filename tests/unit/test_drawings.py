"""Figures of one's own: what fails while it is made or drawn is noted, and left out of the report."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from torch import nn

from orchestrator.stages import drawings
from orchestrator.stages.context import Context
from workers.inference.teacher import Member
from workers.specs.base import FactorySpec

FIGURES = """
from matplotlib.figure import Figure

def titled(student, x, y, title):
    figure = Figure()
    figure.add_subplot().set_title(title)
    return {title: figure}
"""


def test_a_figure_that_cannot_be_drawn_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(FIGURES)
    titles = ("good", "$\\frac$")  # matplotlib parses formulas while it draws
    specs = [FactorySpec(factory="mine:titled", folder=str(tmp_path), kwargs={"title": title}) for title in titles]
    notes: list[str] = []
    x, y = np.zeros((2, 3), np.float32), np.zeros(2, np.int64)
    run: Any = SimpleNamespace(
        config=SimpleNamespace(report=SimpleNamespace(figures=specs)),
        dataset=SimpleNamespace(test=SimpleNamespace(x=x, y=y)),
        test_inputs=None,
        note=notes.append,
    )
    student = SimpleNamespace(module=nn.Linear(3, 2))
    monkeypatch.setattr(drawings, "teacher", SimpleNamespace(load=lambda _: student))
    (found,) = drawings.drawn(cast(Context, run), cast(Member, None))
    assert found.title == "good" and base64.b64decode(found.image).startswith(b"\x89PNG")
    assert len(notes) == 1 and "drawing '$\\frac$' of 'mine:titled' raised ValueError" in notes[0]
