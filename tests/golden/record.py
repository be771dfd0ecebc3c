"""The golden record: what three small runs compute, as checksums of numbers and not of files.

    python -m tests.golden.record --write tests/golden/record.json [--command OTHER/.venv/bin/stillhouse]
    python -m tests.golden.record --compare tests/golden/record.json

Formats, names and keys may change; the numbers may not. Whatever `stillhouse` wrote is read by the names that
outsiders rely on, so that the record can be made from any commit. CPUs of other capabilities round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from tests import commands

HERE = Path(__file__).parent
CASES = {
    "mnist": HERE.parents[1] / "examples" / "mnist" / "config.yaml",
    "views": HERE / "views.yaml",
    "reweight": HERE / "reweight.yaml",
}
COLUMNS = ("example_id", "view", "probabilities", "top_ids", "top_probabilities", "tail")
"""Of a part, those that it has, in this order."""
COMMAND = [*commands.STILLHOUSE]
CASE_S = 1800.0
"""How long the run of a case may take."""


def record(command: list[str], cases: Mapping[str, Path] = CASES) -> dict[str, Any]:
    """What `command` computes for each case, and on what machine."""
    made = {}
    for name, config in cases.items():
        with tempfile.TemporaryDirectory(prefix="stillhouse-golden-") as scratch:
            print(f"{name} ...", file=sys.stderr, flush=True)
            changes = [f"storage={scratch}/runs", f"tracking.uri=sqlite:///{scratch}/mlflow.db"]
            sets = [argument for change in changes for argument in ("--set", change)]
            with commands.running(*command, "run", config, *sets, stdout=sys.stderr, stderr=None) as process:
                status = process.wait(timeout=CASE_S)
            if status:
                raise RuntimeError(f"{name}: '{' '.join(command)}' ended with {status}; expected 0.")
            made[name] = outcome(Path(scratch, "runs", name))
    return {"machine": machine(), "cases": made}


def machine() -> dict[str, str]:
    """What the bits of floating-point sums depend on, besides the code."""
    import torch

    return {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "instructions": _instructions(),
        "cores": str(os.cpu_count()),
        "architecture": platform.machine(),
        "torch": torch.__version__.partition("+")[0],  # without the build, such as +cpu
        "numpy": np.__version__,
    }


def _instructions() -> str:
    """The vector and matrix instructions of this CPU, by which oneDNN chooses kernels; empty where it is not Linux."""
    cpu = Path("/proc/cpuinfo")
    flags = re.search(r"^flags\s*:(.*)$", cpu.read_text() if cpu.exists() else "", re.MULTILINE)
    return " ".join(sorted(flag for flag in (flags[1].split() if flags else []) if re.match("avx|amx|fma", flag)))


METRICS = ("examples", "accuracy", "nll", "ece")
"""Test metrics of the record; reports of later versions have more."""
POINT = ("members", "accuracy", "nll")
"""What the record has of a point of the curve."""


def outcome(run: Path) -> dict[str, Any]:
    """Checksums of every part, of all weights, and the report's figures, of the run in this folder."""
    (manifest_file,) = run.glob("soft_targets/*/manifest.json")
    manifest = json.loads(manifest_file.read_text())
    report = json.loads((run / "report.json").read_text())
    return {
        "parts": [
            {"members": part["members"], "sha256": _of_part(manifest_file.parent / part["path"])}
            for part in manifest["parts"]
        ],
        "weights": {
            str(file.parent.relative_to(run)): _of_weights(file)
            for file in sorted([*run.glob("members/*/model.safetensors"), *run.glob("[bs]*/model.safetensors")])
        },
        "systems": {s["name"]: {name: s["test"][name] for name in METRICS} for s in report["systems"]},
        "curve": [{name: point[name] for name in POINT} for point in report["curve"]],
        "gain_transferred": report["gain_transferred"],
    }


def _of_part(path: Path) -> str:
    table, digest = pq.read_table(path), hashlib.sha256()
    for name in COLUMNS:
        if name in table.column_names:
            column = table.column(name).combine_chunks()
            values = column.flatten() if hasattr(column, "flatten") else column
            digest.update(name.encode() + np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).tobytes())
    return digest.hexdigest()


def _of_weights(path: Path) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(load_file(path).items()):
        digest.update(f"{name} {values.dtype} {values.shape} ".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Where two records part, by the path of what differs."""
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = [*expected, *(key for key in found if key not in expected)]
        return [line for key in keys for line in differences(expected.get(key), found.get(key), f"{where}/{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [line for number, pair in pairs for line in differences(*pair, f"{where}/{number}")]
    return [] if expected == found else [f"{where}: expected {expected}, found {found}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, help="the file to write")
    what.add_argument("--compare", type=Path, help="the file to compare with")
    parser.add_argument("--command", help="a `stillhouse` of another commit (default: this one)")
    parser.add_argument("--case", action="append", choices=CASES, help="only this case")
    asked = parser.parse_args()
    cases = {name: CASES[name] for name in asked.case or CASES}
    found = record([asked.command] if asked.command else COMMAND, cases)
    if asked.write:
        asked.write.write_text(json.dumps(found, indent=1) + "\n")
        return
    expected = json.loads(asked.compare.read_text())
    expected["cases"] = {name: expected["cases"][name] for name in cases}
    wrong = differences(expected, found)
    print("\n".join(wrong) or "every number as recorded")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
