"""What members said: kept, read again bit for bit, and enough for any other temperature."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.test_teacher import WEIGHTS, X, answered, modules
from workers.data.numbering import RowNames
from workers.inference.teacher import Asked, Teacher
from workers.targets.member_logits import MemberLogits

IDS = np.arange(len(X))


def test_what_was_kept_makes_other_soft_targets_without_the_members(tmp_path: Path) -> None:
    kept = {name: MemberLogits(str(tmp_path / name)) for name in WEIGHTS}
    said = []

    def keeping(temperature: float, known: dict[str, torch.Tensor]) -> torch.Tensor:
        asked = Asked(X, known, {})
        (total,) = teacher.soften_all([asked], temperature=temperature, weights=WEIGHTS, combine="arithmetic")
        for name, logits in (asked.computed or {}).items():
            said.append(name)
            kept[name].write(0, RowNames(IDS), logits)
        return total

    teacher = Teacher(modules(), micro_batch=16)
    keeping(1.0, {})
    assert said == list(WEIGHTS)
    known = {name: MemberLogits(str(tmp_path / name)).read(0) for name in WEIGHTS}
    there = {name: logits for name, logits in known.items() if logits is not None}
    for temperature, combine in ((1.0, "arithmetic"), (5.0, "geometric")):
        computed = answered(teacher, X, temperature=temperature, weights=WEIGHTS, combine=combine)
        other, nothing = Teacher(modules(), micro_batch=16), torch.empty(len(X), 0)
        read = answered(other, nothing, temperature=temperature, weights=WEIGHTS, combine=combine, known=there)
        assert torch.equal(computed, read)
    del there["b"]  # a member that is new
    some = keeping(2.0, there)
    assert torch.equal(some, answered(teacher, X, temperature=2.0, weights=WEIGHTS, combine="arithmetic"))
    assert said == [*WEIGHTS, "b"]


def test_nothing_is_changed_in_the_folder_of_another_run(tmp_path: Path) -> None:
    MemberLogits(str(tmp_path)).write(0, RowNames(IDS), torch.randn(len(IDS), 4))
    other = MemberLogits(str(tmp_path), read_only=True)
    assert other.read(0) is not None
    other.write(1, RowNames(IDS), torch.randn(len(IDS), 4))
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    assert other.read(0) is None and file.exists()
    file.unlink()  # with its run
    assert other.read(0) is None


def test_what_is_damaged_is_as_if_it_were_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    MemberLogits(str(tmp_path)).write(3, RowNames(IDS), torch.randn(len(IDS), 4))
    assert MemberLogits(str(tmp_path)).read(2) is None and MemberLogits(str(tmp_path)).read(3) is not None
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert MemberLogits(str(tmp_path)).read(3) is None
    assert "thrown away" in caplog.text and not file.exists()
