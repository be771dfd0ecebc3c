"""`stillhouse export RUN --to URI --format FORMAT`: a run's student for production, through a gate."""

from __future__ import annotations

import argparse

from orchestrator.cli.commands import base
from orchestrator.export import gate as gate_of

HELP = "a run's student as ONNX, torch or transformers, through a gate"
EXAMPLES = (
    "stillhouse export runs/digits --to exports/digits --format onnx",
    "stillhouse export runs/digits --to s3://models/digits --format onnx --quantize int8 \\\n"
    "      --min-share 0.97 --confidence 0.95 --max-latency-ms 10 --register",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """RUN, the target, the format, the gate, and where it is registered."""
    run = parser.add_argument(
        "run", metavar="RUN", type=base.run_folder, help="the folder of a finished run, a path or URI"
    )
    to = parser.add_argument("--to", metavar="URI", required=True, help="a folder to write, a path or URI")
    base.completes(run, base.FOLDERS)
    base.completes(to, base.FOLDERS)
    parser.add_argument("--format", choices=["onnx", "torch", "transformers"], required=True)
    parser.add_argument("--quantize", choices=["int8"], help="of --format onnx: weights and activations in int8")
    parser.add_argument("--license", metavar="NAME", help="for the model card, such as apache-2.0")
    gate = parser.add_argument_group("gate", "where it is not met, nothing is written, and the status is 3")
    gate.add_argument(
        "--min-share", metavar="X", type=gate_of.threshold, help="least share of the ensemble's accuracy, such as 0.97"
    )
    gate.add_argument(
        "--max-latency-ms", metavar="Y", type=gate_of.threshold, help="largest p99 of one example, on one thread"
    )
    gate.add_argument(
        "--confidence",
        metavar="C",
        type=float,
        help="level of the share's interval whose lower end has to reach --min-share, such as 0.95",
    )
    gate.add_argument(
        "--register",
        metavar="NAME",
        nargs="?",
        const="",
        help="register it in MLflow with the alias champion (default: the name of the run's student)",
    )
    base.add_overrides(parser)


def main(asked: argparse.Namespace) -> None:
    """Export the student, and show its figures."""
    from orchestrator.observers.terminal import Screen

    with Screen() as screen:
        screen.wait_for("loading torch")
        from orchestrator.cli import export, presentation

        done = export.export(
            export.Asked(
                run=asked.run,
                to=asked.to,
                format=asked.format,
                gate=gate_of.Gate(asked.min_share, asked.max_latency_ms, asked.confidence),
                quantize=asked.quantize,
                licence=asked.license,
                register=asked.register,
                overrides=tuple(asked.overrides),
            ),
            screen.wait_for,
        )
        presentation.show_export(done, screen)
