"""What teachers say when they start, looked at together."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from orchestrator.stages import teaching
from orchestrator.teachers import checks
from workers.errors import RunError

CLASSES = 4
LABELS = np.arange(200) % CLASSES


def sure_of(classes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probabilities that mostly are of these classes, wrong one time in ten."""
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(len(classes)) < 0.1, rng.integers(0, CLASSES, len(classes)), classes)
    return np.eye(CLASSES, dtype=np.float32)[said] * 0.7 + 0.075


def of_members(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return {f"member-{k}": sure_of(LABELS, k) for k in range(4)} | {k.replace("_", "-"): v for k, v in changes.items()}


def test_sound_members_pass() -> None:
    checks.check(of_members(), LABELS, CLASSES)
    checks.check(of_members(), np.full(200, -1), CLASSES)
    rng = np.random.default_rng(0)
    guesses = {f"member-{k}": rng.dirichlet(np.ones(CLASSES), 200).astype(np.float32) for k in range(4)}
    checks.check(guesses, LABELS, CLASSES)  # knows nothing, but not in another order
    constant = np.eye(CLASSES, dtype=np.float32)[np.zeros(200, int)]
    checks.check(of_members(member_1=constant), LABELS, CLASSES)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (sure_of(LABELS)[:, :3], r"member-1 returned outputs \[200, 3\]; expected \[200, 4\]\. Correct"),
        (np.full((200, CLASSES), np.nan, np.float32), "member-1 returned NaN .* Replace its weights"),
        (
            sure_of((LABELS + 1) % CLASSES),
            "member-1 seems to have its classes in another order: .* 0 it calls 1.* permute",
        ),
    ],
)
def test_one_that_is_not_is_named(said: np.ndarray, message: str) -> None:
    with pytest.raises(RunError, match=message):
        checks.check(of_members(member_1=said), LABELS, CLASSES)


def test_one_that_is_not_sure_is_noted() -> None:
    """Its weights are random, and map each class to another one."""
    unsure = 0.1 * sure_of((LABELS + 1) % CLASSES) + 0.9 / CLASSES
    (note,) = checks.check(of_members(member_1=unsure.astype(np.float32)), LABELS, CLASSES)
    assert note.startswith(
        "member-1 takes classes for each other, and is not sure: what the others say is 0 it calls 1"
    )
    assert checks.check(of_members(), LABELS, CLASSES) == ()


def test_a_note_is_not_repeated_at_the_check_of_a_teacher_that_is_back() -> None:
    unsure = (0.1 * sure_of((LABELS + 1) % CLASSES) + 0.9 / CLASSES).astype(np.float32)
    transfer: Any = SimpleNamespace(labels_of=lambda ids: LABELS[ids])
    layout = SimpleNamespace(piece_ids=lambda piece: np.arange(200))
    made: Any = SimpleNamespace(planned=SimpleNamespace(classes=CLASSES), layout=layout)
    pool: Any = SimpleNamespace(probes=lambda: of_members(member_1=unsure), one_of_each_node=lambda: [])
    numerics: Any = SimpleNamespace(micro_batch=1024)
    notes: list[str] = []
    check = teaching._check(transfer, [], made, numerics, notes.append)
    check(pool)
    check(pool)
    assert len(notes) == 1


def test_all_of_them_in_another_order() -> None:
    moved = {f"member-{k}": sure_of((LABELS + 1) % CLASSES, k) for k in range(2)}
    with pytest.raises(RunError, match="the ensemble seems to have its classes in another order: what the labels say"):
        checks.check(moved, LABELS, CLASSES)


def test_answers_of_other_shapes_are_infinitely_far_apart() -> None:
    few, many = np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)
    assert checks.apart(few, many) == np.inf and checks.apart(few, few) == 0.0
