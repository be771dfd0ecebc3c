"""Terms on hidden states and relations, and the member beside the student that they need."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import ray
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests import texts
from workers.data.collate import Collator
from workers.data.dataset import Split
from workers.data.examples import Columns
from workers.data.ragged import Ragged
from workers.data.texts import TEXT, of_strings
from workers.data.tokens import Tokenization
from workers.errors import RequestError, RunError
from workers.inference.teacher import Member
from workers.losses import TERMS, Batch, Outputs, Term
from workers.losses.layers import example_means, pairs
from workers.models.hidden import observe
from workers.models.transformers_module import TransformersPredictor
from workers.signals import Signal
from workers.specs.models import TransformersModel
from workers.specs.objective import DistillationSpec
from workers.specs.training import TrainingSpec
from workers.training import beside, loader, loop
from workers.training.beside import MemberBeside
from workers.training.beside_actor import ActorWork, BesideActor
from workers.training.loader import HardLabels
from workers.training.loop import Progress, Task

B, L, D, WIDE = 3, 5, 8, 12
LENGTHS = [5, 2, 3]
MASK = torch.arange(L)[None] < torch.tensor(LENGTHS)[:, None]
ALL = {Signal.HIDDEN_STATES, Signal.ATTENTION_INPUTS}


def outputs(width: int, layers: int = 2, seed: int = 0) -> Outputs:
    draw = torch.Generator().manual_seed(seed)
    hidden, q, k, v = (
        tuple(torch.randn(B, L, width, generator=draw) for _ in range(count)) for count in (layers + 1, *[layers] * 3)
    )
    return Outputs(torch.randn(B, 3, generator=draw), hidden, q, k, v, MASK)


def rows_of(of: Outputs, rows: slice) -> Outputs:
    layers = (tuple(each[rows] for each in several) for several in of[1:5])
    return Outputs(of.logits[rows], *layers, of.mask[rows])


def value_of(term: Term, student: Outputs, teacher: Outputs) -> float:
    total, count = term(student, Batch(torch.zeros(B).long(), None, B, B, examples=B, beside=teacher))
    return total.item() / count


def prepared(name: str, student: Outputs, teacher: Outputs, **settings: Any) -> Term:
    term = TERMS[name](**settings)
    term.prepare(student, teacher)
    return term


def test_the_cosine_is_that_of_the_last_layers_and_padding_does_not_count() -> None:
    student, teacher = outputs(D), outputs(D, layers=4, seed=1)
    own, other = student.hidden_states[2], teacher.hidden_states[4]
    expected = np.mean([
        np.mean([1 - functional.cosine_similarity(own[b, t], other[b, t], 0).item() for t in range(LENGTHS[b])])
        for b in range(B)
    ])  # fmt: skip
    term = prepared("hidden_cosine", student, teacher)
    assert value_of(term, student, teacher) == pytest.approx(expected, rel=1e-5)
    assert term.module is None


def test_a_state_of_zeros_has_no_direction() -> None:
    student, teacher = outputs(D), outputs(D, seed=1)
    states = student.hidden_states[-1].clone()
    states[0, 0] = 0.0
    states.requires_grad_()
    term = prepared("hidden_cosine", student, teacher)
    batch = Batch(torch.zeros(B).long(), None, B, B, examples=B, beside=teacher)
    total, _ = term(student._replace(hidden_states=(*student.hidden_states[:-1], states)), batch)
    (gradient,) = torch.autograd.grad(total, states)
    assert gradient[0, 0].abs().max() == 0 < gradient[0, 1].abs().max() < 10
    others = (1 - functional.cosine_similarity(states, teacher.hidden_states[-1], -1))[0, 1 : LENGTHS[0]].sum()
    (expected,) = torch.autograd.grad(others / LENGTHS[0], states)
    assert torch.allclose(gradient[0, 1:], expected[0, 1:])


def test_uniform_layers_are_at_even_distances_and_pairs_may_be_named() -> None:
    student, teacher = outputs(D), outputs(D, layers=4, seed=1)
    expected = 0.0
    for s, t in ((0, 0), (1, 2), (2, 4)):
        distances = (student.hidden_states[s] - teacher.hidden_states[t]).square().mean(-1) * MASK
        expected += (distances.sum(1) / MASK.sum(1)).mean().item() / 3
    for layers in ("uniform", [[0, 0], [1, 2], [-1, -1]]):
        assert value_of(prepared("hidden_mse", student, teacher, layers=layers), student, teacher) == pytest.approx(
            expected, rel=1e-5
        )


def test_other_widths_are_projected_by_parameters_of_the_term() -> None:
    student, teacher = outputs(D), outputs(WIDE, seed=1)
    term = prepared("hidden_mse", student, teacher, layers=[[-1, -1], [0, 0]])
    assert [tuple(p.shape) for p in term.module.parameters()] == [(WIDE, D), (WIDE,)] * 2
    total, _ = term(student, Batch(torch.zeros(B).long(), None, B, B, examples=B, beside=teacher))
    total.backward()
    assert all(p.grad.abs().sum() > 0 for p in term.module.parameters())
    assert prepared("hidden_cosine", student, outputs(D), project=True).module is not None


@pytest.mark.parametrize("heads", [1, 4])
def test_relations_are_the_divergence_of_their_softmax(heads: int) -> None:
    student, teacher = outputs(D), outputs(WIDE, layers=3, seed=1)

    def relation(a: Tensor, b: Tensor, row: int, head: int) -> Tensor:
        size = a.shape[-1] // heads
        a, b = (each[row, : LENGTHS[row], head * size : (head + 1) * size] for each in (a, b))
        return torch.softmax(a @ b.T / math.sqrt(size), -1)

    expected = 0.0
    for one, other in (("queries", "keys"), ("values", "values")):
        for b in range(B):
            for head in range(heads):
                p = relation(getattr(teacher, one)[-1], getattr(teacher, other)[-1], b, head)
                q = relation(getattr(student, one)[-1], getattr(student, other)[-1], b, head)
                expected += (p * (p / q).log()).sum().item() / LENGTHS[b] / heads / B
    term = prepared("relations", student, teacher, heads=heads)
    assert value_of(term, student, teacher) == pytest.approx(expected, rel=1e-4)
    term.found = [(-1, -1)]
    assert value_of(term, student, student) == pytest.approx(0.0, abs=1e-6)


def test_attention_is_the_relation_of_queries_to_keys() -> None:
    student, teacher = outputs(D), outputs(WIDE, seed=1)
    expected = value_of(prepared("relations", student, teacher, of=["query-key"], heads=4), student, teacher)
    assert expected > 0 and value_of(prepared("attention", student, teacher, heads=4), student, teacher) == expected
    with pytest.raises(RequestError, match="the term 'attention' has 3 heads"):
        prepared("attention", student, teacher, heads=3)


def test_heads_are_a_common_divisor() -> None:
    student, teacher = outputs(D), outputs(WIDE)
    assert prepared("relations", student, teacher).count == 4
    with pytest.raises(
        RequestError, match=r"has 3 heads, which do not divide .* of the student, 8\. Expected .* 1, 2, 4"
    ):
        prepared("relations", student, teacher, heads=3)
    for wrong in ({"heads": 0}, {"heads": True}, {"of": ["query-kay"]}, {"of": "query-key"}, {"of": []}):
        with pytest.raises(RequestError, match="the term 'relations' has"):
            TERMS["relations"](**wrong)


@pytest.mark.parametrize("name", ["hidden_cosine", "hidden_mse", "relations"])
def test_pieces_add_up_and_the_gradient_is_right(name: str) -> None:
    student, teacher = outputs(4, seed=3), outputs(6, seed=4)
    torch.manual_seed(0)
    term = prepared(name, student, teacher)
    whole = value_of(term, student, teacher)
    cut = 0.0
    for rows in (slice(0, 1), slice(1, 3)):
        piece = Batch(torch.zeros(B).long(), None, B, B, examples=B, beside=rows_of(teacher, rows))
        cut += term(rows_of(student, rows), piece)[0].item() / B
    assert cut == pytest.approx(whole, rel=1e-5)
    if term.module is not None:
        term.module.double()
    exact = Outputs(*(tuple(x.double() for x in f) if isinstance(f, tuple) else f for f in teacher))

    def of(last: Tensor) -> Tensor:
        layers = {"hidden_states": (last,) * 3, "queries": (last,), "keys": (last * 0.5,), "values": (last.cos(),)}
        return term(Outputs(last.sum((1, 2))[:, None], **layers, mask=MASK),
                    Batch(torch.zeros(B).long(), None, B, B, examples=B, beside=exact))[0]  # fmt: skip

    term.found = [(-1, -1)]
    assert torch.autograd.gradcheck(of, torch.randn(B, L, 4, dtype=torch.float64, requires_grad=True))


def test_layers_that_do_not_exist_are_refused() -> None:
    assert pairs("last", 3, 7, "x") == [(2, 6)] and pairs([[-1, 0]], 3, 7, "x") == [(2, 0)]
    for wrong in ([[3, 0]], [[0, -8]], [], [[1]], ["ab"], [[0, 1.0]], [[0, True]], 5, None, [1, 2], {"a": 1}):
        with pytest.raises(RequestError, match="the term 'x'"):
            pairs(wrong, 3, 7, "x")


def test_a_worker_without_examples_has_no_means() -> None:
    assert example_means(torch.zeros(0, 3), None).shape == (0,)
    assert example_means(torch.ones(2, 3, 4), None).tolist() == [1.0, 1.0]


# --- networks ---------------------------------------------------------------------------------------------


def model(tmp_path: Path, **also: Any) -> TransformersModel:
    folder = tmp_path / "tokenizer"
    if not folder.exists():
        texts.tokenizer(folder)
    return TransformersModel(kind="transformers", config=texts.config(**also), tokenizer=str(folder), classes=3)


def made(spec: TransformersModel, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return TransformersPredictor.made(spec)


TEXTS = ["the river", "goal match of the atom", "cell", "river said 12 in the mountain"] * 6


def inputs(spec: TransformersModel) -> tuple[Columns, Collator]:
    return Columns({TEXT: of_strings(TEXTS)}), Collator(None, Tokenization(spec.tokenizer))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "albert", "electra", "mpnet"])
def test_signals_of_architectures_of_transformers(tmp_path: Path, kind: str) -> None:
    keys = {"model_type": kind, "num_hidden_layers": 3}
    if kind == "distilbert":
        keys |= {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
    if kind == "albert":
        keys |= {"embedding_size": 8}
    spec = model(tmp_path, **keys)
    module, (x, collator) = made(spec).eval(), inputs(spec)
    found = observe(module, collator(x, np.arange(4)), ALL)
    shape = (4, int(found.mask.sum(1).max()), 16)
    assert [tuple(each.shape) for each in found.hidden_states] == [shape] * 4
    assert [tuple(each.shape) for each in (*found.queries, *found.keys, *found.values)] == [shape] * 9
    assert torch.equal(found.logits, observe(module, collator(x, np.arange(4)), ()).logits)


def test_queries_keys_and_values_are_those_of_the_attention(tmp_path: Path) -> None:
    spec = model(tmp_path, num_hidden_layers=2, attn_implementation="eager")
    module, (x, collator) = made(spec).eval(), inputs(spec)
    batch = collator(x, np.arange(3))
    found = observe(module, batch, ALL)
    with torch.no_grad():
        attention = module(**batch.padded(), output_attentions=True).attentions[-1]
    q, k = (each[-1].unflatten(-1, (2, 8)).transpose(1, 2) for each in (found.queries, found.keys))
    scores = (q @ k.transpose(-1, -2) / math.sqrt(8)).masked_fill(~found.mask[:, None, None], -torch.inf)
    torch.testing.assert_close(scores.softmax(-1), attention, rtol=1e-4, atol=1e-5)


def test_a_network_without_the_signals_is_refused() -> None:
    x = torch.zeros(2, 4)
    with pytest.raises(RequestError, match="Linear returns no hidden states"):
        observe(nn.Linear(4, 3), x, {Signal.HIDDEN_STATES})
    with pytest.raises(RequestError, match="Linear has no queries"):
        observe(nn.Linear(4, 3), x, {Signal.ATTENTION_INPUTS})


class Shows(nn.Module):
    """A network of the user's own that returns its hidden states."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, hidden), nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        states = torch.tanh(self.first(x))
        return {"logits": self.last(states), "hidden_states": (states,)}


