"""The objective in the loop: weights and T that follow schedules, terms of the user's own, and what its key follows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.run_config import RunConfig
from tests.makers import NUMERICS, blobs, in_memory, write_config
from workers import ensemble
from workers.data.dataset import Split
from workers.data.numbering import RowNames
from workers.errors import RequestError
from workers.inference.reduce import Rule
from workers.losses import Batch, Outputs, distillation_loss
from workers.specs.objective import DistillationSpec, ScheduleSpec
from workers.specs.training import TrainingSpec
from workers.targets.base import LEAST_STORED
from workers.targets.dense import Dense
from workers.targets.layout import PartLayout
from workers.targets.member_logits import MemberLogits
from workers.targets.reader import LogitsReader
from workers.targets.soft_targets import DamagedPart, Part
from workers.training import loader, loop, objective
from workers.training.loader import SoftLabels
from workers.training.loop import Progress, Task
from workers.training.schedules import Moment
from workers.trial import terms

N, CLASSES = 500, 3
SPEC = TrainingSpec(epochs=3, batch_size=64, learning_rate=5e-3)
CPU = torch.device("cpu")
ANNEALED: dict[str, Any] = {"from": 1.0, "to": 0.0, "schedule": "linear"}

OWN = """
import torch
from workers.losses import Batch, Outputs, Term
from workers.signals import Signal

POWER = 2.0


class Brier(Term):
    needs = frozenset({Signal.PROBABILITIES})

    def __init__(self, power=POWER):
        self.power = power

    def __call__(self, outputs, batch):
        apart = torch.softmax(outputs.logits, -1) - batch.soft.events(outputs.logits.dtype)
        return (apart.abs() ** self.power).sum(), batch.rows


def plain(**kwargs):
    return lambda outputs, batch: (outputs.logits.square().sum() * 1e-3, batch.rows)


class Saw:
    def __init__(self, teeth=2):
        self.teeth = teeth

    def __call__(self, done):
        return done * self.teeth % 1.0


class Own(Term):
    def __call__(self, outputs, batch):
        return outputs.logits.square().sum(), len(outputs.logits)


class Mean(Term):
    def __call__(self, outputs, batch):
        return outputs.logits.square().mean()


class Detached(Term):
    def __call__(self, outputs, batch):
        return outputs.logits.detach().sum(), batch.rows


class Raises(Term):
    def __call__(self, outputs, batch):
        return outputs.nothing, batch.rows


class Nan(Term):
    def __call__(self, outputs, batch):
        return outputs.logits.sum() / 0.0, batch.rows


class Spread(Term):
    whole_batch = True

    def __call__(self, outputs, batch):
        return (outputs.logits - outputs.logits.mean(0)).square().sum(), batch.rows


class Learned(Term):
    def __init__(self):
        self.module = torch.nn.Linear(3, 3)

    def __call__(self, outputs, batch):
        return self.module(outputs.logits).square().sum(), batch.rows


class Telepathic(Brier):
    needs = frozenset({"thoughts"})


class Number:
    pass


class Wild:
    def __call__(self, done):
        return -1.0 if done > 0.5 else 0.0


class Never:
    def __call__(self, done):
        return 0.0
