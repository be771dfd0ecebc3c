"""What `stillhouse init` writes runs as it is written, for each kind of data; here with few members and epochs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from orchestrator.cli.command import main
from orchestrator.reporting import report
from tests.makers import blobs


def table(folder: Path) -> None:
    x, y = blobs(400, 1)
    frame = pd.DataFrame(x, columns=list("abcdefgh"))
    frame["region"], frame["verdict"] = np.array(["north", "south"])[y % 2], np.array(["u", "v", "w"])[y]
    frame.loc[::7, "a"] = np.nan
    frame.to_csv(folder / "people.csv", sep=";", decimal=",", index=False)


def arrays(folder: Path) -> None:
    for name, n, seed in (("train", 120, 1), ("test", 60, 2)):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 3, n)
        np.savez(
            folder / f"{name}.npz", x=rng.integers(0, 60, (n, 28, 28)).astype(np.uint8) + 60 * y[:, None, None], y=y
        )


def images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(90):
        place = folder / ("cat", "dog", "fish")[k % 3]
        place.mkdir(exist_ok=True)
        pixels = np.clip(rng.normal(60 + 60 * (k % 3), 40, (20 + k % 9, 30 - k % 7, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{k}.png")


def texts(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, n in (("train", 200), ("dev", 60), ("test", 60)):
        rows = [
            {"review": "".join(rng.choice([*("坏差贵" if k % 2 else "好净美")], 12)), "label": k % 2} for k in range(n)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


FEW = {
    "ensemble.size": "2",
    "ensemble.training.epochs": "2",
    "student.training.epochs": "2",
    "ensemble.resources_per_member.num_cpus": "0.5",
    "evaluation.latency_repeats": "3",
    "tracking.registered_model": "false",
}


@pytest.mark.slow
@pytest.mark.usefixtures("small_ray")
@pytest.mark.parametrize("made", [table, arrays, images, texts], ids=lambda made: made.__name__)
def test_a_configuration_of_init_runs_to_its_end(
    made: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    made(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "new", "--data", "data"]) == 0
    changes = [f"--set={key}={value}" for key, value in FEW.items()]
    assert main(["run", "new/config.yaml", *changes]) == 0
    found = report.load(str(tmp_path / "runs" / "new"))
    assert {system.role for system in found.systems} == {"member", "ensemble", "baseline", "student"}
    assert not (tmp_path / "new" / "runs").exists()
