"""`stillhouse examples`: each is listed, goes into the wheel, and is copied without overwriting anything."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from orchestrator import RunConfig
from orchestrator.cli import examples
from orchestrator.cli.command import main

ROOT = Path(__file__).parents[2]
MOST_BYTES = 2**20
"""Of a file in the wheel."""


def test_all_are_listed_on_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(p.parent.name for p in ROOT.glob("examples/*/config.yaml"))
    assert "tabular           Trees and networks together teach one small network" in lines
    assert not [line for line in lines if "et al" in line and "et al." not in line]


def test_a_place_for_no_example_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "--to", str(tmp_path)]) == 2
    assert "no example is named, so none is copied" in capsys.readouterr().err


def test_the_wheel_has_them_without_large_data() -> None:
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    files = {path for patterns in packed.values() for each in patterns for path in ROOT.glob(each)}
    large = ROOT / "examples/speech/frames.npz"
    for example in examples.every().values():
        assert {*example.files.values()} - {large} <= files, f"{example.name}: name it in pyproject.toml, data-files"
    assert all(path.stat().st_size < MOST_BYTES for path in files) and large not in files


def test_a_copy_loads_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["examples", "ernie-tiny", "--to", str(tmp_path / "mine")]) == 0
    shown = capsys.readouterr().out
    assert f"Next: stillhouse run {tmp_path / 'mine' / 'config.yaml'}" in shown
    assert f"First get its data, as {tmp_path / 'textcnn' / 'prepare.py'} says" in shown
    config = RunConfig.load(str(tmp_path / "mine" / "config.yaml"))
    assert config.data.root == str(tmp_path / "textcnn")


def test_what_an_example_refers_to_is_prepared_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`prepare.py` of few-labels reads what that of textcnn writes."""
    assert main(["examples", "few-labels", "--to", str(tmp_path / "few-labels")]) == 0
    first = [line for line in capsys.readouterr().out.splitlines() if line.startswith("First")]
    assert len(first) == 2 and "textcnn" in first[0] and "few-labels" in first[1]


def test_what_a_script_makes_is_beside_it() -> None:
    """A file in a folder that it makes is none: an example would never be prepared."""
    made = {name: examples._made_by(ROOT / "examples" / name / "prepare.py") for name in ("few-labels", "distilbert")}
    assert made["few-labels"] == ["labelled.jsonl", "unlabeled.jsonl", "lexicon.tsv"]
    assert made["distilbert"] == ["corpus/", "reviews/", "tokenizer/"]
    topics = examples._made_by(ROOT / "examples/textcnn/prepare.py")
    assert topics == ["topics/", "r52/", "inews/", "minilm/", "bert-tiny/"]


def test_two_examples_may_refer_to_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["examples", "born-again"]) == main(["examples", "soft-tree"]) == 0
    assert (tmp_path / "mnist" / "digits.py").is_file() and (tmp_path / "soft-tree" / "config.yaml").is_file()
    (tmp_path / "mnist" / "digits.py").write_text("mine")
    assert main(["examples", "omitted-class"]) == 2
    assert (tmp_path / "mnist" / "digits.py").read_text() == "mine" and not (tmp_path / "omitted-class").exists()


def test_it_is_copied_into_a_folder_of_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, message in (
        ("s3://b/x", "in another storage. Expected a folder of this machine"),
        (str(tmp_path / ("a" * 300)), "cannot be written (File name too long). Expected a folder that this user may"),
    ):
        assert main(["examples", "mnist", "--to", folder]) == 2
        assert message in capsys.readouterr().err


def test_an_example_does_not_go_where_one_goes_that_it_refers_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("textcnn", "./textcnn/", "x/../textcnn"):
        assert main(["examples", "annealing", "--to", folder]) == 2
        assert "'annealing' refers to the example 'textcnn', whose copy goes into" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models.py").write_text("mine")
    assert main(["examples", "mnist", "--to", str(tmp_path)]) == 2
    assert "models.py' exists, and nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["models.py"]
    assert main(["examples", "minst"]) == 2
    assert "no example 'minst'; known: annealing, better-ensembles, born-again" in capsys.readouterr().err