def test_a_network_of_ones_own_may_return_hidden_states() -> None:
    found = observe(Shows(6), torch.zeros(2, 4), {Signal.HIDDEN_STATES})
    assert found.logits.shape == (2, 3) and found.hidden_states[0].shape == (2, 6) and found.mask is None
    teacher = observe(Shows(9), torch.ones(2, 4), {Signal.HIDDEN_STATES})
    for name in ("hidden_cosine", "hidden_mse"):
        term = prepared(name, found, teacher)
        total, count = term(found, Batch(torch.zeros(2).long(), None, 2, 2, examples=2, beside=teacher))
        states = term.module["0"](found.hidden_states[0])
        by_hand = {
            "hidden_cosine": (1 - functional.cosine_similarity(states, teacher.hidden_states[0])).sum(),
            "hidden_mse": (states - teacher.hidden_states[0]).square().mean(1).sum(),
        }
        torch.testing.assert_close(total, by_hand[name])
        assert count == 2


def test_parts_of_other_widths_are_not_related() -> None:
    student, teacher = outputs(D), outputs(D)
    grouped = student._replace(keys=tuple(key[..., :4] for key in student.keys))
    with pytest.raises(RequestError, match="relates queries of width 8 to keys of width 4 of the student"):
        prepared("relations", grouped, teacher)
    assert prepared("relations", grouped, teacher, of=["query-query", "value-value"]).count == 8


