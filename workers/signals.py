"""Signals: the training inputs of a term of the objective, by name.

A term declares the signals that it needs, and a kind of targets those that it provides. The data provides labels.
Signals of a teacher beside the student are provided by members that support them.
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
    """Hidden states of a teacher beside the student."""
    ATTENTIONS = "attentions"
    """Attentions of a teacher beside the student."""
