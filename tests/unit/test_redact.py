"""Credentials are redacted; text that only resembles them stays."""

import logging

import pytest

from workers.redact import HidingFormatter, plain, redacted


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("no tracker at 'https://me:hunter2@host/x'", "no tracker at 'https://***@host/x'"),
        ("postgresql+psycopg://me:p%40w@db:5432/m", "postgresql+psycopg://***@db:5432/m"),
        ("az://c/f?sv=2024&sig=abc%3D&se=1", "az://c/f?sv=2024&sig=***&se=1"),
        ("http://h/?key=abc&x-api-key=d-e&page=1", "http://h/?key=***&x-api-key=***&page=1"),
        ("Subscription-Key: abc, private_key: d", "Subscription-Key: ***, private_key: ***"),
        ("{'aws_secret_access_key': 'abc/def', 'key': 'x'}", "{'aws_secret_access_key': ***, 'key': 'x'}"),
        ("password: 'my long pass word', user", "password: ***, user"),
        ("postgresql://u:pa/ss@h and u:p@ss", "postgresql://***@h and u:p@ss"),
        ("mysql://u:p@ss@h/x", "mysql://***@h/x"),
        ("sftp://me@host/x", "sftp://***@host/x"),
        *(
            (uri, uri)
            for uri in ("abfss://data@acct.dfs.core.windows.net/runs", "az://data@acct/x", "wasbs://data@acct/x")
        ),
        ("abfss://data:pw@acct.dfs.core.windows.net/runs", "abfss://***@acct.dfs.core.windows.net/runs"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("kwargs: {sig: 0.5, token: cls}", "kwargs: {sig: 0.5, token: cls}"),
        ("password: hunter2\nuser: me", "password: ***\nuser: me"),
        ("Authorization token=eyJhbGc.x-y_z, retry", "Authorization token=***, retry"),
        ("pad_token: '[PAD]', eos_token: </s>", "pad_token: '[PAD]', eos_token: </s>"),
        ("HF_TOKEN=hf_abc and x-amz-security-token=IQoJ", "HF_TOKEN=*** and x-amz-security-token=***"),
        ("max_tokens: 64, tokenizer: bert, secretary: me", "max_tokens: 64, tokenizer: bert, secretary: me"),
        ("sqlite:////home/me/mlflow.db and s3://bucket/key", "sqlite:////home/me/mlflow.db and s3://bucket/key"),
    ],
)
def test_secrets_are_hidden(said: str, left: str) -> None:
    assert redacted(said) == left


def test_values_of_telling_variables_are_hidden_wherever_they_turn_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("SOME_TOKEN", "short")
    assert redacted("signed with wJalrXUtnFEMI, in short") == "signed with ***, in short"


def test_log_lines_and_their_tracebacks() -> None:
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "at %s", ("s3://k:s@h/b",), None)
    assert HidingFormatter("%(message)s").format(record) == "at s3://***@h/b"


def test_plain_values_are_hidden_each_on_its_own() -> None:
    given = {
        "uri": "http://me:pw@host/x",
        "kwargs": {"password": "long 'pass' word", "api_key": 7, "secret": None, "layers": [{"token": "cls"}], "n": 3},
        "passwords": ["a", "b"],
    }
    assert plain(given) == {
        "uri": "http://***@host/x",
        "kwargs": {"password": "***", "api_key": "***", "secret": None, "layers": [{"token": "cls"}], "n": 3},
        "passwords": ["a", "b"],
    }
