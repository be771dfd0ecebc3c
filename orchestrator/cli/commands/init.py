"""`stillhouse init [FOLDER]`: a commented configuration for one's own data and checkpoints."""

from __future__ import annotations

import argparse
import os
import shlex
from typing import TYPE_CHECKING

from orchestrator.cli.commands import base
from orchestrator.cluster import interrupts

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cli.start.start import Started

HELP = "write a commented configuration for your own data"
EXAMPLES = (
    "stillhouse init digits --data train.npz --data test.npz",
    "stillhouse init churn --data customers.csv --label churned",
    "stillhouse init goods --data products.csv --label category --text title",
    "stillhouse init pets --data photos/            (a folder of images for each class)",
    "stillhouse init small --data texts.jsonl --checkpoint bert/",
)
NO_DATA = "none found, so the files have placeholders; `stillhouse init FOLDER --data URI` fills them in"


def arguments(parser: argparse.ArgumentParser) -> None:
    """FOLDER, the data, the checkpoints, the label and the text."""
    folder = parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", default=".", help="where to write (default: here)"
    )
    data = parser.add_argument(
        "--data",
        metavar="URI",
        action="append",
        default=[],
        help="npz, parquet, csv, tsv, jsonl, a folder or a pattern of tables, a folder of folders that are named like "
        "splits, or of images by class; once for each split (default: what is in FOLDER; without any, the files have "
        "placeholders)",
    )
    checkpoint = parser.add_argument(
        "--checkpoint",
        metavar="URI",
        action="append",
        default=[],
        help="a member that is trained already: weights of torch or safetensors, a folder of transformers, onnx, "
        "skops; or a folder of these",
    )
    parser.add_argument("--label", metavar="COLUMN", help="the column, or the array of an npz, that holds the classes")
    parser.add_argument(
        "--text",
        metavar="COLUMN",
        help="the column of texts to learn from; the other columns are ignored (default: a column of long texts, or of "
        "any texts if at most one other column can be a feature)",
    )
    base.completes(folder, base.FOLDERS)
    base.completes(data, base.FILES)
    base.completes(checkpoint, base.FILES)


def main(asked: argparse.Namespace) -> None:
    """Write the files, and say what was found and what to do next."""
    from orchestrator.observers.terminal import Screen

    with Screen() as screen:
        screen.wait_for("looking at the data", brief=True)
        with interrupts.at_once():
            from orchestrator.cli.start import start
        started = start.start(asked.folder, asked.data, asked.checkpoint, asked.label, asked.text)
    _tell(started, asked.folder, screen.out)


def _tell(started: Started, folder: str, out: Console) -> None:
    from orchestrator.cli.start.recipe import MEMBERS

    def line(text: str) -> None:
        out.print(text, markup=False, soft_wrap=True)

    seen, members, chosen = started.seen, started.members, started.chosen
    counts = ", ".join(f"{count:,} {split}" for split, count in seen.examples.items())
    found = f"{seen.data['kind']}, {counts}"
    line(f"Data: {NO_DATA if seen.to_do else found}")
    for reason in seen.reasons:
        line(f"  {reason}")
    for reason in members.reasons:
        line(f"  {reason}")
    for warning in seen.warnings:
        line(f"  warning: {warning}")
    teachers = "members from your checkpoints" if members.groups else f"{MEMBERS} members `{chosen.factory}`"
    minutes = max(1, round(chosen.minutes))
    about = "" if members.groups else f", about {minutes} {'minute' if minutes == 1 else 'minutes'} on two cores"
    if not seen.to_do:
        line(f"Run: {teachers}, a student `{chosen.factory}` of {chosen.student_training['epochs']} epochs{about}")
    for missing in (*seen.to_do, *members.missing):
        line(f"  to do: {missing}")
    line(f"Written: {', '.join(os.path.join(folder, file) for file in started.files)}")
    config = shlex.quote(os.path.normpath(os.path.join(folder, started.files[0])))
    line(f"Next: stillhouse doctor {config}    # what would stop a run\n      stillhouse run {config}")
