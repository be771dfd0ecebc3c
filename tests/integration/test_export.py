"""`stillhouse export`: networks of several kinds in each format, int8, the gate, the card, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.command import main
from orchestrator.run_folder.paths import RunFolder
from tests import commands, finished, texts
from workers import storage

ROOT = Path(__file__).parents[2]
TEXTCNN = {"factory": "convolutions:textcnn", "tokenizer": "encoder", "max_length": 12}
SMALL = {"classes": 3, "table": None, "vocabulary": 64, "size": 16, "filters": 8}
TINY = {"kind": "transformers", "config": texts.config(), "tokenizer": "encoder", "max_length": 12}
pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Finished runs whose students are networks that were not written for these tests, beside a plain one."""
    place = tmp_path_factory.mktemp("runs")
    models = {"convolutions.py": (ROOT / "examples/textcnn/models.py").read_text()}
    return {
        "mlp": finished.of_numbers(place / "mlp"),
        "convolutions": finished.of_numbers(place / "convolutions", "nets:convolutions"),
        "lstm": finished.of_numbers(place / "lstm", "nets:Lstm"),
        "untraceable": finished.of_numbers(place / "untraceable", "nets:Fixed"),
        "textcnn": finished.of_texts(place / "textcnn", {**TEXTCNN, "kwargs": SMALL}, models),
        "bert": finished.of_texts(place / "bert", TINY),
    }


def export(run: str, to: Path | str, name: str, *more: str) -> int:
    return main(["export", run, "--to", str(to), "--format", name, *more])


def about(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "export.json").read_text())
    return found


