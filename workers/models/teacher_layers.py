"""Initial weights of a student from its teacher: the embeddings, and layers at even distances.

DistilBERT (Sanh, Debut, Chaumond and Wolf 2019, section 3) takes one layer out of two. Parameters are matched by their
names. For a student of DistilBERT's architecture, the names of BERT are translated, and BERT's embedding of the first
token type is added to those of the positions, since every token has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from workers.errors import RequestError

LAYER = re.compile(r"(?P<stack>(?:^|.*?\.)(?:layers?|h|blocks?)\.)(?P<number>\d+)(?P<inside>\..*)")
"""The name of a parameter in a stack of layers."""
OF_DISTILBERT = {
    "transformer.layer.": "encoder.layer.",
    ".attention.q_lin.": ".attention.self.query.",
    ".attention.k_lin.": ".attention.self.key.",
    ".attention.v_lin.": ".attention.self.value.",
    ".attention.out_lin.": ".attention.output.dense.",
    ".sa_layer_norm.": ".attention.output.LayerNorm.",
    ".ffn.lin1.": ".intermediate.dense.",
    ".ffn.lin2.": ".output.dense.",
    ".output_layer_norm.": ".output.LayerNorm.",
    "vocab_transform.": "cls.predictions.transform.dense.",
    "vocab_layer_norm.": "cls.predictions.transform.LayerNorm.",
    "vocab_projector.": "cls.predictions.",
}
"""Parts of DistilBERT's names, and the same of BERT's."""
FIX = "Choose such a student, or leave `initial` out."
POSITIONS, TYPES = "embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"


@torch.no_grad()
def fill(student: nn.Module, teacher: nn.Module, label: str) -> None:
    """Copy the teacher's parameters into the student; those that the teacher lacks stay as they are.

    label: names the student in errors. Raises: `RequestError` where none of its layers fit.
    """
    own, given = _named(student), _named(teacher)
    layers, of_teacher = _layers(own), _layers(given)
    if not layers or not of_teacher:
        what = "student" if not layers else "teacher"
        raise RequestError(
            f"{label}: no stack of layers is known in the {what}, which `teacher_layers` copies. Expected parameters "
            "such as 'layer.0.weight': choose such a network, or leave `initial` out."
        )
    for stack, count in layers.items():
        if count > of_teacher.get(stack, 0):
            raise RequestError(
                f"{label}: '{stack}' has {count} layers, and the teacher {of_teacher.get(stack, 0)} of this name. For "
                f"`teacher_layers` a student has the teacher's architecture, and at most as many layers. {FIX}"
            )
    for name, parameter in own.items():
        source = given.get(_source(name, layers, of_teacher))
        if source is None and LAYER.fullmatch(name):
            raise RequestError(
                f"{label}: the teacher's layers have no '{name}', which `teacher_layers` copies. Expected a student of "
                f"the teacher's architecture. {FIX}"
            )
        if source is None:
            continue
        if source.shape != parameter.shape:
            raise RequestError(
                f"{label}: '{name}' is {list(parameter.shape)}, and the teacher's is {list(source.shape)}. For "
                f"`teacher_layers` a student has the teacher's widths and vocabulary, and at most as many layers. {FIX}"
            )
        parameter.copy_(source)
    if TYPES in given and TYPES not in own and POSITIONS in own:
        own[POSITIONS].add_(given[TYPES][0])


def _named(module: nn.Module) -> dict[str, Tensor]:
    """The parameters by BERT's names, without the name of the architecture.

    A head whose logits are put in another order by a hook is left out, since its rows are of other classes.
    """
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    found: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if module._forward_hooks and not name.startswith(prefix):
            continue
        short = name.removeprefix(prefix)
        for part, of_bert in OF_DISTILBERT.items():
            short = short.replace(part, of_bert)
        found[short] = parameter
    return found


def _layers(named: Iterable[str]) -> dict[str, int]:
    """How many layers each stack has."""
    found: dict[str, int] = {}
    for match in filter(None, map(LAYER.fullmatch, named)):
        found[match["stack"]] = max(found.get(match["stack"], 0), int(match["number"]) + 1)
    return found


def _source(name: str, layers: Mapping[str, int], of_teacher: Mapping[str, int]) -> str:
    """The teacher's name for a parameter of the student."""
    match = LAYER.fullmatch(name)
    if match is None:
        return name
    stack = match["stack"]
    return f"{stack}{int(match['number']) * of_teacher[stack] // layers[stack]}{match['inside']}"