# --- training ---------------------------------------------------------------------------------------------

OBJECTIVE = [
    {"term": "hidden_cosine", "weight": 1.0},
    {"term": "relations", "weight": 1.0, "kwargs": {"of": ["query-key", "value-value"]}},
    {"term": "hard", "weight": 0.5},
]


def task(tmp_path: Path, objective: list[dict[str, Any]] = OBJECTIVE) -> tuple[nn.Module, Task, TrainingSpec]:
    spec = model(tmp_path, hidden_size=8, hidden_dropout_prob=0.1)
    x, collator = inputs(spec)
    split = Split(x, np.arange(len(TEXTS)) % 3)
    teacher = made(model(tmp_path, num_hidden_layers=2), seed=9)
    loss = DistillationSpec(objective=objective)
    found = Task(
        HardLabels(split),
        split,
        loss,
        "student",
        collator,
        lambda goal: beside.of_module(teacher, goal.beside, "float32"),
    )
    training = TrainingSpec(epochs=2, batch_size=8, learning_rate=3e-3, weight_decay=0.01)
    return made(spec, seed=1), found, training


def start(module: nn.Module, of: Task, training: TrainingSpec) -> Progress:
    loop.prepare(of.goal, module, of.ask, of.collator(of.train.split.x, np.arange(2)), seed=5)
    return loop.begin(module, training, len(of.train), of.goal.module)