@pytest.mark.parametrize(
    ("student", "name"),
    [
        ("convolutions", "onnx"),
        ("lstm", "onnx"),
        ("textcnn", "onnx"),
        ("bert", "onnx"),
        ("untraceable", "torch"),
        ("textcnn", "torch"),
        ("bert", "transformers"),
    ],
)
def test_each_kind_of_network_answers_as_in_torch(
    runs: dict[str, str], tmp_path: Path, student: str, name: str
) -> None:
    target = tmp_path / "out"
    assert export(runs[student], target, name) == 0
    found = about(target)
    measured = found["measured"]
    assert isinstance(measured, dict)
    assert measured["agreement"]["difference"] < 1e-4
    assert measured["agreement"]["same_class"] == 1.0
    assert measured["share"] == pytest.approx(finished.share_of(runs[student]), abs=1e-9)
    assert measured["over_student"]["accuracy"] == 0.0
    assert 0 < measured["latency_ms"]["p50"] <= measured["latency_ms"]["p99"]
    assert set(found["files"]) | {"export.json"} == set(storage.files_below(str(target)))  # type: ignore[call-overload]
    for path, digest in found["files"].items():  # type: ignore[attr-defined]
        assert storage.sha256((target / path).read_bytes()) == digest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_cards_snippet_runs_in_the_folder_and_its_metadata_are_huggingfaces(
    runs: dict[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "out"
    assert export(runs["textcnn"], target, "onnx", "--license", "apache-2.0") == 0
    card = (target / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["license"] == "apache-2.0"
    assert metadata["pipeline_tag"] == "text-classification"
    figures = {each["type"]: each["value"] for each in metadata["model-index"][0]["results"][0]["metrics"]}
    assert figures["accuracy"] == pytest.approx(about(target)["measured"]["figures"]["accuracy"], abs=1e-6)  # type: ignore[index]
    for part in ("Licence: apache-2.0.", "member-2", "## Data", "| validation |", "geography, science, sport"):
        assert part in card
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    shown = commands.output(sys.executable, "-c", snippet, cwd=target)
    assert shown.count("[") == 3, "two rows of probabilities"


def test_int8_is_measured_like_any_other_system(runs: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert export(runs["bert"], tmp_path / "float", "onnx") == 0
    assert export(runs["bert"], target, "onnx", "--quantize", "int8") == 0
    measured = about(target)["measured"]
    assert isinstance(measured, dict)
    assert 0 < measured["agreement"]["difference"] < 0.1, "rounded, and nearly the student"
    assert measured["agreement"]["same_class"] > 0.9
    assert set(measured["intervals"]) == {"accuracy", "nll", "brier", "ece"}
    assert measured["intervals"]["nll"]["low"] < measured["figures"]["nll"] < measured["intervals"]["nll"]["high"]
    low, high = (measured["over_student"]["interval"][end] for end in ("low", "high"))
    assert low <= measured["over_student"]["accuracy"] <= high
    assert (target / "model.onnx").stat().st_size < (tmp_path / "float" / "model.onnx").stat().st_size
    assert not (target / "float.onnx").exists()
    assert about(target)["batch"] == 1, "as it was measured"
    assert "quantized to int8" in (target / "README.md").read_text()


def test_the_gate_on_both_sides_of_the_share(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share, target = finished.share_of(runs["mlp"]), tmp_path / "out"
    assert export(runs["mlp"], target, "torch", "--min-share", f"{share + 1e-6:.8f}") == 3
    assert "nothing was written or registered" in capsys.readouterr().err
    assert not target.exists()
    assert export(runs["mlp"], target, "torch", "--min-share", f"{share:.8f}", "--confidence", "0.95") == 3
    assert "More test examples would narrow the interval" in capsys.readouterr().err
    assert export(runs["mlp"], target, "torch", "--max-latency-ms", "1e-6") == 3
    assert "ms too slow" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert export(runs["mlp"], target, "torch", "--min-share", f"{share - 1e-6:.8f}", "--max-latency-ms", "60000") == 0
    assert target.exists()


def changed(run: str, place: Path) -> Path:
    """A copy of a run's folder."""
    shutil.copytree(run, place)
    return place


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    unfinished, earlier, other = (changed(runs["mlp"], tmp_path / name) for name in ("unfinished", "earlier", "other"))
    (unfinished / "report.json").unlink()
    Path(RunFolder(str(earlier)).sums).unlink()
    values = yaml.safe_load((other / "config.yaml").read_text())
    values["data"]["test"] = values["data"]["validation"]
    values["data"]["allow_overlap"] = True
    (other / "config.yaml").write_text(yaml.safe_dump(values))
    before = sorted(os.listdir(tmp_path))
    for run, name, more, message in (
        (str(unfinished), "onnx", (), "no report.json in it"),
        (str(tmp_path / "none"), "onnx", (), "no report.json in it"),
        (str(earlier), "onnx", (), "an earlier version of Stillhouse made this report"),
        (str(other), "onnx", (), "no longer those of the run"),
        (runs["mlp"], "transformers", (), "a format that the student has not"),
        (runs["bert"], "torch", (), "It has `--format onnx` and `--format transformers`"),
        (runs["mlp"], "torch", ("--quantize", "int8"), "--quantize int8"),
        (runs["mlp"], "onnx", ("--confidence", "0.95"), "no share is asked for"),
        (runs["mlp"], "onnx", ("--register",), "through the gate alone"),
        (runs["mlp"], "onnx", ("--min-share", "97"), "such as 0.97"),
        (runs["mlp"], "onnx", ("--license", "two\nlines"), "--license"),
        (runs["mlp"], "onnx", ("--set", "student.model.kwargs.hidden=3"), "takes a run as it is"),
        (runs["untraceable"], "onnx", (), "torch.onnx cannot trace"),
    ):
        assert export(run, target, name, *more) == 2, message
        assert message in capsys.readouterr().err
        assert sorted(os.listdir(tmp_path)) == before
    assert export(runs["mlp"], unfinished, "torch") == 2
    assert "which no export wrote" in capsys.readouterr().err


def test_an_export_that_parts_from_the_student_fails(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from workers.models import onnx_export

    write = onnx_export.write

    def wrong(module: torch.nn.Module, *arguments: object) -> None:
        before = module[2].bias.data.clone()  # type: ignore[index, union-attr, operator]
        module[2].bias.data[0] += 0.1  # type: ignore[index, union-attr, operator]
        write(module, *arguments)  # type: ignore[arg-type]
        module[2].bias.data = before  # type: ignore[index, union-attr, operator]

    monkeypatch.setattr(onnx_export, "write", wrong)
    assert export(runs["mlp"], tmp_path / "out", "onnx") == 1
    assert "the export parts from the student" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_factory_that_reads_outside_its_folder_needs_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = tmp_path / "elsewhere" / "sizes.json"
    sizes.parent.mkdir()
    sizes.write_text("[16]")
    code = "import json, nets\ndef net(path):\n    return nets.mlp(json.loads(open(path).read())[0])\n"
    run = finished.of_numbers(tmp_path / "config", "mine:net", {"path": str(sizes)}, {"mine.py": code})
    assert export(run, tmp_path / "out", "torch") == 2
    assert "outside its own folder" in capsys.readouterr().err
    assert export(run, tmp_path / "out", "onnx") == 0
