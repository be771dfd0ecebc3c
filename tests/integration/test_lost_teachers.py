"""A teacher dies, hangs or raises in a pass: restarted without a trace, left out on record, or the end of the run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from orchestrator.cluster.reservation import of_teachers, reserved
from orchestrator.cluster.resources import Placement
from orchestrator.config.ensemble import EnsembleSpec
from orchestrator.teachers import slot as slots
from orchestrator.teachers.actors import Actors, LiveActor, starter
from orchestrator.teachers.events import Event, Tick
from orchestrator.teachers.instructions import Start
from orchestrator.teachers.pool import AT_ONCE, Hooks, Hosting, TeacherPool
from tests.makers import MODELS, NUMERICS, blobs
from workers.data.dataset import Dataset, Split
from workers.data.numbering import Numbering
from workers.errors import RunError
from workers.inference.actor import TeacherWork
from workers.inference.reduce import Reduction, Rule
from workers.inference.teacher import Member
from workers.models import checkpoints, torch_module
from workers.specs.models import ModelSpec
from workers.targets.layout import PartLayout
from workers.targets.soft_targets import read_part

pytestmark = pytest.mark.usefixtures("small_ray")
ROWS = 24 * 1024
LAYOUT = PartLayout(ROWS, 1024)


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    folder = tmp_path_factory.mktemp("members")
    (folder / "models.py").write_text(MODELS)
    spec = ModelSpec(factory="models:mlp", folder=str(folder))
    made = [Member(f"member-{k}", spec, str(folder / f"{k}.safetensors")) for k in range(3)]
    for k, member in enumerate(made):
        checkpoints.save(torch_module.build(spec, seed=k).state_dict(), member.weights)
    return made


@pytest.fixture(scope="module")
def data(small_ray: None) -> ray.ObjectRef[Dataset]:
    split = Split(*blobs(ROWS, 0))
    return ray.put(Dataset(split, split, split, None, 3))


def mean_of(members: Sequence[Member], t: float) -> np.ndarray:
    x = torch.from_numpy(blobs(ROWS, 0)[0])
    answers = []
    for member in members:
        module = torch_module.build(member.model)
        checkpoints.load(module, member.weights)
        answers.append(torch.softmax(module(x).detach() / t, -1))
    return torch.stack(answers).mean(0).numpy()


def collect(
    members: list[Member],
    data: ray.ObjectRef[Dataset],
    folder: Path,
    policy: str,
    disturb: Mapping[int, Callable[[TeacherPool], None]],
    on_workers: bool = False,
    actors: int = 3,
    heard: list[tuple[str, list[str]]] | None = None,
) -> tuple[np.ndarray, list[tuple[str, list[str]]], list[list[str]]]:
    """Soft targets, the notes of the pool, and the members that made each part. `disturb`: actions after a part."""
    spec = EnsembleSpec.model_validate(
        {"size": 3, "model": members[0].model.model_dump(), "training": {"epochs": 1}, "on_member_loss": policy}
    )
    heard: list[tuple[str, list[str]]] = [] if heard is None else heard
    found, made_by = np.empty((ROWS, 3), np.float32), []
    placement = Placement(3, actors, 0.5, 0.0)

    def hear(action: str, names: Sequence[str], evidence: str) -> None:
        heard.append((action, list(names)))

    with reserved(of_teachers(placement), 60.0) as group:
        start = starter(data, TeacherWork(3, LAYOUT, NUMERICS), placement, group)
        hosting = Hosting(members, [1.0] * 3, placement.groups())
        with TeacherPool(hosting, start, spec, Hooks(hear, lambda: None, lambda pool: None)) as pool:
            reduction = Reduction(
                folder=str(folder),
                layout=LAYOUT,
                classes=3,
                rule=Rule("arithmetic"),
                numerics=NUMERICS,
                numbering=Numbering(ROWS),
                reduces_on_workers=on_workers,
            )
            for number, part in enumerate(pool.stream(range(LAYOUT.parts), 2.0, reduction)):
                rows = read_part(str(folder), part)
                found[rows.ids] = rows.targets.columns[0]
                made_by.append(part.members)
                disturb.get(number, lambda pool: None)(pool)
    return found, heard, made_by


def actor_of(pool: TeacherPool, k: int = 1) -> LiveActor:
    """The actor in a slot, which may be on its way."""
    actor = pool.state.membership.slots[k].actor
    assert actor is not None
    return pool.actors.live[actor.number]


def pid_of(pool: TeacherPool) -> int:
    started = actor_of(pool).started
    assert started is not None
    return started.where.pid


def kill(pool: TeacherPool) -> None:
    ray.kill(actor_of(pool).handle)


def stop(pool: TeacherPool) -> None:
    os.kill(pid_of(pool), signal.SIGSTOP)


def say_nonsense(pool: TeacherPool) -> None:
    """From here on the member in the middle answers NaN."""
    ray.get(actor_of(pool).handle.__ray_call__.remote(lambda host: _spoil(host)))


def _spoil(host: Any) -> None:
    for parameter in host.teacher.modules["member-1"].parameters():
        parameter.data.fill_(float("nan"))


def test_waiting_restarts_and_changes_no_bit(
    members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path
) -> None:
    undisturbed, heard, _ = collect(members, data, tmp_path / "undisturbed", "wait", {})
    assert not heard
    np.testing.assert_allclose(undisturbed, mean_of(members, 2.0), atol=1e-6)
    disturbed, heard, made_by = collect(members, data, tmp_path / "disturbed", "wait", {1: kill, 7: kill})
    assert [action for action, _ in heard] == ["restart", "restart"] and heard[0][1] == ["member-1"]
    assert disturbed.tobytes() == undisturbed.tobytes()
    assert all(len(names) == 3 for names in made_by)
    on_workers, heard, _ = collect(members, data, tmp_path / "on_workers", "wait", {2: kill}, on_workers=True)
    assert len(heard) == 1 and on_workers.tobytes() == undisturbed.tobytes()


def keep_away(monkeypatch: pytest.MonkeyPatch, is_kept: Callable[[LiveActor], bool]) -> None:
    """No news of those actors comes that are started again, while they are kept."""
    again: set[int] = set()
    start, starts = Actors.start, Actors.starts

    def start_and_note(self: Actors, wanted: Start) -> None:
        again.update({wanted.actor} if wanted.again else ())
        start(self, wanted)

    def some_starts(self: Actors, now_s: float) -> list[Event]:
        kept = {actor.up: actor for number, actor in self.live.items() if number in again and is_kept(actor)}
        for actor in kept.values():
            actor.up = None
        found = starts(self, now_s)
        for up, actor in kept.items():
            actor.up = up
        return found

    monkeypatch.setattr(Actors, "start", start_and_note)
    monkeypatch.setattr(Actors, "starts", some_starts)


@pytest.fixture
def kept_away(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """While `["kept"]`, an actor that was started again does not come up."""
    away = {"kept": False}
    keep_away(monkeypatch, lambda actor: away["kept"])
    return away


def test_reweighting_goes_on_with_the_others_on_record(
    members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path, kept_away: dict[str, bool]
) -> None:
    kept_away["kept"] = True
    found, heard, made_by = collect(members, data, tmp_path, "reweight", {1: kill})
    assert heard == [("reweight", ["member-1"])]
    assert made_by[0] == ["member-0", "member-1", "member-2"] and made_by[-1] == ["member-0", "member-2"]
    first, last = LAYOUT.ids(0), LAYOUT.ids(LAYOUT.parts - 1)
    np.testing.assert_allclose(found[first], mean_of(members, 2.0)[first], atol=1e-6)
    np.testing.assert_allclose(found[last], mean_of([members[0], members[2]], 2.0)[last], atol=1e-6)


@pytest.mark.slow
def test_a_teacher_that_comes_back_is_used(
    members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path, kept_away: dict[str, bool]
) -> None:
    kept_away["kept"] = True

    def come_back(pool: TeacherPool) -> None:
        assert pool.state.membership.slots[1].away
        ray.wait([actor_of(pool).up])
        kept_away["kept"] = False

    found, heard, made_by = collect(members, data, tmp_path, "reweight", {1: kill, 8: come_back})
    assert heard == [("reweight", ["member-1"]), ("back", ["member-1"])]
    fewer, back = ["member-0", "member-2"], 9 + 2 * AT_ONCE  # what had been answered by then stays
    assert made_by[8] == fewer and all(names == ["member-0", "member-1", "member-2"] for names in made_by[back:])
    ids = LAYOUT.ids(back)
    np.testing.assert_allclose(found[ids], mean_of(members, 2.0)[ids], atol=1e-6)


@pytest.mark.slow
def test_a_pass_without_teachers_continues_with_the_first_that_is_up_again(
    members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_away(monkeypatch, lambda actor: actor.names != ("member-2",))

    def kill_all(pool: TeacherPool) -> None:
        for k in range(3):
            ray.kill(actor_of(pool, k).handle)

    found, heard, made_by = collect(members, data, tmp_path, "reweight", {1: kill_all})
    assert sorted(heard[:3]) == [("reweight", [f"member-{k}"]) for k in range(3)]
    assert heard[3:] == [("back", ["member-2"])]
    assert made_by[1] == [f"member-{k}" for k in range(3)] and made_by[-1] == ["member-2"]
    ids = LAYOUT.ids(LAYOUT.parts - 1)
    np.testing.assert_allclose(found[ids], mean_of([members[2]], 2.0)[ids], atol=1e-6)


@pytest.mark.parametrize("on_workers", [False, True])
def test_a_teacher_that_hangs_is_lost(
    on_workers: bool,
    members: list[Member],
    data: ray.ObjectRef[Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slots, "PATIENCE_S", 6.0)  # of the other teachers too, on a loaded machine
    stopped: list[int] = []

    def stop_and_tell(pool: TeacherPool) -> None:
        stopped.append(pid_of(pool))
        stop(pool)

    found, heard, made_by = collect(members, data, tmp_path, "wait", {1: stop_and_tell}, on_workers)
    assert heard == [("restart", ["member-1"])] and all(len(names) == 3 for names in made_by)
    np.testing.assert_allclose(found, mean_of(members, 2.0), atol=1e-6)
    until = time.monotonic() + 60
    while Path(f"/proc/{stopped[0]}").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert not Path(f"/proc/{stopped[0]}").exists()  # and it holds nothing any more


@pytest.mark.slow
def test_requests_that_are_repeated_delay_no_teacher(
    members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "PATIENCE_S", 15.0)  # an actor with a cancelled call would block for 30 s

    def ask_twice(pool: TeacherPool) -> None:
        pool.state._ask(pool.state.membership.present(), range(LAYOUT.parts), LAYOUT.parts)
        pool.state.membership.ask_anew(pool.clock.now_s)
        pool._tell(Tick(pool.clock.now_s))

    found, heard, _ = collect(members, data, tmp_path, "wait", dict.fromkeys(range(LAYOUT.parts), ask_twice))
    assert not heard
    np.testing.assert_allclose(found, mean_of(members, 2.0), atol=1e-6)


@pytest.mark.slow
def test_nonsense_is_a_loss_and_its_neighbours_go_on(
    members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path
) -> None:
    found, heard, made_by = collect(members, data, tmp_path / "alone", "wait", {1: say_nonsense})
    assert heard == [("restart", ["member-1"])]  # read from its file again, it is sound
    np.testing.assert_allclose(found, mean_of(members, 2.0), atol=1e-6)

    def spoil_neighbour(pool: TeacherPool) -> None:
        ray.get(actor_of(pool, 0).handle.__ray_call__.remote(lambda host: _spoil(host)))

    found, heard, made_by = collect(members, data, tmp_path / "shared", "reweight", {1: spoil_neighbour}, actors=1)
    assert heard == [("drop", ["member-1"])] and made_by[-1] == ["member-0", "member-2"]
    ids = LAYOUT.ids(LAYOUT.parts - 1)
    np.testing.assert_allclose(found[ids], mean_of([members[0], members[2]], 2.0)[ids], atol=1e-6)


def test_failing_names_the_member(members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path) -> None:
    expected = r"teacher of member-1 was lost: ActorDiedError\. `ensemble\.on_member_loss: fail`"
    with pytest.raises(RunError, match=expected):
        collect(members, data, tmp_path, "fail", {1: kill})


FAULTY = """
import os
import torch
from torch import nn


