"""What may be set of a run that is exported."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.cli import export
from orchestrator.export import measure
from orchestrator.export.formats import Made
from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from tests import texts
from tests.makers import blobs
from workers import storage
from workers.artifacts import store
from workers.data import token_files
from workers.data.dataset import Split
from workers.data.texts import of_strings
from workers.data.tokens import IDS, Tokenization
from workers.errors import RequestError, RunError
from workers.evaluation import metrics
from workers.specs.models import ModelSpec


def test_redacted_values_of_a_run_are_given_again_and_others_are_not_changed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "data:\n  root: sftp://***@host/data\n  classes: 3\nstudents:\n- model: {factory: https://***@host/m}\n"
    )
    again = ["tracking.uri=http://host", "data.root=sftp://me:pw@host/data", "students.0.model.factory=x"]
    export._check_overrides(str(tmp_path), again)
    for other in ("data.classes=4", "data={root: /data}", "data.root.inner=x", "students.1.model.factory=x", "seed=1"):
        with pytest.raises(RequestError, match=r"an export takes a run as it is.*redacted \('\*\*\*'\)"):
            export._check_overrides(str(tmp_path), [*again, other])


def test_a_test_example_without_an_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = np.zeros((6, 3))
    predicted[4, 1] = np.nan
    monkeypatch.setattr(metrics, "log_probabilities", lambda *_, **__: predicted)
    made = Made(ModelSpec(factory="models:net"), "a.safetensors", {}, ())
    found: Any = None
    dataset: Any = SimpleNamespace(test=Split(*blobs(6, 0)))
    with pytest.raises(RunError, match=r"returned NaN for test example 4; expected finite logits\. Nothing was writ"):
        measure._sums(found, made, dataset, measure.FLOAT)


def test_tokens_that_a_run_has_kept_are_found(tmp_path: Path) -> None:
    how, column = Tokenization(texts.tokenizer(tmp_path / "tokenizer")), of_strings(["the river", "a river 7"])
    key, kept = token_files.key_of("a digest", how), export.tokens_in(str(tmp_path))
    folder = RunFolder(str(tmp_path)).tokens(key.digest)
    name, checksum = token_files.tokenize_block(folder, 0, (column,), how)
    assert kept("a digest", how) is None  # incomplete
    store.commit(storage.join(str(tmp_path), paths.tokens(key.digest)), key, {name: checksum})
    found = kept("a digest", how)
    assert found is not None and found.flat.tolist() == how(column)[IDS].flat.tolist()
    assert kept("another", how) is None
    Path(folder, name).unlink()
    Path(folder, name).write_bytes(b"damaged")
    assert kept("a digest", how) is None