def test_a_student_and_its_projection_learn_and_the_teacher_does_not(tmp_path: Path) -> None:
    module, of, training = task(tmp_path)
    progress = start(module, of, training)
    before = {name: value.clone() for name, value in of.goal.module.state_dict().items()}
    history = list(loop.epochs(progress, of, training, seed=2))
    assert before.keys() == {"0.0.weight", "0.0.bias"}
    assert all(not torch.equal(value, before[name]) for name, value in of.goal.module.state_dict().items())
    assert history[-1].terms["hidden_cosine"] < history[0].terms["hidden_cosine"]
    assert not any("0.0" in name for name in progress.kept_weights())
    assert {"hidden_cosine", "relations", "hard"} == history[0].terms.keys()


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    module, of, training = task(tmp_path)
    progress = start(module, of, training)
    running = loop.epochs(progress, of, training, seed=2)
    next(running)
    kept = copy.deepcopy(progress.state())
    list(running)
    again, of_again, _ = task(tmp_path)
    resumed = start(again, of_again, training)
    resumed.restore(kept)
    list(loop.epochs(resumed, of_again, training, seed=2))
    for name, value in progress.state()["model"].items():
        assert torch.equal(value, resumed.state()["model"][name]), name
    for name, value in progress.state()["objective"].items():
        assert torch.equal(value, resumed.state()["objective"][name]), name