class Faulty(nn.Linear):
    \"\"\"Raises while the folder of its faults has a file `once`, which it removes, and for the row in `row.pt`.\"\"\"

    def __init__(self, faults):
        super().__init__(8, 3)
        self.faults = faults
        if os.path.exists(faults + "/start"):
            raise OSError("no device\\nunder this name")

    def forward(self, x):
        if os.path.exists(self.faults + "/once"):
            os.remove(self.faults + "/once")
            raise RuntimeError("CUDA error: unspecified launch failure\\nCompile with DSA.")
        if os.path.exists(self.faults + "/row.pt") and (x == torch.load(self.faults + "/row.pt")).all(1).any():
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\\nCompile with DSA.")
        return super().forward(x)


def faulty(faults):
    return Faulty(faults)
"""


@pytest.fixture
def one_faulty(members: list[Member], tmp_path: Path) -> tuple[list[Member], Path]:
    """Three members of which the one in the middle has faults, and the folder that says which."""
    folder, faults = tmp_path / "code", tmp_path / "faults"
    folder.mkdir()
    faults.mkdir()
    (folder / "faulty.py").write_text(FAULTY)
    spec = ModelSpec(factory="faulty:faulty", folder=str(folder), kwargs={"faults": str(faults)})
    faulty = Member("member-1", spec, str(folder / "1.safetensors"))
    checkpoints.save(torch_module.build(spec, seed=1).state_dict(), faulty.weights)
    return [members[0], faulty, members[2]], faults


def give_up_on_a_row(faults: Path, part: int) -> None:
    """From here on the faulty member raises for a row of this part."""
    torch.save(torch.from_numpy(blobs(ROWS, 0)[0][LAYOUT.ids(part)[700]]), faults / "row.pt")


@pytest.mark.parametrize("on_workers", [False, True])
def test_one_that_raises_once_is_restarted_and_changes_no_bit(
    on_workers: bool, one_faulty: tuple[list[Member], Path], data: ray.ObjectRef[Dataset], tmp_path: Path
) -> None:
    members, faults = one_faulty
    was: list[int] = []

    def raise_once(pool: TeacherPool) -> None:
        was.append(pid_of(pool))
        (faults / "once").touch()

    def look(pool: TeacherPool) -> None:
        assert pid_of(pool) not in was

    found, heard, made_by = collect(members, data, tmp_path / "store", "wait", {1: raise_once, 10: look}, on_workers)
    assert heard == [("restart", ["member-1"])] and all(len(names) == 3 for names in made_by)
    np.testing.assert_allclose(found, mean_of(members, 2.0), atol=1e-6)


@pytest.mark.slow
def test_one_that_raises_for_the_same_part_again_ends_the_run_in_its_own_words(
    one_faulty: tuple[list[Member], Path], data: ray.ObjectRef[Dataset], tmp_path: Path
) -> None:
    members, faults = one_faulty
    give_up_on_a_row(faults, part=5)
    heard: list[tuple[str, list[str]]] = []
    with pytest.raises(RunError) as found:
        collect(members, data, tmp_path / "store", "wait", {}, heard=heard)
    assert heard == [("restart", ["member-1"]), ("fail", ["member-1"])]
    assert str(found.value).startswith(
        "the teacher of member-1 was lost again in a fresh process at part 5 of the soft targets: RuntimeError: CUDA "
        "error: uncorrectable ECC error encountered\nCompile with DSA. `ensemble.on_member_loss: wait` ends the run."
    )
    assert "in forward" in "".join(found.value.__cause__.__notes__)  # for --debug


@pytest.mark.slow
def test_one_that_raises_again_is_left_out_and_those_that_shared_its_process_are_not(
    one_faulty: tuple[list[Member], Path], data: ray.ObjectRef[Dataset], tmp_path: Path
) -> None:
    members, faults = one_faulty
    give_up_on_a_row(faults, part=5)
    found, heard, made_by = collect(members, data, tmp_path / "store", "reweight", {}, actors=1)
    all_members, others = ["member-0", "member-1", "member-2"], ["member-0", "member-2"]
    assert heard == [("reweight", all_members), ("back", all_members), ("drop", ["member-1"]), ("back", others)]
    assert made_by == [all_members] * 5 + [others] * (LAYOUT.parts - 5)
    ids = LAYOUT.ids(5)
    np.testing.assert_allclose(found[ids], mean_of([members[0], members[2]], 2.0)[ids], atol=1e-6)


@pytest.mark.slow
def test_one_that_cannot_start_again_is_given_up(
    one_faulty: tuple[list[Member], Path], data: ray.ObjectRef[Dataset], tmp_path: Path
) -> None:
    members, faults = one_faulty

    def break_down(pool: TeacherPool) -> None:
        (faults / "start").touch()
        kill(pool)

    heard: list[tuple[str, list[str]]] = []
    with pytest.raises(
        RunError, match=r"(?s)lost again in a fresh process as it started: .*no device\nunder this name"
    ):
        collect(members, data, tmp_path / "wait", "wait", {1: break_down}, heard=heard)
    assert [action for action, _ in heard] == ["restart", "restart", "fail"]
    said = r"(?s)the teacher of member-1 was lost as it started: .*`ensemble\.on_member_loss: fail` ends the run"
    with pytest.raises(RunError, match=said):
        collect(members, data, tmp_path / "fail", "fail", {})


@pytest.mark.slow
def test_what_cannot_be_written_is_no_teachers_loss(
    members: list[Member], data: ray.ObjectRef[Dataset], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    heard: list[tuple[str, list[str]]] = []
    for on_workers in (False, True):
        with pytest.raises(
            RunError, match=r"writing part \d of the soft targets failed: (NotADirectory|FileExists)Error"
        ):
            collect(members, data, tmp_path / "file" / "store", "wait", {}, on_workers, heard=heard)
    assert not heard
