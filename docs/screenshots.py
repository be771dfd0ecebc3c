"""The documentation's pictures of MLflow and of a report's page, taken in a real browser.

    python docs/screenshots.py --uri sqlite:///mlflow.db|http://HOST:PORT --experiment NAME [--out docs/images]
    python docs/screenshots.py --report runs/mnist/report.html [--out docs/images]

A page that lacks what it should show is an error.

Needs Chromium (Debian: `apt-get install chromium`) and `pip install '.[screenshots]'`. A database gets a server of its
own on loopback for as long as it takes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from playwright.sync_api import Page

WIDTH, HEIGHT = 1440, 900
START_S = 120.0
SHOWN_S = 30.0
SETTLED_S = 0.4
"""A page is drawn when two pictures of it, so far apart, are the same."""
MAX_BYTES = 150_000
COLOURS = (256, 128, 64, 32, 16)
COMPARED = 3
IN_SIGHT = 5
"""Of the metrics of runs that are compared, so many are drawn before one scrolls."""

REPORT_WIDTH, REPORT_HEIGHT = 1120, 1300
"""Of the report's picture: its verdict, the table of systems and their figures."""
REPORT = (
    "Was the ensemble worth it?",
    "Did the student get it?",
    "How sure is that?",
    "Systems",
    "ensemble",
    "student",
)
"""What a report's page has in sight."""
TABLE = "comparison.json"
PLOT = "plots/accuracy_by_members.png"
CURVES = ("train_loss", "validation_accuracy", "validation_nll")
COLUMNS = (
    "metrics.`gain_transferred`",
    "metrics.`ensemble_test_accuracy`",
    "metrics.`baseline_test_accuracy`",
    "metrics.`student_test_accuracy`",
    "metrics.`test_accuracy`",
    "params.`distillation.temperature`",
)
"""What the list of runs shows; MLflow's own choice has no figure in it."""
LEFT_OUT = {
    "mlflow.workflowType_v1": '"machine_learning"',  # or the pages of an experiment are about traces
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
    "mlflow.assistant.panelOpen_v1": "false",
    "mlflow.telemetry.info.alert.dismissed_v1": "true",
    "_mlflow_model_registry_promo_modal_dismissed_v1": "true",
}
"""MLflow's interface as it is for somebody who has closed its introductions: keys of the browser's local storage."""


class NotShownError(Exception):
    """A page lacks what it should show."""


@dataclass(frozen=True)
class Subject:
    """What is photographed: an experiment, its runs, the newest of them with its systems."""

    experiment_id: str
    experiment: str
    parents: list[Run]
    """Those that are complete, newest first."""
    systems: list[Run]
    models: list[str]

    @property
    def newest(self) -> Run:
        return self.parents[0]

    def system(self, role: str) -> Run:
        return next(run for run in self.systems if run.data.tags["stillhouse.role"] == role)


@dataclass(frozen=True)
class Shot:
    """One picture: where, what must be on it, and what is done to the page first."""

    name: str
    place: str
    expected: Sequence[str]
    prepare: Callable[[Page], None] = field(default=lambda page: None)
    width: int = WIDTH
    height: int = HEIGHT


@contextmanager
def serving(uri: str) -> Iterator[str]:
    """The URL of a server on `uri`: itself, or one that is started for a database and ended afterwards."""
    if uri.startswith(("http://", "https://")):
        yield uri.rstrip("/")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        [*command, "--backend-store-uri", uri],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"`mlflow server` did not start: {error}") from error
            time.sleep(0.3)


