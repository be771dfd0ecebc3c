"""Parameter groups of the optimizer: which parameters decay, and layer-wise learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from workers.errors import RequestError
from workers.specs.models import AnyModel, ModelSpec, TransformersModel
from workers.specs.training import TrainingSpec
from workers.training import loop, optimizer


class Stack(nn.Module):
    """Embedding, three layers, a norm and a head, as an encoder has them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.embed(x).mean(1)
        for layer in self.layers:
            hidden = torch.relu(layer(hidden))
        return self.head(self.norm(hidden))


def spec(**changes: object) -> TrainingSpec:
    return TrainingSpec.model_validate({"epochs": 1, "learning_rate": 0.1, "weight_decay": 0.01, **changes})


def names_in(model: nn.Module, several: list[nn.Parameter]) -> set[str]:
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return {known[id(parameter)] for parameter in several}


def test_all_parameters_are_one_group_unless_another_is_asked_for() -> None:
    (group,) = optimizer.groups(Stack(), spec())
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.1, 0.01, 11)


def test_neither_biases_nor_norms_decay_where_matrices_do() -> None:
    model = Stack()
    decaying, others = optimizer.groups(model, spec(decays="matrices"))
    assert names_in(model, decaying["params"]) == {
        "embed.weight",
        "head.weight",
        *(f"layers.{k}.weight" for k in range(3)),
    }
    assert names_in(model, others["params"]) == {
        "norm.weight",
        "norm.bias",
        "head.bias",
        *(f"layers.{k}.bias" for k in range(3)),
    }
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.01, 0.0)


def test_auto_follows_the_kind_of_model_as_the_key_does() -> None:
    model = Stack()
    model.base_model_prefix = "encoder"  # as of a network of transformers, which a factory may make too

    def decays(of: AnyModel) -> list[float]:
        return [group["weight_decay"] for group in optimizer.groups(model, spec().for_model(of))]

    assert decays(ModelSpec(factory="a:b")) == [0.01]
    assert decays(TransformersModel(kind="transformers", checkpoint="bert")) == [0.01, 0.0]


def test_each_layer_learns_at_a_share_of_the_rate_above_it() -> None:
    rates = optimizer.rates_by_layer(Stack(), 0.5)
    assert rates["embed.weight"] == 0.5**4
    assert [rates[f"layers.{k}.bias"] for k in range(3)] == [0.5**3, 0.5**2, 0.5]
    assert rates["norm.weight"] == rates["head.weight"] == 1.0


def test_the_head_of_a_network_of_transformers_has_the_full_rate_wherever_it_stands() -> None:
    model = nn.Module()
    model.head, model.encoder = nn.Linear(4, 2), Stack()
    assert optimizer.rates_by_layer(model, 0.5)["head.weight"] == 0.5**4
    model.base_model_prefix = "encoder"
    assert optimizer.rates_by_layer(model, 0.5)["head.weight"] == 1.0


def test_layers_of_one_class_are_a_stack_of_a_network_of_transformers() -> None:
    """The first layer of ModernBERT has no norm, and that of T5 alone has a bias of positions."""

    class Layer(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(4) if number else nn.Identity()
            self.dense = nn.Linear(4, 4)

    model, inner = nn.Module(), nn.Module()
    inner.embed, inner.layers = nn.Embedding(10, 4), nn.ModuleList(Layer(number) for number in range(3))
    model.model, model.head = inner, nn.Linear(4, 2)
    with pytest.raises(RequestError, match="no `ModuleList` of layers that are alike"):
        optimizer.rates_by_layer(model, 0.5)
    model.base_model_prefix = "model"
    rates = optimizer.rates_by_layer(model, 0.5)
    assert rates["model.embed.weight"] == 0.5**4 and rates["head.weight"] == 1.0
    assert [rates[f"model.layers.{k}.dense.weight"] for k in range(3)] == [0.5**3, 0.5**2, 0.5]


def test_a_network_without_a_stack_of_layers_has_no_layer_decay() -> None:
    parallel = nn.Module()
    parallel.convolutions = nn.ModuleList(nn.Conv1d(4, 4, width) for width in (1, 2, 3))
    for model in (nn.Linear(2, 2), parallel):
        with pytest.raises(RequestError, match="no `ModuleList` of layers that are alike"):
            optimizer.rates_by_layer(model, 0.5)


def test_warm_up_and_schedule_act_on_every_group() -> None:
    progress = loop.begin(Stack(), spec(layer_decay=0.5, warmup_share=0.5, batch_size=5), 20)  # 4 steps
    assert [group["lr"] for group in progress.optimizer.param_groups] == pytest.approx(
        [0.1 * share / 3 for share in (0.5**4, 0.5**3, 0.5**2, 0.5, 1.0)]
    )


def test_keys_of_networks_that_learn_as_before_are_as_before() -> None:
    own, bert = ModelSpec(factory="a:b"), TransformersModel(kind="transformers", checkpoint="bert")
    later = {"decays", "layer_decay", "kwargs", "folder", "depends_on"}
    assert not later & spec().determining(own).keys() and not later & spec(decays="all").determining(bert).keys()
    assert spec().determining(bert)["decays"] == spec(decays="matrices").determining(own)["decays"] == "matrices"
    assert spec(layer_decay=0.9).determining(own)["layer_decay"] == 0.9
    saw = spec(schedule="own:Saw", kwargs={"teeth": 2}, folder="/a").determining(own)
    assert saw["schedule"] == "own:Saw" and saw["kwargs"] == {"teeth": 2} and "folder" not in saw


OWN = """
class Halves:
    def __init__(self, every=0.25):
        self.every = every

    def __call__(self, done):
        return 0.5 ** (done // self.every)


class Falls:
    def __call__(self, done):
        return 0.5 - done


class Nothing:
    pass
"""


def own(folder: Path, name: str, **changes: Any) -> TrainingSpec:
    (folder / "own.py").write_text(OWN)
    return spec(schedule=f"own:{name}", folder=str(folder), batch_size=5, **changes)


def test_a_schedule_of_ones_own_gives_the_factor_after_the_warm_up(tmp_path: Path) -> None:
    of_all = own(tmp_path, "Halves", warmup_share=0.2, kwargs={"every": 0.5})
    optimizer.check_schedule("student.training.schedule", of_all)
    progress, rates = loop.begin(nn.Linear(2, 2), of_all, 25), []  # 5 steps, the first of the warm-up
    for _ in range(5):
        rates.append(progress.optimizer.param_groups[0]["lr"])
        progress.optimizer.step()
        progress.schedule.step()
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.05, 0.05])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("Falls", {}, "its schedule gives -0.01 when 51% of the training is done, .* of at least 0"),
        ("Halves", {"kwargs": {"ever": 1}}, "'own:Halves' raised TypeError: .*'ever'"),
        ("Halves", {"kwargs": {"every": 0}}, "its schedule raised ZeroDivisionError: .* It was called with 0"),
        ("Nothing", {}, "'own:Nothing' made Nothing; expected what is called .* and returns a factor"),
    ],
)
def test_a_schedule_that_gives_no_factor_is_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message):
        optimizer.check_schedule("student.training.schedule", own(tmp_path, name, **changes))


def test_a_built_in_schedule_takes_no_arguments() -> None:
    with pytest.raises(RequestError, match=r"training\.schedule: 'linear' does not take `kwargs` {'at': 1}"):
        optimizer.check_schedule("student.training.schedule", spec(schedule="linear", kwargs={"at": 1}))
