"""The user's own figures of a run, `report.figures`: drawn from the student and the test split once both exist."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.reporting.report import DrawnFigure
from orchestrator.stages.context import Context
from workers.data.masked_texts import MaskedColumns
from workers.errors import RequestError
from workers.inference import teacher
from workers.inference.teacher import Member
from workers.specs.base import FactorySpec
from workers.user_code import calls, factories

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110


def check(specs: tuple[FactorySpec, ...]) -> None:
    """Raise `RequestError` for a function that is not there, or cannot be called with a student and a test split."""
    for spec in specs:
        factories.check_called("report.figures", spec, ("student", "x", "y"))


def drawn(run: Context, student: Member) -> list[DrawnFigure]:
    """The figures in their order. One that fails is left out with a note, since all else of the run is complete."""
    found: list[DrawnFigure] = []
    for spec in run.config.report.figures:
        try:
            found += _figures(run, student, spec)
        except RequestError as error:
            run.note(f"{error} The report lacks it; the same command, once it is mended, draws it.")
    return found


def _figures(run: Context, student: Member, spec: FactorySpec) -> Iterator[DrawnFigure]:
    """Raises: `RequestError` where the function raises, or returns no figure."""
    module = teacher.load(student).module
    if module is None:
        raise RequestError(
            f"report.figures: a student of kind '{student.model.kind}' is no torch module to draw. Expected a network "
            "of torch; leave `report.figures` out."
        )
    x = run.dataset.test.x if run.test_inputs is None else run.test_inputs
    x = x[:] if isinstance(x, MaskedColumns) else x  # whose columns have no masks
    with calls.checked(f"report.figures: '{spec.factory}' raised", "."):
        returned = factories.bound(spec)(module.eval(), x, run.dataset.test.y)
    title = spec.factory.rpartition(":")[2].replace("_", " ")
    for name, figure in (returned if isinstance(returned, Mapping) else {title: returned}).items():
        if not hasattr(figure, "savefig"):
            raise RequestError(
                f"report.figures: '{spec.factory}' returned {type(figure).__name__}; expected a figure of matplotlib, "
                "or a mapping of titles to figures."
            )
        with calls.checked(f"report.figures: drawing '{name}' of '{spec.factory}' raised", "."):
            image = _png(figure)
        yield DrawnFigure(title=str(name), image=image)


def _png(figure: Figure | Any) -> str:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI, bbox_inches="tight")
    return base64.b64encode(content.getvalue()).decode()
