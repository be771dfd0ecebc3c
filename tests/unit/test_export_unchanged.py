"""An export takes the student as the run trained it: its weights, code and files are compared with the run's record."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from orchestrator.export import lineage, unchanged
from orchestrator.export.formats import Student
from orchestrator.reporting import sums
from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from orchestrator.run_folder.resolved import config_of
from tests import finished, texts
from tests.reports import plain
from workers import storage
from workers.data import loading, tokens
from workers.data.dataset import Dataset
from workers.errors import RequestError
from workers.inference.teacher import Member
from workers.specs.data import DataSpec

CODE = """
import json
from pathlib import Path
import torch
from torch import nn

SIGN = 1.0

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x):
        scale = json.loads(Path(__file__).with_name("scale.json").read_text())
        return self.layer(x) * scale * SIGN

def unused():
    return 1
"""


@dataclass(frozen=True)
class Run:
    """A finished run's folder, below that of its configuration."""

    folder: str

    def beside(self, name: str) -> Path:
        """A file beside the configuration."""
        return Path(config_of(self.folder).student.model.folder, name)  # type: ignore[union-attr]

    @property
    def record(self) -> Path:
        return Path(RunFolder(self.folder).shown("student"), paths.NETWORK)

    def change_record(self, **changes: Any) -> None:
        """Replace values of the record."""
        self.record.write_text(json.dumps(json.loads(self.record.read_text()) | changes))

    def load(self) -> Student:
        """The student, as an export takes it."""
        config = config_of(self.folder)
        dataset = loading.load(config.data, config.seed)
        model = config.for_classes(dataset.classes, dataset.label_names).student.model
        weights = storage.join(RunFolder(self.folder).shown("student"), model.weights_name)
        return unchanged.student_of(Member("student", model, weights), dataset, sums.read(self.folder)[0]["student"])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = Run(finished.of_numbers(tmp_path, "mine:Net", code={"mine.py": CODE, "scale.json": "1.0"}))
    assert found.load().predictor.parameters == 27
    return found


def test_another_code_or_another_file_is_refused(run: Run) -> None:
    code = run.beside("mine.py")
    code.write_text(CODE.replace("SIGN = 1.0", "SIGN = -1.0"))
    with pytest.raises(RequestError, match=r"code\.mine\.py changed.*check it out as it was"):
        run.load()
    code.write_text(CODE.replace("nn.Linear(8, 3)", "nn.Linear(8, 4)"))  # its weights would not even load
    with pytest.raises(RequestError, match=r"code\.mine\.py changed"):
        run.load()
    code.write_text(CODE.replace("return 1", "return 2  # which the network does not reach"))
    run.load()
    run.beside("scale.json").write_text("-1.0")
    with pytest.raises(RequestError, match=r"files\.scale\.json changed"):
        run.load()


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny = {"kind": "transformers", "config": texts.config(), "tokenizer": "encoder", "max_length": 12}
    run = Run(finished.of_texts(tmp_path, tiny))
    run.load()
    settings = tmp_path / "encoder" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"truncation_side": "left"}))
    tokens.load.cache_clear()
    tokens.digest.cache_clear()
    with pytest.raises(RequestError, match="tokenizer changed"):
        run.load()


def test_weights_that_the_run_did_not_write_are_refused(run: Run, tmp_path: Path) -> None:
    weights = Path(RunFolder(run.folder).shown("student"), "model.safetensors")
    shutil.copyfile(Path(RunFolder(run.folder).shown("member-0"), "model.safetensors"), tmp_path / "other")
    weights.unlink()  # a link to the weights in `trained`
    shutil.copyfile(tmp_path / "other", weights)
    with pytest.raises(RequestError, match="no longer the weights that the run wrote"):
        run.load()


@pytest.mark.parametrize("record", ["of an earlier format", "missing", "of other packages"])
def test_where_the_record_does_not_decide_the_reports_figures_do(run: Run, record: str) -> None:
    written = json.loads(run.record.read_text())
    if record == "missing":
        run.record.unlink()
    elif record == "of other packages":
        run.change_record(what=written["what"] | {"built.weights": "0" * 64, "packages.timm": "0.1"})
    else:
        before = {"fingerprint": written["key"], "sha256": written["files"]["model.safetensors"], "history": []}
        run.record.write_text(json.dumps({"format": 2, **before}))
    run.load()
    of_blocks, test = sums.read(run.folder)
    sums.write(run.folder, of_blocks | {"student": of_blocks["baseline"]}, test)
    with pytest.raises(RequestError, match=r"on the test examples its accuracy is .*, in the report"):
        run.load()


def of_people(folder: Path, ages: list[float], bought: list[str]) -> Dataset:
    """A table of people; half of `train.parquet` is the validation split, and `test.parquet` stays as it is."""
    people = pandas.DataFrame({"age": np.array(ages, float), "bought": bought})
    people.to_parquet(folder / "train.parquet")
    if not (folder / "test.parquet").exists():
        people[:6].to_parquet(folder / "test.parquet")
    spec = {"kind": "table", "label_column": "bought", "validation_share": 0.5, "allow_overlap": True}
    uris = {split: str(folder / f"{split}.parquet") for split in ("train", "test")}
    return loading.load(DataSpec.model_validate({**spec, **uris}), 0)


def test_data_that_decide_an_export_are_those_of_the_run(tmp_path: Path) -> None:
    ages, bought = [20.0, 30.0, 40.0, 50.0, 60.0, 70.0] * 4, ["yes", "no"] * 12
    found = of_people(tmp_path, ages, bought)
    digests, test = {name: digest for name, digest in found.digests.items() if digest}, found.test_digest
    report = plain(labels=["no", "yes"], classes=2, origin={"data": digests})
    unchanged.check_data(found, report, test)
    unchanged.check_data(found, plain(labels=["no", "yes"]), test)  # of an earlier version
    with pytest.raises(RequestError, match=r"data\.test: the examples are no longer those of the run"):
        unchanged.check_data(found, report, "0" * 64)
    masked = replace(found, test=replace(found.test, labels=None))
    with pytest.raises(RequestError, match="have changed, or an earlier version of Stillhouse masked them"):
        unchanged.check_data(masked, report, "0" * 64)
    more = of_people(tmp_path, [*ages, 1000.0, 1000.0], [*bought, "yes", "no"])
    with pytest.raises(RequestError, match=r"data\.train: .* numbers for empty cells"):
        unchanged.check_data(more, report, test)
    unchanged.check_data(replace(more, encodings=()), report, test)
    assert lineage._data(more, report) == digests
    third = of_people(tmp_path, [*ages, *ages[:6]], [*bought, *["perhaps"] * 6])
    with pytest.raises(RequestError, match=r"data\.train, .*found 3 \('no', 'perhaps', 'yes'\), expected 2"):
        unchanged.check_data(third, report, test)
