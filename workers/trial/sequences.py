"""Checks before a run starts that each text, once tokenized, has tokens, and no more than its models can take.

A text has at most about as many tokens as bytes. So only the texts with more bytes than a model has positions are
tokenized here, the longest first; and, where a tokenizer adds no special tokens, the shortest, which may have none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from workers.data.arrays import Index
from workers.data.dataset import Dataset
from workers.data.examples import Columns, columns_of, described, has_texts
from workers.data.ragged import Ragged
from workers.data.texts import PAIR, TEXT, strings
from workers.data.tokens import IDS, Tokenization
from workers.errors import RequestError
from workers.models import predictor
from workers.specs.models import AnyModel

MOST = 20_000
"""Most texts of a split that are tokenized here; those of a larger split are the longest and the shortest ones."""


def check(models: Mapping[str, AnyModel], dataset: Dataset) -> None:
    """Raise `RequestError` where a text has more tokens than a model has positions, or a model takes no texts.

    models: by their keys in the configuration. A model with `max_length` cuts longer texts, and is checked by itself.
    """
    if has_texts(dataset.train.x) and not any(getattr(model, "task", "") == "masked-lm" for model in models.values()):
        without = [
            key for key, model in models.items() if model.inputs is None and not predictor.collator(model).tokens
        ]
        if without:
            raise RequestError(
                f"{without[0]}.tokenizer: not given, and the data are texts. Expected a folder with a tokenizer of "
                "transformers; a model of bytes names them as `inputs: [text]`."
            )
    known: dict[tuple[str, Tokenization], tuple[int, ...]] = {}
    tried: set[Tokenization] = set()
    for key, model in models.items():
        _check_tokens(key, model, dataset)
        how, most = predictor.collator(model).tokens, predictor.kind_of(model).positions(model)
        if how is not None and has_texts(dataset.train.x):
            taken = columns_of(predictor.collator(model).chosen(dataset.train.x))
            how.check_room(f"{key}.max_length", pair=PAIR in taken)
            if how not in tried and how.special(pair=PAIR in taken) == 0:
                _check_shortest(dataset, how)
            tried.add(how)
        if how is None or most is None:
            continue
        if how.max_length is not None:
            _check_cut(key, model, how.max_length, most)
            continue
        for split, x in dataset.inputs.items():
            if has_texts(x) and isinstance(x, Columns):
                if (split, how) not in known:
                    known[split, how] = tuple(_lengths(x, how, most))
                _check_lengths(key, model, split, [n for n in known[split, how] if n > most], most)


def check_each_has_one(dataset: Dataset, split: str, how: Tokenization, ids: Ragged, rows: Index | None = None) -> None:
    """Raise `RequestError` where a text has no tokens, as one of invisible characters may have.

    ids: [n] rows of tokens, of the rows [n] of the split; None: of all.
    """
    empty = np.flatnonzero(ids.lengths == 0)
    if not len(empty):
        return
    row = int(empty.min() if rows is None else rows[empty].min())
    of_text = columns_of(dataset.inputs[split])[TEXT]
    assert isinstance(of_text, Ragged)
    text = strings(of_text[np.array([row])])[0]
    given = row if split != "train" or dataset.kept is None else int(dataset.kept[row])
    raise RequestError(
        f"data.{split}: {text[:SHOWN]!r}, the text of example {given}, has no tokens by '{how.uri}'; found "
        f"{len(empty):,} such texts, expected at least one token in each. Leave them out."
    )


def _check_shortest(dataset: Dataset, how: Tokenization) -> None:
    """Raise `RequestError` where one of the shortest texts has no tokens."""
    for split, x in dataset.inputs.items():
        if has_texts(x) and isinstance(x, Columns):
            texts, sizes = _texts(x)
            shortest = np.argsort(sizes, kind="stable")[:MOST]
            check_each_has_one(dataset, split, how, how(*(column[shortest] for column in texts))[IDS], shortest)


def _check_tokens(key: str, model: AnyModel, dataset: Dataset) -> None:
    """Raise `RequestError` where the data's tokens are more than a model's positions, or it needs tokens to mask."""
    if getattr(model, "task", "") == "masked-lm" and IDS not in columns_of(dataset.train.x):
        raise RequestError(
            f"{key}.task: masked-lm, and the data have {described(dataset.train.x)}. Expected texts and `data.masking`."
        )
    most = predictor.kind_of(model).positions(model)
    for split, x in dataset.inputs.items():
        column = columns_of(x).get(IDS)
        if most is not None and isinstance(column, Ragged) and len(longer := column.lengths[column.lengths > most]):
            raise RequestError(
                f"data.{split}: {len(longer):,} rows of {IDS} have more than the {most:,} positions of {model.label}, "
                f"the longest {longer.max():,}. Set `data.masking.max_length`, or leave them out."
            )


def _check_cut(key: str, model: AnyModel, max_length: int, most: int) -> None:
    if max_length > most:
        raise RequestError(
            f"{key}.max_length: {max_length:,}, and {model.label} has positions for {most:,} tokens. Expected at most "
            "as many."
        )


def _check_lengths(key: str, model: AnyModel, split: str, longer: list[int], most: int) -> None:
    if longer:
        raise RequestError(
            f"data.{split}: {len(longer):,} texts have more tokens than the {most:,} positions of {model.label}, the "
            f"longest {max(longer):,}. Set `{key}.max_length: {most}` to cut them, or leave them out."
        )


def _lengths(x: Columns, how: Tokenization, most: int) -> Iterable[int]:
    """The numbers of tokens of those texts that may have more than `most`."""
    texts, sizes = _texts(x)
    longest = np.argsort(-sizes, kind="stable")[: min(MOST, int((sizes + SPECIAL > most).sum()))]
    return map(int, how(*(column[longest] for column in texts))[IDS].lengths)


def _texts(x: Columns) -> tuple[list[Ragged], Index]:
    """The columns of texts, and the bytes of each example in them: [N]."""
    columns = [x.columns[name] for name in (TEXT, PAIR) if name in x.columns]
    texts = [column for column in columns if isinstance(column, Ragged)]
    sizes: Index = np.sum([column.lengths for column in texts], axis=0)
    return texts, sizes


SHOWN = 60
"""Most characters of a text that a message shows."""
SPECIAL = 4
"""Most special tokens that a tokenizer adds to a text or a pair."""
