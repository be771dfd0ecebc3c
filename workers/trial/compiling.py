"""Checks in seconds whether `torch.compile` will work: traces the network, and compiles only a tiny function."""

from __future__ import annotations

import torch
from torch import nn

from workers.data.collate import Inputs
from workers.errors import RequestError
from workers.models.ask import ask
from workers.seeds import seeded


def check_network(module: nn.Module, batch: Inputs, name: str) -> None:
    """Raise `RequestError` where `torch.compile` cannot trace `module` forwards and backwards; generates no code."""
    module.zero_grad(set_to_none=True)  # as a step of training begins
    try:
        ask(torch.compile(module.train(), backend="aot_eager"), batch).float().sum().backward()
    except Exception as error:  # of the compiler or the model
        raise RequestError(f"{name} cannot be compiled ({_brief(error)}). Set `compile: false` for it.") from error
    finally:
        torch._dynamo.reset()
        module.zero_grad(set_to_none=True)


def check_machine() -> None:
    """Raise `RequestError` where this machine cannot compile for its CPU."""
    try:
        with seeded(0), torch.no_grad():
            torch.compile(lambda x: (x * 2).relu())(torch.ones(8))
    except Exception as error:  # of the compiler
        raise RequestError(
            f"training.compile: this machine cannot compile ({_brief(error)}). Expected a C++ compiler and Python's "
            "headers, such as the packages g++ and python3-dev; or set `compile: false`."
        ) from error
    finally:
        torch._dynamo.reset()


def _brief(error: BaseException) -> str:
    """The beginning of a message, since compilers append many lines of advice."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:400]}"
