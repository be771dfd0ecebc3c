"""Makes a network a specialist: it tells its own classes apart, and answers all others as one, the dustbin class.

Hinton, Vinyals and Dean (2015, section 5) give a specialist one further output, the dustbin. Here it keeps the K
outputs of its generalist, and the logit of each other class is replaced by d - log n, with d = logsumexp of the logits
of these n classes. This is the same: their probabilities together are those of one unit of logit d, since
n exp(d - log n) = exp(d). The cross entropy with the label of such a class is that of the dustbin plus the constant
log n, so that it has the gradient of the dustbin. As training begins d is the generalist's own. So architecture, state
dict and labels stay those of the generalist.

Outside training the correction is added to d. It makes up for a training sample in which the specialist's classes are
more frequent than in the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workers.specs.models import SpecialClasses

REST, CORRECTION = "stillhouse_rest", "stillhouse_correction"
"""Names of the buffers with the classes that are answered as one, and with the correction. They move and are stacked
with the weights, and are in no state dict."""


def correction(share: float, prior: float) -> float:
    """The log of the odds by which a sample favours classes.

    share: of these classes in the sample, prior: in the data; both in (0, 1). By Bayes' rule the odds that a network
    learns of the sample are those of the data times this factor.
    """
    return math.log(share / (1 - share)) - math.log(prior / (1 - prior))


def specialised(module: nn.Module, special: SpecialClasses | None) -> nn.Module:
    """The same network, which answers all classes but those of `special` as one."""
    if special is None:
        return module
    rest = torch.ones(special.of, dtype=torch.bool)
    rest[list(special.ids)] = False
    module.register_buffer(REST, rest, persistent=False)
    module.register_buffer(CORRECTION, torch.tensor(special.correction), persistent=False)
    module.register_forward_hook(_as_specialist)
    return module


def with_dustbin(logits: Tensor, rest: Tensor, added: Tensor | float = 0.0) -> Tensor:
    """Logits [..., K] float32 of a specialist. rest: [K] bool, the classes that are one. added: to their logit d."""
    values = logits.float()
    together = values.masked_fill(~rest, -math.inf).logsumexp(dim=-1, keepdim=True)
    return torch.where(rest, together + (added - rest.sum().log()), values)


def _as_specialist(module: nn.Module, arguments: Any, returned: Any) -> Any:
    """Forward hook. A network returns logits, or a mapping that has them, as those of transformers do."""
    rest, added = module.get_buffer(REST), 0.0 if module.training else module.get_buffer(CORRECTION)
    logits = returned.get("logits") if isinstance(returned, Mapping) else returned
    if not isinstance(logits, Tensor) or logits.shape[-1:] != rest.shape:
        return returned  # no logits of these classes, which `checked` explains
    found = with_dustbin(logits, rest, added)
    if not isinstance(returned, Mapping):
        return found
    changed: Any = returned
    changed["logits"] = found
    return changed