def test_an_actor_sends_the_layers_that_are_compared_and_nothing_else(tmp_path: Path) -> None:
    module, of, training = task(tmp_path)
    spec = model(tmp_path, num_hidden_layers=2)
    x = of.collator(of.train.split.x, np.arange(4))
    sent = observe(made(spec, seed=9).eval(), x, ALL)
    assert of.goal.wanted is None
    start(module, of, training)
    assert of.goal.wanted == {"hidden_states": {2}, "queries": {1}, "keys": {1}, "values": {1}}
    found = sent.only(of.goal.wanted)
    assert [each.numel() > 0 for each in found.hidden_states] == [False, False, True]
    assert [each.numel() > 0 for each in found.queries] == [False, True]
    assert torch.equal(found.hidden_states[2], sent.hidden_states[2]) and torch.equal(found.logits, sent.logits)


def test_an_actor_computes_from_ids_what_a_worker_computes_from_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, of, _ = task(tmp_path)
    spec = model(tmp_path, num_hidden_layers=2)
    teacher = made(spec, seed=9)
    monkeypatch.setattr(beside, "module_of", lambda member: teacher)
    work = ActorWork(needs=sorted(ALL), student=spec, split="general", threads=torch.get_num_threads(), on="cpu")
    data: Any = MagicMock(of_stage=lambda name: {"general": of.train.split}[name])
    actor = BesideActor(MemberBeside(Member("member-0", spec, ""), "float32"), work, data)
    alone = beside.of_module(teacher, ALL, "float32")
    for batch in loader.batches(of.train, 0, 8, 3, torch.device("cpu"), collator=of.collator):
        for piece in (batch, batch.cut(2, 5)):
            sent, own = actor.outputs(piece.ids, None), alone(piece.x, piece.ids)()
            for name in ("hidden_states", "queries", "keys", "values"):
                assert all(map(torch.equal, getattr(sent, name), getattr(own, name))), name
            assert torch.equal(sent.logits, own.logits) and torch.equal(sent.mask, own.mask)


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    found = []
    for size in (None, 3):
        module, of, training = task(tmp_path)
        module.eval()
        for each in module.modules():
            if isinstance(each, nn.Dropout):
                each.p = 0.0
        changed = training.model_copy(update={"micro_batch_size": size})
        progress = start(module, of, changed)
        list(loop.epochs(progress, of, changed, seed=2))
        found.append({**module.state_dict(), **of.goal.module.state_dict()})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-2, atol=2e-3, msg=name)


def test_projections_of_relative_positions_are_no_layers() -> None:
    """DeBERTa computes queries and keys of its table of positions, too."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        "deberta-v2", vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, relative_attention=True, share_att_key=True, pos_att_type=["p2c", "c2p"],
        position_buckets=8, norm_rel_ebd="layer_norm", position_biased_input=False,
    )  # fmt: skip
    module = AutoModelForSequenceClassification.from_config(config).eval()
    ids = Columns({"input_ids": Ragged.of([np.arange(5, 5 + length) for length in (7, 3, 5)])})
    found = observe(module, Collator(None)(ids, np.arange(3)), {Signal.ATTENTION_INPUTS})
    for part in (found.queries, found.keys, found.values):
        assert [tuple(layer.shape) for layer in part] == [(3, 7, 16)] * 2


def test_an_actor_that_does_not_answer_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def get(asked: object, timeout: float | None = None) -> None:
        limits.append(timeout)
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(ray, "get", get)
    actor, ids = MagicMock(), np.arange(2)
    answer = beside.from_actor(actor, lambda: None, 7.0)(torch.zeros(2, 3), ids)
    actor.outputs.remote.assert_called_once_with(ids, None)  # and no example
    with pytest.raises(RunError, match=r"has not answered for 7 s.*`distillation.hidden.where: worker`"):
        answer()
    assert limits == [7.0]
