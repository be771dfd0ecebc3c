"""`stillhouse doctor [CONFIG]`: this machine, and what a configuration needs of it."""

from __future__ import annotations

import argparse

from orchestrator.cli.commands import base
from workers.errors import RequestError

HELP = "what would stop a run: versions, GPUs, disk, memory, storage, packages, data, code"
EXAMPLES = ("stillhouse doctor", "stillhouse doctor config.yaml")


def arguments(parser: argparse.ArgumentParser) -> None:
    """CONFIG, which may be left out."""
    base.add_config(parser, "check what this configuration needs", nargs="?")


def main(asked: argparse.Namespace) -> None:
    """Print each finding as soon as it is known. Raises: `RequestError` with those that would stop a run."""
    if asked.overrides and asked.config is None:
        raise RequestError(
            f"--set {asked.overrides[0]}: no configuration is given, whose key it overrides. Give CONFIG."
        )
    from orchestrator.cli import doctor
    from orchestrator.cli.checks import finding
    from orchestrator.config.run_config import RunConfig
    from orchestrator.observers.terminal import Screen

    config = RunConfig.load(asked.config, asked.overrides) if asked.config else None
    findings, out = [], Screen().out
    for name, look in doctor.checks(config):
        out.print(f"{name:<14} ", end="", markup=False)  # show the check while it runs
        out.file.flush()
        found = finding.of_check(name, look)
        out.print(("warning: " if found.level == "warning" else "") + found.found, markup=False, soft_wrap=True)
        findings.append(found)
    wrong = [f for f in findings if f.level == "stops"]
    if wrong:
        raise RequestError("\n".join(f"{f.name}: {f.found}" for f in wrong))
