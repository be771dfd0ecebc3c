"""Redact credentials from text that leaves the process: in URIs and their queries, assignments, environment variables.

That text is errors, log lines, events, what the tracker is sent, the resolved configuration.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

HIDDEN = "***"
_USER = re.compile(r"(?<=://)(?:[^/\s:@'\"]+:[^\s'\"]*|[^/\s@'\"]+)(?=@)")
_NAMED = re.compile(  # `pad_token` and its like belong to language models
    r"(?i)\b((?:[\w-]*(?:password|passwd|secret|signature|credential|api_?key|access_?key|account_?key|authorization)"
    r"|[\w-]*(?:access|auth|bearer|session|security|refresh|sas|hf|api)[_-]?token)['\"]?\s*[=:]\s*"
    r"|(?:\btoken|[?&]sig)=)"
    r"(?:\"[^\"]*\"|'[^']*'|(?:(?:Basic|Bearer)\s+)?[^\s'\"&;}\])]*[^\s'\"&;}\]),])"
)
_TELLING = re.compile(r"(?i)password|passwd|secret|token|credential|api_?key|access_?key|account_?key")
SHORTEST = 8
"""Characters of an environment variable's value that is looked for wherever it turns up."""


def redacted(text: str) -> str:
    """`text` without secrets: `scheme://***@host`, `token=***`, and the values of variables that are named for one."""
    text = _USER.sub(HIDDEN, text)
    text = _NAMED.sub(lambda found: f"{found[1]}{HIDDEN}", text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and _TELLING.search(name) and not os.path.exists(value):
            text = re.sub(rf"(?<![\w-]){re.escape(value)}(?![\w-])", HIDDEN, text)
    return text


def has_secrets(values: Mapping[str, Any]) -> bool:
    """Whether plain values, nested or not, hold a credential, or one that was redacted before."""
    text = yaml.safe_dump(dict(values))
    return redacted(text) != text or HIDDEN in text


class HidingFormatter(logging.Formatter):
    """Log lines, and the tracebacks with them, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))
