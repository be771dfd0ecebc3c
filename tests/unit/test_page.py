"""`report.html`: well-formed, on its own, and without a word of the user's that could be markup."""

from __future__ import annotations

import importlib.resources
import json
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from orchestrator.cli.command import main
from orchestrator.reporting import files, html, markdown
from orchestrator.reporting import report as reports
from orchestrator.reporting.report import Report
from tests.reports import DIFFERENCES, example, full, plain
from workers.errors import RequestError

VOID = {"meta", "link", "img", "br", "hr", "input"}
KNOWN = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "section", "article", "nav", "footer", "h1",
    "h2", "h3", "p", "a", "ul", "li", "div", "span", "b", "bdi", "table", "thead", "tbody", "tr", "th", "td", "figure",
    "figcaption", "details", "summary", "pre", "code", "img", "blockquote", "svg", "desc", "text", "line", "polyline",
    "polygon", "circle", "rect",
}  # fmt: skip
"""All elements of a page; none of them runs anything or loads anything."""
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">&amp;"\'{{ 7 * 7 }}{% raw %}'


class Page(HTMLParser):
    """Checks that elements are closed in their order, and collects attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in KNOWN, tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in KNOWN, tag
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check(report: Report) -> Page:
    """Parse a report's page, and check what holds for each."""
    text = html.page(report)
    assert text.startswith("<!doctype html>")
    page = Page(text)
    for tag, name, value in page.attributes:
        assert not name.startswith("on") and name != "style", (tag, name)
        if name in ("src", "href"):
            assert re.fullmatch(r"#[a-z0-9-]+|data:image/png;base64,[A-Za-z0-9+/=]+", value), value
    assert "url(" not in text and "@import" not in text
    ids = [value for _, name, value in page.attributes if name == "id"]
    links = [value[1:] for _, name, value in page.attributes if name == "href"]
    assert len(ids) == len(set(ids)) and links == ids
    for drawn in re.findall("<svg.*?</svg>", text, re.DOTALL):
        parsed = ElementTree.fromstring(drawn)
        assert parsed.find("title") is not None and parsed.find("desc") is not None
        assert not re.search(r"\bnan\b|\binf\b", drawn)
    return page


def test_a_full_report_shows_its_figures() -> None:
    page = check(full())
    for words in (
        "The ensemble has 96.00% accuracy, the hard-label baseline 90.00%, the student 94.00%: 66.7%",
        "Was the ensemble worth it? Yes: +6.00 points",
        "Did the student get it? Yes: 66.7% of the gain",
        "How sure is that? 3 of 4 differences are resolved",
        "Members lost on the way: member-7.",
        "a text of the sea",
        "stillhouse run config.yaml --set seed=1",
        "sea taken for sky",
    ):
        assert words in page.text
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(images) == 1 and images[0].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "report",
    [
        plain(),
        plain(members=[0.94]),
        plain({"baseline": 0.96, "ensemble": 0.90, "student": 0.97}),
        plain({"baseline": 0.9, "ensemble": 0.9, "student": 0.9}, members=[0.9, 0.9]),
        plain({"baseline": 0.0, "ensemble": 0.0, "student": 0.0}, members=[0.0]),
        plain({"baseline": 1.0, "ensemble": 1.0, "student": 1.0}, members=[1.0]),
        plain(members=[0.9] * 40),
        plain(curve=[]),
        full(labels=["no", "yes"]),
        full(labels=[f"class {k}" for k in range(60)]),
        full(labels=[], classes=1000),
        full(training={"student": [{"epoch": 1, "train_loss": 0.0, "validation_accuracy": 0.5}]}),
        full(training={"student": [{"epoch": k, "train_loss": 0.0, "validation_accuracy": 0.5} for k in (1, 2)]}),
        full(training={"student": [{"epoch": k, "train_loss": "NaN", "validation_accuracy": 0.5} for k in (1, 2)]}),
        full(agreement=None, examples=[], origin=None, worth=[], differences=DIFFERENCES[1:]),
        full(examples=[example("lost", position=7, values=[1.0], divergence="Infinity")]),
        full(accuracy_name="masked accuracy"),
    ],
    ids=lambda report: f"{len(report.members)} members, {report.classes} classes",
)
def test_reports_of_every_shape(report: Report) -> None:
    page = check(report)
    assert "What each further member was worth" in page.text
    again = Report.model_validate_json(files.as_json(report))
    assert html.page(again) == html.page(report) and markdown.markdown(again) == markdown.markdown(report)


def test_the_users_words_are_shown_and_never_obeyed() -> None:
    labels = [EVIL, "🦜 <b>parrot</b>", "لغة عربية", "a very long name of a class " * 20, "体育" * 40]
    hostile = full(
        labels=labels,
        name=EVIL,
        accuracy_name=EVIL,
        examples=[example("lost", text=EVIL)],
        origin={"command": EVIL, "config": EVIL, "versions": {EVIL: EVIL}},
        paper={"source": EVIL, "student": {"accuracy": 0.9}},
        lost_members=[EVIL],
        folder=f"/runs/{EVIL}",
    )
    text, page = html.page(hostile), check(hostile)
    assert "<script" not in text and "49" not in page.text.split("stillhouse report")[0][:200]
    shown = " ".join(EVIL.split())
    assert page.text.count(shown) > 5 and "🦜 <b>parrot</b>" in page.text and "لغة عربية" in page.text
    written = markdown.markdown(hostile)
    outside = re.sub("(`{3,}).*?\\1", "", written, flags=re.DOTALL)  # code blocks show their text as it is
    assert "<script" not in outside and "<img" not in outside and "<b>" not in outside


def test_a_picture_is_base64_and_nothing_else(tmp_path: Path) -> None:
    files.write(full(), str(tmp_path))
    found = json.loads((tmp_path / "report.json").read_text())
    found["examples"][0]["image"] = 'x"><script>'
    (tmp_path / "report.json").write_text(json.dumps(found))
    with pytest.raises(RequestError, match=r"not a report .* expected the report\.json"):
        reports.load(str(tmp_path))


def test_the_command_prints_the_page_that_the_run_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.write(full(), str(tmp_path))
    assert main(["report", str(tmp_path), "--format", "html"]) == 0
    assert capsys.readouterr().out == (tmp_path / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.json", "report.md"}
    files.remove(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_template_is_part_of_the_package() -> None:
    assert importlib.resources.files("orchestrator.reporting").joinpath("page.html").is_file()
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert declared["package-data"]["orchestrator.reporting"] == ["page.html"]
