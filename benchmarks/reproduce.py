"""`docs/REPRODUCTIONS.md`: the papers' figures beside those of the reports that runs of the examples wrote.

    python -m benchmarks.reproduce              writes the page, from new reports and from the figures kept earlier
    python -m benchmarks.reproduce mnist        runs this experiment first, which may take hours

Figures are kept in `benchmarks/results/reproductions.json`, so that one machine need not run all experiments.
"""

from __future__ import annotations

import argparse
import base64
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

from benchmarks.reproductions import ROOT, Experiments, Measured, measured, of_fewer_seeds
from benchmarks.reproductions_page import PAGE, PICTURES, page
from orchestrator.reporting import report as reports
from orchestrator.reporting import sweeps
from orchestrator.run_folder.paths import RunFolder
from workers import storage

ROWS, KEPT = ROOT / "benchmarks/reproductions.yaml", ROOT / "benchmarks/results/reproductions.json"


def expanded(command: str, variables: Mapping[str, str]) -> str:
    """A command with the values of variables, which may use each other; those without one come from the environment."""
    known = {**os.environ, **{name: value for name, value in variables.items() if value}}
    for _ in range(2):
        command = Template(command).safe_substitute(known)
    return command


def run(command: str, folder: Path) -> None:
    """Run a command in a folder, with the programs of this Python's own environment."""
    known = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    words = shlex.split(command)
    subprocess.run(
        [shutil.which(words[0], path=known["PATH"]) or words[0], *words[1:]], cwd=folder, env=known, check=True
    )


def picture(place: str) -> bytes | None:
    """A PNG for the page: a sweep's map of its students, or the first of a run's own figures (`report.figures`)."""
    drawn, report = storage.join(place, sweeps.MAPS["student"]), RunFolder(place).report
    if storage.exists(drawn):
        return storage.read_bytes(drawn)
    figures = reports.load(place).figures if storage.exists(report) else []
    return base64.b64decode(figures[0].image) if figures else None


def as_text(kept: Mapping[str, Measured]) -> str:
    """The file of figures that are kept."""
    return json.dumps({name: each.model_dump() for name, each in sorted(kept.items())}, indent=1) + "\n"


def main() -> None:
    """Run experiments by name, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments to run first")
    parser.add_argument("--runs", help="the storage of all runs; left out: `runs` in the folder of each example")
    given = parser.parse_args()
    names = given.names
    asked = Experiments.model_validate(yaml.safe_load(ROWS.read_text()))
    unknown = {*names} - {row.name for row in asked.rows}
    if unknown:
        parser.error(f"no experiment {', '.join(unknown)}; known: {', '.join(row.name for row in asked.rows)}")
    commands = [
        (expanded(command, asked.variables), row.folder)
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
    kept = {
        name: Measured.model_validate(each)
        for name, each in json.loads(KEPT.read_text() if KEPT.exists() else "{}").items()
    }
    for row in asked.rows:
        found = measured(row, runs := given.runs or str(row.folder / "runs"))
        if found is None:
            continue
        fewer = of_fewer_seeds(row, found, kept[row.name]) if row.name in kept else []
        if fewer:
            print(f"{row.name}: its runs have fewer seeds of '{fewer[0]}' than are kept; kept figures stay")
            continue
        kept[row.name] = found
        drawn = picture(storage.join(runs, row.run))
        if drawn is not None:
            PICTURES.mkdir(exist_ok=True)
            (PICTURES / f"{row.name}.png").write_bytes(drawn)
    KEPT.write_text(as_text(kept))
    PAGE.write_text(page(asked, kept))


if __name__ == "__main__":
    main()