"""


def split() -> Split:
    x, y = blobs(N, 1)
    y[::7] = -1
    return Split(x, y)


def probabilities(t: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(0).normal(size=(N, CLASSES)).astype(np.float32) * 3
    return torch.softmax(torch.from_numpy(logits) / t, dim=-1).numpy()


def start() -> Progress:
    torch.manual_seed(0)
    return loop.begin(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, CLASSES)), SPEC, N)


def trained(spec: DistillationSpec, labels: SoftLabels | None = None, training: TrainingSpec = SPEC) -> Progress:
    progress = start()
    task = Task(labels or in_memory(split(), probabilities()), Split(*blobs(200, 2)), spec)
    for _ in loop.epochs(progress, task, training, seed=3):
        pass
    return progress


def weights(progress: Progress) -> Tensor:
    return torch.cat([value.flatten() for value in progress.kept_weights().values()])


def of(folder: Path, **distillation: Any) -> DistillationSpec:
    """As a configuration in `folder` has it, with `OWN` beside it."""
    path = write_config(folder, distillation=distillation)
    (folder / "own.py").write_text(OWN)
    return RunConfig.load(str(path)).distillation


# --- forms


def test_both_forms_are_one_objective_bit_for_bit() -> None:
    short = DistillationSpec(soft_weight=0.7, hard_weight=0.3)
    listed = [{"term": "soft", "weight": 0.7}, {"term": "hard", "weight": 0.3}]
    long = DistillationSpec.model_validate({"objective": listed})
    assert torch.equal(weights(trained(short)), weights(trained(long)))
    assert objective.follows_from(short) == objective.follows_from(long)
    other = DistillationSpec.model_validate({"objective": listed[::-1]})
    assert objective.follows_from(other) != objective.follows_from(long)  # sums in another order


def test_a_configuration_of_schedules_loads_as_itself(tmp_path: Path) -> None:
    listed = [{"term": "soft", "weight": ANNEALED}, {"term": "own:Brier", "kwargs": {"power": 3.0}}, {"term": "hard"}]
    config = RunConfig.load(
        str(write_config(tmp_path, distillation={"temperature": {"from": 4, "to": 1}, "objective": listed}))
    )
    (tmp_path / "again.yaml").write_text(config.to_redacted_yaml())
    assert RunConfig.load(str(tmp_path / "again.yaml")) == config
    spec = config.distillation
    assert spec.is_scheduled and spec.first_temperature == 4.0 and spec.keeps_logits
    assert isinstance(spec.temperature, ScheduleSpec) and spec.temperature.end == 1.0
    assert spec.objective is not None and spec.objective[1].folder == str(tmp_path) and spec.objective[0].folder == ""


def test_a_schedule_that_stays_is_a_number() -> None:
    for temperature in ({"from": 2.0, "schedule": "constant"}, {"from": 2.0, "to": 2.0}):
        spec = DistillationSpec.model_validate({"temperature": temperature, "top_k": 2})
        assert not spec.is_scheduled and spec.first_temperature == 2.0


# --- in the loop


def test_teacher_annealing_is_the_loop_written_out() -> None:
    """Clark et al. 2019: the weight of the teacher falls evenly, step by step, from 1 to 0."""
    spec = DistillationSpec.model_validate({"soft_weight": ANNEALED, "hard_weight": {"from": 0.0, "to": 1.0}})
    found = trained(spec)
    expected, done = start(), 0
    total = SPEC.epochs * 8
    for epoch in range(SPEC.epochs):
        expected.model.train()
        for batch in loader.batches(in_memory(split(), probabilities()), epoch, 64, 3, CPU):
            share = done / (total - 1)
            loss = distillation_loss(
                expected.model(batch.x),
                batch.soft.probabilities,
                batch.labels,
                temperature=2.0,
                soft_weight=1.0 - share,
                hard_weight=share,
            )
            expected.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            expected.optimizer.step()
            done += 1
    assert done == total and torch.equal(weights(found), weights(expected))


def test_a_resumed_run_goes_on_at_the_step_of_its_schedules() -> None:
    spec = DistillationSpec.model_validate({"soft_weight": ANNEALED, "hard_weight": 1.0})
    task = Task(in_memory(split(), probabilities()), Split(*blobs(200, 2)), spec)
    first = start()
    next(loop.epochs(first, task, SPEC, seed=3))
    saved = io.BytesIO()
    torch.save(first.state(), saved)
    saved.seek(0)
    resumed = start()
    resumed.restore(torch.load(saved, weights_only=True))
    for _ in loop.epochs(resumed, task, SPEC, seed=3):
        pass
    whole = trained(spec)
    assert torch.equal(weights(resumed), weights(whole))
    assert [epoch.terms for epoch in resumed.history] == [epoch.terms for epoch in whole.history]


def test_the_history_has_each_term_beside_the_total() -> None:
    by_name = {"soft": 0.6, "reverse_kl": 0.1, "hard": 0.3}
    listed = [{"term": name, "weight": weight} for name, weight in by_name.items()]
    spec = DistillationSpec.model_validate({"objective": listed})
    for micro in (None, 20):
        for epoch in trained(spec, training=SPEC.model_copy(update={"micro_batch_size": micro})).history:
            assert list(epoch.terms) == ["soft", "reverse_kl", "hard"]
            of_terms = sum(weight * epoch.terms[name] for name, weight in by_name.items())
            assert of_terms == pytest.approx(epoch.train_loss, rel=1e-6) and min(epoch.terms.values()) > 0
    alone = trained(DistillationSpec(soft_weight=1.0, hard_weight=0.0))
    assert all(epoch.terms == {} for epoch in alone.history)


def test_a_term_counts_where_its_weight_is_above_0() -> None:
    step = {"from": 0.0, "to": 1.0, "schedule": "step", "by": "epoch", "kwargs": {"at": 1.0}}
    progress = trained(DistillationSpec.model_validate({"soft_weight": 1.0, "hard_weight": step}))
    assert [list(epoch.terms) for epoch in progress.history] == [["soft"], ["soft"], ["soft", "hard"]]
    alone = trained(DistillationSpec(soft_weight=1.0, hard_weight=0.0))
    for one, other in zip(progress.history[:2], alone.history[:2], strict=True):
        assert one.train_loss == other.train_loss


def test_steps_at_which_nothing_counts_change_nothing() -> None:
    none = objective.build(DistillationSpec(soft_weight=0.0, hard_weight=1.0)).at(Moment(0, 1, 0, 1))
    at = objective.AtStep(none.temperature, ())
    logits = torch.randn(4, CLASSES, requires_grad=True)
    loss = at.loss(Outputs(logits), Batch(torch.zeros(4).long(), None, 4, 4))
    loss.total.backward()
    assert loss.total.item() == 0.0 and logits.grad is not None and logits.grad.abs().max() == 0.0


def test_another_temperature_than_that_of_the_targets_names_both() -> None:
    labels = in_memory(split(), probabilities(), temperature=2.0)
    with pytest.raises(
        RequestError, match=r"asks for soft targets at T = 3, .* softened at T = 2\. .*temperature` to 2"
    ):
        trained(DistillationSpec(temperature=3.0), labels)


# --- a schedule of T


def kept(folder: Path, combine: str = "arithmetic") -> tuple[SoftLabels, np.ndarray]:
    """Logits [3, N, K] of three members that are kept, and the labels that read them; one made no part 1."""
    layout = PartLayout(N, 128)
    logits = 4 * np.random.default_rng(1).normal(size=(3, N, CLASSES)).astype(np.float32)
    names = ["a", "b", "c"]
    parts = {}
    for number in range(layout.parts):
        members = names if number != 1 else ["a", "c"]
        for name in members:
            of_member = torch.from_numpy(logits[names.index(name)][layout.ids(number)])
            MemberLogits(str(folder / name)).write(number, RowNames(layout.ids(number)), of_member)
        parts[number] = Part(path="", rows=0, sha256="", members=members, numerics=NUMERICS)
    folders = {name: str(folder / name) for name in names}
    reader = LogitsReader(folders, {"a": 0.5, "b": 0.3, "c": 0.2}, combine, layout)
    return SoftLabels(split(), layout, parts.__getitem__, reader), logits


@pytest.mark.parametrize("combine", ["arithmetic", "geometric"])
@pytest.mark.parametrize("t", [0.5, 2.0, 7.3])
def test_the_loader_averages_as_the_teachers_pass_does(tmp_path: Path, combine: str, t: float) -> None:
    """Bit for bit what a store at this T holds, and the weighted mean by an independent formula."""
    labels, logits = kept(tmp_path, combine)
    layout, seen = labels.layout, 0
    for batch in loader.batches(labels, 1, 64, 0, CPU, temperatures=[t] * 8):
        ids = np.array([int(np.flatnonzero((split().x == row).all(axis=1))[0]) for row in batch.x.numpy()])
        for row, i in enumerate(ids):
            members = [0, 2] if i in layout.ids(1) else [0, 1, 2]
            shares = ensemble.normalised([[0.5, 0.3, 0.2][m] for m in members])
            answers = [
                ensemble.contribution(
                    torch.softmax(torch.from_numpy(logits[m][i : i + 1]) / t, dim=-1), share, combine, torch.int32
                ).numpy()
                for m, share in zip(members, shares, strict=True)
            ]
            stored = Rule(combine, "float32", None, t).reduce([], *answers)
            assert torch.equal(stored.probabilities[0], batch.soft.probabilities[row])
            p = [np.exp(logits[m][i] / t) / np.exp(logits[m][i] / t).sum() for m in members]
            mean = np.average(p, axis=0, weights=shares)
            if combine == "geometric":
                mean = np.exp(np.average(np.log(p), axis=0, weights=shares))
                mean /= mean.sum()
            np.testing.assert_allclose(batch.soft.probabilities[row], mean, atol=1e-5)
        q = batch.soft.probabilities.double()
        assert batch.soft.temperature == t and batch.entropy == pytest.approx(float(-torch.xlogy(q, q).sum()), rel=1e-4)
        seen += len(ids)
    assert seen == N


def test_a_student_on_logits_is_the_student_on_a_store_at_that_temperature(tmp_path: Path) -> None:
    labels, _ = kept(tmp_path)
    soft = np.concatenate(
        [batch.soft.probabilities.numpy() for batch in loader.batches(labels, 0, 500, 0, CPU, temperatures=[2.0])]
    )
    x = np.concatenate([batch.x.numpy().copy() for batch in loader.batches(labels, 0, 500, 0, CPU, temperatures=[2.0])])
    of_row = {row.tobytes(): p for row, p in zip(x, soft, strict=True)}
    store = in_memory(split(), np.stack([of_row[row.tobytes()] for row in np.asarray(split().x)]))
    spec = DistillationSpec(soft_weight=0.7, hard_weight=0.3)
    one, other = trained(spec, labels), trained(spec, store)
    assert torch.equal(weights(one), weights(other))
    assert [e.train_loss for e in one.history] == pytest.approx([e.train_loss for e in other.history], abs=1e-6)


def test_each_step_has_its_own_temperature(tmp_path: Path) -> None:
    labels, _ = kept(tmp_path)
    falling = {"from": 4.0, "to": 1.0, "schedule": "cosine"}
    spec = DistillationSpec.model_validate({"temperature": falling, "soft_weight": 1.0, "hard_weight": 0.0})
    goal = objective.build(spec)
    temperatures = [goal.at(Moment(epoch, 3, k, 8)).temperature for epoch in range(3) for k in range(8)]
    assert temperatures[0] == 4.0 and temperatures[-1] == 1.0 and temperatures == sorted(temperatures, reverse=True)
    progress = trained(spec, labels)
    assert all(np.isfinite(epoch.train_loss) for epoch in progress.history)
    assert not torch.equal(weights(progress), weights(trained(DistillationSpec(temperature=4.0), labels)))


def test_logits_that_are_damaged_are_named(tmp_path: Path) -> None:
    labels, _ = kept(tmp_path)
    file = sorted((tmp_path / "b").iterdir())[1]
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(
        DamagedPart, match=r"logits '.*/b' of b: part 2 is missing or not what was written\. Run the same"
    ):
        list(labels.runs(0, 0))


def test_the_floor_under_probabilities_is_that_of_the_fixed_point() -> None:
    step = ensemble.mean32(torch.tensor([[1]], dtype=torch.int32), "arithmetic")
    assert LEAST_STORED[torch.float32] == step.item() / 2
    assert LEAST_STORED[torch.float16] == torch.finfo(torch.float16).smallest_normal * 2.0**-11


# --- of one's own


def test_a_term_and_a_schedule_of_ones_own(tmp_path: Path) -> None:
    saw = {"from": 0.2, "to": 0.8, "schedule": "own:Saw", "kwargs": {"teeth": 3}}
    spec = of(
        tmp_path,
        objective=[
            {"term": "soft", "weight": saw},
            {"term": "own:Brier", "weight": 0.5, "kwargs": {"power": 3.0}},
            {"term": "own:Brier", "weight": 0.1},
            {"term": "own:plain"},
        ],
    )
    goal = objective.build(spec)
    assert [each.label for each in goal.terms] == ["soft", "own:Brier", "own:Brier-2", "own:plain"]
    assert [w for _, _, w in goal.at(Moment(1, 3, 0, 10)).terms] == pytest.approx(
        [0.2 + 0.6 * (30 / 29 % 1), 0.5, 0.1, 1]
    )
    terms.check(spec, SPEC, 8, CLASSES)
    progress = trained(spec)
    assert progress.history[-1].train_loss < progress.history[0].train_loss
    z, p = torch.randn(4, CLASSES), torch.softmax(torch.randn(4, CLASSES), -1)
    batch = Batch(torch.zeros(4).long(), Dense(p, 2.0), 4, 4)
    value, count = goal.terms[1].term(Outputs(z), batch)
    assert value.item() == pytest.approx(float((torch.softmax(z, -1) - p).abs().pow(3).sum())) and count == 4


def test_learned_parameters_of_a_term_follow_from_the_seed_and_are_on_the_students_device(tmp_path: Path) -> None:
    spec = of(tmp_path, objective=[{"term": "own:Learned"}])

    def learned(seed: int) -> Tensor:
        task = Task(loader.HardLabels(split()), split(), spec, seed=seed)
        return torch.cat([value.flatten() for value in task.goal.module.parameters()])

    assert torch.equal(learned(3), learned(3)) and not torch.equal(learned(3), learned(4))
    goal = objective.build(spec)
    loop.prepare(goal, nn.Linear(8, CLASSES), None, torch.zeros(2, 8, device="meta"), seed=3)
    assert {value.device.type for value in goal.module.parameters()} == {"meta"}


def test_a_term_that_relates_examples_is_not_tried_on_halves(tmp_path: Path) -> None:
    terms.check(of(tmp_path, objective=[{"term": "own:Spread"}]), SPEC, 8, CLASSES)


def test_its_code_is_in_the_key(tmp_path: Path) -> None:
    def key(code: str = OWN, **changes: Any) -> dict[str, Any]:
        saw = {"from": 1.0, "to": 0.5, "schedule": "own:Saw"}
        spec = of(tmp_path, objective=[{"term": "own:Brier", **changes}, {"term": "soft", "weight": saw}])
        (tmp_path / "own.py").write_text(code)
        return objective.follows_from(spec)["objective"]  # type: ignore[no-any-return]

    before = key()
    assert before == key() and before != key(kwargs={"power": 3.0}) and before != key(weight=0.5)
    for old, new, label in (("POWER = 2.0", "POWER = 4.0", "own:Brier"), ("% 1.0", "% 2.0", "soft")):
        after = key(OWN.replace(old, new))
        assert {name for name in before if before[name] != after[name]} == {label}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown term": (
        {"objective": [{"term": "sofft"}]},
        "objective: found 'sofft'; expected soft, .*, relational_angle, or `module:Class`. Did you mean 'soft'",
    ),
    "unknown schedule": (
        {"soft_weight": {"from": 1, "to": 0, "schedule": "lineal"}},
        r"schedule: found 'lineal'; expected constant, linear, cosine, step, or `module:Class`. Did you mean 'linear'",
    ),
    "unknown schedule of T": (
        {"temperature": {"from": 4, "to": 1, "schedule": "exp"}},
        r"distillation\.temperature\.schedule: found 'exp'",
    ),
    "unknown setting": (
        {"objective": [{"term": "soft", "kwargs": {"beta": 1}}]},
        "'soft' does not take `kwargs` .* correct",
    ),
    "setting of a schedule": (
        {"soft_weight": {"from": 1, "to": 0, "schedule": "step", "kwargs": {"at": 2}}},
        "`at` is 2; expected shares",
    ),
    "no such class": ({"objective": [{"term": "own:Bryer"}]}, "has no function or class 'Bryer'"),
    "no such module": ({"objective": [{"term": "other:Term"}]}, "no module 'other'"),
    "no term": ({"objective": [{"term": "own:Number"}]}, "'own:Number' made Number; expected a `workers.losses.Term`"),
    "no schedule": (
        {"soft_weight": {"from": 1, "to": 0, "schedule": "own:Number"}},
        "'own:Number' made Number; expected what is called with the share",
    ),
    "unknown need": ({"objective": [{"term": "own:Telepathic"}]}, "needs 'thoughts'; expected some of probabilities"),
    "logits of top-k": (
        {"top_k": 2, "objective": [{"term": "logits_mse"}]},
        "'logits_mse' needs logits; this run has labels, probabilities. `distillation.top_k` keeps no logits",
    ),
    "a count of its own": (
        {"objective": [{"term": "own:Own"}]},
        "'own:Own' is .* on a batch, and .* on its two halves together. Expected the sum over the rows",
    ),
    "a mean": ({"objective": [{"term": "own:Mean"}]}, r"'own:Mean' returned Tensor of shape \[\]; expected a sum"),
    "no gradient": ({"objective": [{"term": "own:Detached"}]}, "'own:Detached' has no gradient"),
    "an exception": ({"objective": [{"term": "own:Raises"}]}, "'own:Raises' raised AttributeError: .*nothing"),
    "infinity": ({"objective": [{"term": "own:Nan"}]}, "'own:Nan' is -?inf on synthetic logits"),
    "a weight below 0": (
        {"soft_weight": {"from": 1, "to": 3, "schedule": "own:Wild"}},
        "the weight of 'soft': its schedule gives -1 when .* so the value is -1; expected a finite number of",
    ),
    "a schedule that raises": (
        {"soft_weight": {"from": 1, "to": 3, "schedule": "own:plain"}},
        "the weight of 'soft': its schedule raised TypeError: .* It was called with 0.* correct the schedule",
    ),
    "a schedule that is always 0": (
        {"objective": [{"term": "soft", "weight": {"from": 0, "to": 1, "schedule": "own:Never"}}]},
        "no term has a weight above 0 at any step",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, case: str) -> None:
    distillation, message = WRONG[case]
    spec = of(tmp_path, **distillation)
    with pytest.raises(RequestError, match=message):
        terms.check(spec, SPEC, 8, CLASSES)
