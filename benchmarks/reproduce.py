"""`docs/REPRODUCTIONS.md`: the papers' figures beside those of the reports that runs of the examples wrote.

    python -m benchmarks.reproduce              writes the page, from new reports and from the figures kept earlier
    python -m benchmarks.reproduce mnist        runs this experiment first, which may take hours

Figures are kept in `benchmarks/results/reproductions.json`, so that one machine need not run all experiments.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template

import yaml

from benchmarks.reproductions import ROOT, Experiments, Measured, Row, measured, of_fewer_seeds
from benchmarks.reproductions_page import PAGE, PICTURES, page
from orchestrator.reporting import plots, sweeps
from orchestrator.reporting import report as reports
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages import trained
from workers import storage
from workers.errors import StillhouseError, first_line

ROWS, KEPT = ROOT / "benchmarks/reproductions.yaml", ROOT / "benchmarks/results/reproductions.json"
ODD = (StillhouseError, LookupError, ValueError, ArithmeticError)
"""What reading a report raises that is damaged, or lacks a figure."""


def expanded(command: str, variables: Mapping[str, str]) -> str:
    """A command with the values of variables, which may use each other; those without one come from the environment,
    each as one word of a shell, whatever is in it."""
    known = {name: shlex.quote(value) for name, value in os.environ.items()}
    known |= {name: value for name, value in variables.items() if value}
    for _ in range(2):
        command = Template(command).safe_substitute(known)
    return command


def stored(command: str, runs: str) -> str:
    """A command whose runs are in the storage `runs`; empty: as its configuration has it."""
    if not runs or shlex.split(command)[0] != "stillhouse":
        return command
    return f"{command} --set {shlex.quote(f'storage={json.dumps(runs)}')}"  # a text of JSON is one of YAML


def run(command: str, folder: Path) -> None:
    """Run a command in a folder, with the programs of this Python's own environment."""
    known = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    words = shlex.split(command)
    subprocess.run(
        [shutil.which(words[0], path=known["PATH"]) or words[0], *words[1:]], cwd=folder, env=known, check=True
    )


def picture(place: str, plot: str = "") -> bytes | None:
    """A PNG for the page: a sweep's map of its students, this plot of a run, or the first of its own figures
    (`report.figures`); None where there is none.

    plot: the name of one of `plots.figures`; empty: none.
    """
    drawn, folder = storage.join(place, sweeps.MAPS["student"]), RunFolder(place)
    if storage.exists(drawn):
        return storage.read_bytes(drawn)
    if not storage.exists(folder.report):
        return None
    report = reports.load(place)
    if not plot:
        return base64.b64decode(report.figures[0].image) if report.figures else None
    records = {role: trained.record_in(folder.shown(role)) for role in ("baseline", "student")}
    histories = {role: trained.epochs(record) for role, record in records.items() if record is not None}
    if len(histories) < len(records):
        return None
    content = io.BytesIO()
    plots.figures(report, histories)[plot].savefig(content, format="png")
    return content.getvalue()


def as_text(kept: Mapping[str, Measured]) -> str:
    """The file of figures that are kept."""
    return json.dumps({name: each.model_dump() for name, each in sorted(kept.items())}, indent=1) + "\n"


def update(kept: dict[str, Measured], row: Row, runs: str, cores: int) -> str | None:
    """Keep the figures of a row's runs, and its picture; returns why those kept earlier stay, empty where they do not.

    runs: the storage of its runs. cores: of the machine that they ran on. Returns None where its run is not there.

    Raises: one of `ODD`.
    """
    found = measured(row, runs, cores)
    if found is None:
        return None
    fewer = of_fewer_seeds(row, found, kept[row.name]) if row.name in kept else []
    if fewer:
        return f"its runs have fewer seeds of '{fewer[0]}' than are kept"
    drawn = picture(storage.join(runs, row.run), row.picture)
    kept[row.name] = found
    if drawn is not None:
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / f"{row.name}.png").write_bytes(drawn)
    return ""


def execute(asked: Experiments, names: list[str], runs: str, parser: argparse.ArgumentParser) -> None:
    """Run the commands of these experiments. Raises: SystemExit where one fails, or a variable is not set."""
    variables = {**asked.variables, **({"RUNS": shlex.quote(runs)} if runs else {})}
    commands = [
        (stored(expanded(command, variables), runs), row.folder)
        for row in asked.rows
        for command in (row.commands if row.name in names else ())
    ]
    missing = {name for name in asked.variables for command, _ in commands if f"${name}" in command}
    if missing:
        parser.error(f"{', '.join(sorted(missing))}: not set; expected a folder of the four idx files in each")
    for command, folder in commands:
        try:
            run(command, folder)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"in {folder}: '{command}' ended with the status {error.returncode}") from error


def main() -> None:
    """Run experiments by name, and write the page. Raises: SystemExit with the rows that could not be read, after it
    wrote the page with the figures that were kept of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments to run first")
    parser.add_argument("--runs", help="the storage of all runs; left out: `runs` in the folder of each example")
    parser.add_argument(
        "--cores", type=int, default=os.cpu_count() or 1, help="of the machine of the runs; left out: those of this one"
    )
    given = parser.parse_args()
    asked = Experiments.model_validate(yaml.safe_load(ROWS.read_text()))
    unknown = {*given.names} - {row.name for row in asked.rows}
    if unknown:
        parser.error(f"no experiment {', '.join(unknown)}; known: {', '.join(row.name for row in asked.rows)}")
    runs = storage.absolute(given.runs) if given.runs else ""
    execute(asked, given.names, runs, parser)
    kept = {
        name: Measured.model_validate(each)
        for name, each in json.loads(KEPT.read_text() if KEPT.exists() else "{}").items()
    }
    odd = []
    for row in asked.rows:
        place = runs or str(row.folder / "runs")
        try:
            stays = update(kept, row, place, given.cores)
        except ODD as error:
            odd.append(f"{row.name}: {first_line(error)}")
            continue
        if stays is None and row.name in given.names:
            odd.append(f"{row.name}: its commands left no run in {place}")
        elif stays:
            print(f"{row.name}: {stays}; kept figures stay")
    KEPT.write_text(as_text(kept))
    PAGE.write_text(page(asked, kept))
    if odd:
        raise SystemExit("\n".join(["not read, so that kept figures stay:", *odd]))


if __name__ == "__main__":
    main()
