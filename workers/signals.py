"""What a term of the objective can learn from, by name.

A term states what it needs, a kind of targets what it offers; the data offers labels. What needs a teacher beside the
student is offered by members that give it. Nothing here computes.
"""

from __future__ import annotations

from enum import StrEnum


class Signal(StrEnum):
    """One thing that a term may compare the student with."""

    PROBABILITIES = "probabilities"
    """The teachers' mean, softened at T."""
    LOGITS = "logits"
    """The teachers' logits of every class, up to a constant for each row."""
    LABELS = "labels"
    HIDDEN_STATES = "hidden_states"
    """Hidden states of a teacher beside the student."""
    ATTENTIONS = "attentions"
    """Attentions of a teacher beside the student."""
