"""Values of `initial` that are no files of weights."""

from __future__ import annotations

PREVIOUS = "previous"
"""Value of `initial` for a stage, or a member, that starts from the weights of the previous one."""
TEACHER_LAYERS = "teacher_layers"
"""Value of `initial` for a start from layers of a member."""
WORDS = (PREVIOUS, TEACHER_LAYERS)
"""Values of `initial` that are no files."""
