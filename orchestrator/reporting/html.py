"""A report as one self-contained HTML page, such as `report.html`: a document in the template `page.html`.

The template escapes all text. Figures are SVG that `svg` has built, whose text is escaped there.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from orchestrator.reporting import sections
from orchestrator.reporting.content import Document
from orchestrator.reporting.report import Report

if TYPE_CHECKING:
    from jinja2 import Template


def page(report: Report) -> str:
    """The page of a run."""
    return rendered(sections.document(report))


def rendered(document: Document) -> str:
    """A document as a page."""
    return _template().render(document=document).lstrip()


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("orchestrator.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["anchor"] = anchor
    return environment.get_template("page.html")


def anchor(title: str) -> str:
    """The name of a section in a link."""
    return "-".join(re.findall("[a-z0-9]+", title.lower())) or "section"