def look_up(client: MlflowClient, name: str) -> Subject:
    """What there is to see of experiment `name`."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise NotShownError(f"there is no experiment '{name}'")
    parents = client.search_runs(
        [experiment.experiment_id],
        "tags.`stillhouse.role` = 'run' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
    )
    if not parents:
        raise NotShownError(f"experiment '{name}' has no run that is complete")
    systems = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'")
    models = [model.name for model in client.search_registered_models()]
    return Subject(experiment.experiment_id, name, list(parents), list(systems), models)


def shots(subject: Subject) -> list[Shot]:
    """The pictures, in the order in which one looks."""
    newest, student = subject.newest, subject.system("student")
    runs = f"/experiments/{subject.experiment_id}/runs"
    run = f"{runs}/{newest.info.run_id}"
    metrics = sorted(name for name in newest.data.metrics if not name.startswith("system/"))
    found = [
        Shot(
            "experiment",
            runs,
            [*_names(subject.parents[:COMPARED]), *_names(subject.systems), *_plain(_columns(subject))],
            _widen_columns,
            width=1760,
        ),
        Shot("run", run, [_name(newest), "Description", *_names(subject.systems), *metrics], _show_more),
        Shot("metrics", f"{run}/model-metrics", [_name(newest), "Model metrics"], _find_charts(metrics)),
        Shot("comparison", f"{run}/artifacts/{TABLE}", [TABLE, "system", "accuracy", *_names(subject.systems)]),
        Shot("plot", f"{run}/artifacts/{PLOT}", [PLOT], _wait_for_picture),
        Shot("student", f"{runs}/{student.info.run_id}/model-metrics", [_name(student), *CURVES], _only_curves),
    ]
    if len(subject.parents) > 1:
        compared = subject.parents[:COMPARED]
        ids = json.dumps([each.info.run_id for each in compared], separators=(",", ":"))
        place = f"/compare-runs?runs={ids}&experiments={json.dumps([subject.experiment_id])}"
        expected = [f"Comparing {len(compared)} Runs", *_names(compared), *metrics[:IN_SIGHT]]
        found.append(Shot("compare", place, expected, _show_differences, height=1200))
    if subject.models:
        found.append(Shot("models", "/models", ["Registered Models", *subject.models[:5]]))
    return found


@contextmanager
def browsing(subject: Subject | None, chromium: str) -> Iterator[Page]:
    """A page of a browser that has been in MLflow before. subject: None for pages of another kind."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.set_default_timeout(SHOWN_S * 1000)
            if subject is not None:
                page.add_init_script(_settings(subject))
            yield page
        finally:
            browser.close()


def take(shot: Shot, page: Page, url: str, out: Path) -> Path:
    """The picture as a PNG in `out`. Raises: `NotShownError`, and leaves what there was to see in NAME.failed.png."""
    from playwright.sync_api import Error

    out.mkdir(parents=True, exist_ok=True)
    page.goto("about:blank")  # the interface keeps what it shows where only the fragment of its address changes
    page.set_viewport_size({"width": shot.width, "height": shot.height})
    page.goto(f"{url}/#{urllib.parse.quote(shot.place, safe='/?&=')}")
    try:
        _wait_for_text(page, shot.expected[:1])
        shot.prepare(page)
        _wait_for_text(page, shot.expected)
        page.wait_for_function("() => !document.querySelector('[role=dialog]')")  # it would hide what is there
    except Error as error:
        shown = page.inner_text("body")
        missing = [text for text in shot.expected if text not in shown] or str(error).splitlines()[0]
        behind = f"all, for a dialog is before it: {missing}" if page.get_by_role("dialog").count() else missing
        page.screenshot(path=out / f"{shot.name}.failed.png")
        raise NotShownError(f"{shot.name}: {page.url} does not show {behind}") from error
    path = out / f"{shot.name}.png"
    path.write_bytes(small(_settled(page)))
    return path


def take_report(file: Path, page: Page, out: Path) -> Path:
    """The top of a report's page as `report.png` in `out`. Raises: `NotShownError` where it lacks its verdict."""
    out.mkdir(parents=True, exist_ok=True)
    page.set_viewport_size({"width": REPORT_WIDTH, "height": REPORT_HEIGHT})
    page.goto(file.resolve().as_uri())
    missing = [text for text in REPORT if text not in page.inner_text("body")]
    if missing:
        raise NotShownError(f"{file} does not show {missing}")
    path = out / "report.png"
    path.write_bytes(small(_settled(page)))
    return path


def _wait_for_text(page: Page, expected: Sequence[str]) -> None:
    page.wait_for_function("texts => texts.every(text => document.body.innerText.includes(text))", arg=list(expected))


def _settled(page: Page) -> bytes:
    """The page's picture once nothing moves on it any more."""
    until, before = time.monotonic() + SHOWN_S, page.screenshot()
    while time.monotonic() < until:
        page.wait_for_timeout(SETTLED_S * 1000)
        now = page.screenshot()
        if now == before:
            return now
        before = now
    raise NotShownError(f"{page.url} never comes to rest")


