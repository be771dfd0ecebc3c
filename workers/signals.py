"""Signals: the training inputs of a term of the objective, by name.

A term declares the signals that it needs, and a kind of targets those that it provides. The data provides labels. The
signals of `BESIDE` come from one member, which a worker of the student's training asks for each batch.
"""

from __future__ import annotations

from enum import StrEnum


class Signal(StrEnum):
    """A quantity that a term may compare the student with."""

    PROBABILITIES = "probabilities"
    """The teachers' mean, softened at T."""
    LOGITS = "logits"
    """The teachers' logits of every class, up to a constant for each row."""
    LABELS = "labels"
    HIDDEN_STATES = "hidden_states"
    """Hidden states of one member."""
    ATTENTION_INPUTS = "attention_inputs"
    """Queries, keys and values of one member's self-attention."""


BESIDE = frozenset({Signal.HIDDEN_STATES, Signal.ATTENTION_INPUTS})
"""Signals that no store has, since they are too large."""
