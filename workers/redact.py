"""Redacts credentials in text that leaves the process: in URIs and their queries, assignments, environment variables.

This text is errors, log lines, events, data for the tracker, and the resolved configuration.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

HIDDEN = "***"
AZURE = ("abfs", "abfss", "az", "wasb", "wasbs")
"""Protocols in whose URIs a container is before the `@`, as in abfss://CONTAINER@ACCOUNT.dfs.core.windows.net."""
_USER = re.compile(
    r"(?<=://)(?:[^/\s:@'\"]+:[^\s'\"]*|"
    + "".join(rf"(?<!\b{protocol}://)" for protocol in AZURE)
    + r"[^/\s@'\"]+)(?=@)"
)
_WORDS = r"password|passwd|secret|credential|(?:api|access|account|private|subscription)[_-]?key"
_NAMED = re.compile(  # excludes `pad_token` and similar names of language models
    rf"(?i)((?:\b[\w-]*(?:{_WORDS}|signature|authorization)"
    r"|\b[\w-]*(?:access|auth|bearer|session|security|refresh|sas|hf|api)[_-]?token)['\"]?\s*[=:]\s*"
    r"|(?:\btoken|[?&](?:sig|key))=)"
    r"(?:\"[^\"]*\"|'[^']*'|(?:(?:Basic|Bearer)\s+)?[^\s'\"&;}\])]*[^\s'\"&;}\]),])"
)
_TELLING = re.compile(rf"(?i){_WORDS}|token")
SHORTEST = 8
"""Minimal length of an environment variable's value that is redacted anywhere in a text."""


def redacted(text: str) -> str:
    """`text` without secrets: `scheme://***@host`, `token=***`, and values of variables with secret names."""
    text = _USER.sub(HIDDEN, text)
    text = _NAMED.sub(lambda found: f"{found[1]}{HIDDEN}", text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and _TELLING.search(name) and not os.path.exists(value):
            text = re.sub(rf"(?<![\w-]){re.escape(value)}(?![\w-])", HIDDEN, text)
    return text


def plain(values: Any, *, is_secret: bool = False) -> Any:
    """Plain, maybe nested values without secrets: each text on its own, so that YAML of them is still YAML.

    is_secret: whether the name of `values` tells so.
    """
    if isinstance(values, Mapping):
        return {name: plain(value, is_secret=_NAMED.search(f"{name}: x") is not None) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value, is_secret=is_secret) for value in values]
    if is_secret and values is not None and not isinstance(values, bool):
        return HIDDEN
    return redacted(values) if isinstance(values, str) else values


def has_secrets(values: Mapping[str, Any]) -> bool:
    """Whether plain or nested values contain a credential, redacted or not."""
    text = yaml.safe_dump(dict(values))
    return redacted(text) != text or HIDDEN in text


class HidingFormatter(logging.Formatter):
    """Formats log lines and their tracebacks with secrets redacted."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))