def small(png: bytes) -> bytes:
    """The same picture in as many colours as fit into `MAX_BYTES`."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in COLOURS:
        out = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        if out.tell() <= MAX_BYTES:
            break
    return out.getvalue()


def _settings(subject: Subject) -> str:
    """A script that a page begins with: nothing that pops up, the newest run opened, columns with figures."""
    view = {"selectedColumns": _columns(subject), "runsExpanded": {subject.newest.info.run_id: True}}
    key = f"MLflowLocalStorage-1.1-ExperimentPage-{json.dumps([subject.experiment_id])}-ReactComponentState"
    kept = LEFT_OUT | {key: json.dumps(view)}
    return f"for (const [key, value] of Object.entries({json.dumps(kept)})) localStorage.setItem(key, value)"


def _columns(subject: Subject) -> list[str]:
    there = {f"metrics.`{m}`" for run in (subject.newest, *subject.systems) for m in run.data.metrics}
    there |= {f"params.`{p}`" for p in subject.newest.data.params}
    return [column for column in COLUMNS if column in there]


def _plain(columns: Sequence[str]) -> list[str]:
    return [column.split("`")[1] for column in columns]


def _names(runs: Sequence[Run]) -> list[str]:
    return [_name(run) for run in runs]


def _name(run: Run) -> str:
    name: str = run.info.run_name
    return name


def _widen_columns(page: Page) -> None:
    """A double click on a column's edge makes it as wide as what is in it."""
    page.locator(".ag-header-cell[col-id^='metrics']").first.wait_for()
    for edge in page.locator(
        ".ag-header-cell:is([col-id^='metrics'], [col-id^='params']) .ag-header-cell-resize"
    ).all():
        edge.dblclick(force=True)
    page.mouse.move(0, 0)


def _show_more(page: Page) -> None:
    """Open a long description."""
    page.get_by_text("Metrics (", exact=False).first.wait_for()
    more = page.get_by_text("Show more", exact=True)
    if more.count():
        more.first.click()


def _wait_for_picture(page: Page) -> None:
    page.wait_for_function("() => [...document.images].some(image => image.naturalWidth > 400)")


def _find_charts(metrics: Sequence[str]) -> Callable[[Page], None]:
    """See that each metric has a chart, though only those in sight are drawn, and leave the page as it was."""

    def find(page: Page) -> None:
        search = page.get_by_placeholder("Search metric charts")
        for metric in metrics:
            search.fill(f"^{metric}$")
            _wait_for_text(page, [metric.rpartition("/")[2]])  # what is before a slash heads a section
        search.fill("")
        search.blur()

    return find


def _only_curves(page: Page) -> None:
    """The charts of training, of all that there are."""
    search = page.get_by_placeholder("Search metric charts")
    search.fill("|".join(CURVES))
    search.blur()


def _show_differences(page: Page) -> None:
    """The parameters that differ, and all metrics, without the plots above them."""
    page.get_by_text("Visualizations", exact=True).click()
    page.get_by_label("Parameters - Show diff only").click()


def _taken(asked: Any) -> Iterator[Path]:
    """Each picture that the command asks for, once it is written."""
    if asked.report:
        with browsing(None, asked.chromium) as page:
            yield take_report(asked.report, page, asked.out)
    if asked.uri:
        from mlflow import MlflowClient

        with serving(asked.uri) as url:
            subject = look_up(MlflowClient(url), asked.experiment)
            with browsing(subject, asked.chromium) as page:
                for shot in shots(subject):
                    yield take(shot, page, url, asked.out)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--uri", help="sqlite:///PATH, or the URL of a running server")
    parser.add_argument("--experiment")
    parser.add_argument("--report", type=Path, help="a report.html")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser; that of the PATH")
    asked: Any = parser.parse_args(words)
    if asked.chromium is None:
        parser.error("there is no `chromium` on the PATH; install it, or say where it is with --chromium")
    if not asked.report and not (asked.uri and asked.experiment):
        parser.error("expected --report, or --uri and --experiment")
    try:
        for path in _taken(asked):
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
    except NotShownError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
