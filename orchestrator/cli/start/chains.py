"""A network that fits a state dict, where its layers are a chain: linear, convolutional and normalising ones.

Names and shapes say which layers there are. They do not say what has no weights (activations, pooling), so each usual
choice is tried on labelled examples. The most likely one is proposed: a network answers best as it was trained.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]
ACTIVATIONS = ("ReLU", "GELU", "Tanh", "SiLU", "LeakyReLU", "ELU", "Sigmoid")
TRIED = 1000
"""Labelled examples that a choice is tried on."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights. name: in the state dict. code: the call that makes it. inputs, outputs: its width."""

    name: str
    kind: str
    code: str
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Guess:
    """A network, as pairs of a name and the call that makes the layer. accuracy, nll: on the labelled examples."""

    layers: tuple[tuple[str, str], ...]
    accuracy: float
    nll: float

    def function(self, name: str, examples: int) -> str:
        """The text of a function of `models.py`."""
        rows = "".join(
            f"            ({json.dumps(layer, ensure_ascii=False)}, {code}),\n" for layer, code in self.layers
        )
        return (
            f"\n\ndef {name}() -> nn.Module:\n"
            '    """The network of the checkpoints, guessed from the names and shapes of its layers.\n\n'
            "    What has no weights (activations, pooling) was chosen by its likelihood on examples; accuracy "
            f'{self.accuracy:.1%} of {examples:,}.\n    """\n'
            f"    return Chain(\n        [\n{rows}        ]\n    )\n"
        )


def layers_of(shapes: Shapes) -> list[Layer] | None:
    """The layers in the order of a chain; None where the names and shapes are of another kind of network."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layer, _, part = name.rpartition(".")
        parts.setdefault(layer, {})[part] = shape
    layers = [_layer(name, of_layer) for name, of_layer in parts.items()]
    known = [layer for layer in layers if layer is not None]
    if not layers or len(known) < len(layers):
        return None
    natural = sorted(known, key=lambda layer: [int(p) if p.isdigit() else p for p in _split(layer.name)])
    return next((order for order in (known, natural, _linked(known)) if order and _is_chain(order)), None)


def _split(name: str) -> list[str]:
    """A name in letters and numbers, each number behind a letter so that they compare."""
    return [part.zfill(6) if part.isdigit() else part for part in re.findall(r"\d+|\D+", name)]


def _layer(name: str, parts: Mapping[str, tuple[int, ...]]) -> Layer | None:
    weight, bias = parts.get("weight"), ", bias=False" if "bias" not in parts else ""
    if parts.keys() - {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"} or not name:
        return None
    if "running_mean" in parts:
        (width,) = parts["running_mean"]
        return Layer(name, "norm", f"({width}{'' if weight else ', affine=False'})", width, width)
    if weight is None:
        return None
    if len(weight) == 2:
        return Layer(name, "linear", f"nn.Linear({weight[1]}, {weight[0]}{bias})", weight[1], weight[0])
    if len(weight) == 4 and weight[2] == weight[3]:
        code = f"nn.Conv2d({weight[1]}, {weight[0]}, {weight[2]}, padding=PADDING{bias})"
        return Layer(name, "conv", code, weight[1], weight[0])
    if len(weight) == 1 and "bias" in parts:
        return Layer(name, "norm", f"nn.LayerNorm({weight[0]})", weight[0], weight[0])
    return None


def _fits(before: Layer, after: Layer) -> bool:
    flattened = before.kind in ("conv", "norm") and after.kind == "linear" and after.inputs % before.outputs == 0
    return before.outputs == after.inputs or flattened


def _is_chain(layers: Sequence[Layer]) -> bool:
    kinds = [layer.kind for layer in layers]
    last_conv = max((k for k, kind in enumerate(kinds) if kind == "conv"), default=-1)
    linears_behind = all(k > last_conv for k, kind in enumerate(kinds) if kind == "linear")
    return kinds[-1] == "linear" and linears_behind and all(_fits(a, b) for a, b in itertools.pairwise(layers))


def _linked(layers: Sequence[Layer]) -> list[Layer] | None:
    """An order in which each layer fits the one before it, found by its widths; None without one."""

    def extended(order: list[Layer], rest: list[Layer]) -> list[Layer] | None:
        if not rest:
            return order if _is_chain(order) else None
        for layer in rest:
            if not order or _fits(order[-1], layer):
                found = extended([*order, layer], [each for each in rest if each is not layer])
                if found is not None:
                    return found
        return None

    return extended([], list(layers)) if len(layers) <= 10 else None


def best(layers: Sequence[Layer], weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Guess | None:
    """The choice of layers without weights that answers best; None where none takes the examples.

    x: [N, ...] inputs; y: [N] class ids.
    """
    found = []
    for choice in _choices(layers, x):
        logits = _answers(choice, weights, x)
        if logits is not None:
            nll = float(nn.functional.cross_entropy(logits, y))
            found.append(Guess(choice, float((logits.argmax(1) == y).double().mean()), nll))
    return min(found, key=lambda guess: guess.nll, default=None)


def _choices(layers: Sequence[Layer], x: Tensor) -> Iterator[tuple[tuple[str, str], ...]]:
    convs = [layer for layer in layers if layer.kind == "conv"]
    pools = ("nn.MaxPool2d(2)", "", "nn.AvgPool2d(2)") if convs else ("",)
    ends = ("nn.Flatten()", "nn.AdaptiveAvgPool2d(1), nn.Flatten()") if convs else ("",)
    for activation, pool, same, end in itertools.product(ACTIVATIONS, pools, (True, False) if convs else (True,), ends):
        yield tuple(_assembled(layers, activation, pool=pool, same=same, end=end, flat=x.ndim > 2 and not convs))


def _assembled(
    layers: Sequence[Layer], activation: str, *, pool: str, same: bool, end: str, flat: bool
) -> Iterator[tuple[str, str]]:
    """Names and calls: an activation and a pooling behind each layer but the last, before the next one's weights."""
    if flat:
        yield "", "nn.Flatten()"
    in_images = any(layer.kind == "conv" for layer in layers)
    for number, layer in enumerate(layers):
        if layer.kind == "linear" and in_images:
            in_images = False
            for each in end.split(", "):
                yield "", each
        size = int(found[1]) if (found := re.search(r", (\d+), padding", layer.code)) else 0
        code = layer.code.replace("PADDING", str(size // 2 if same else 0))
        yield layer.name, (f"nn.BatchNorm{2 if in_images else 1}d{code}" if code.startswith("(") else code)
        following = layers[number + 1] if number + 1 < len(layers) else None
        begins = number == 0 and layer.kind == "norm"
        if following is not None and following.kind != "norm" and not begins:
            yield "", f"nn.{activation}()"
            if in_images and pool:
                yield "", pool


def _answers(choice: Sequence[tuple[str, str]], weights: Mapping[str, Tensor], x: Tensor) -> Tensor | None:
    """Logits [N, K]; None where the network does not take weights or examples."""
    layers = [(name, eval(code, {"nn": nn})) for name, code in choice]  # the calls are made here, of numbers alone
    try:
        with torch.no_grad():
            for name, layer in layers:
                own = {k.rpartition(".")[2]: v for k, v in weights.items() if name and k.rpartition(".")[0] == name}
                layer.load_state_dict(own)
                x = layer.eval()(x)
            return x if x.ndim == 2 else None
    except (RuntimeError, ValueError, IndexError):
        return None
