"""Checks that each text, once tokenized, has tokens, and no more than its models can take.

Before a run starts, some texts are tokenized here: those with more bytes than a model has positions, the longest first,
and the shortest, which may be invisible. Once the run has all tokens, every text is checked.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workers.data import text_augment, tokens
from workers.data.arrays import Index
from workers.data.collate import Collator
from workers.data.dataset import Dataset
from workers.data.examples import Columns, Examples, columns_of, described, has_texts
from workers.data.masked_texts import MaskedColumns
from workers.data.ragged import Ragged
from workers.data.texts import PAIR, TEXT, strings
from workers.data.tokens import IDS, Tokenization
from workers.errors import RequestError
from workers.models import predictor
from workers.specs.models import AnyModel
from workers.user_code import calls

MOST = 20_000
"""Most texts of a split that are tokenized here; those of a larger split are the longest and the shortest ones."""


def check(models: Mapping[str, AnyModel], dataset: Dataset, masked_by: str | None = None) -> None:
    """Raise `RequestError` where a text has more tokens than a model has positions, or a model takes no texts.

    models: by their keys in the configuration. A model with `max_length` cuts longer texts, and is checked by itself.
    masked_by: the tokenizer of masked texts; None: the data have none.
    """
    if has_texts(dataset.train.x) and not any(model.predicts_masked for model in models.values()):
        without = [
            key for key, model in models.items() if model.inputs is None and not predictor.collator(model).tokens
        ]
        if without:
            raise RequestError(
                f"{without[0]}.tokenizer: not given, and the data are texts. Expected a folder with a tokenizer of "
                "transformers; a model of bytes names them as `inputs: [text]`."
            )
    check_tokens(models, dataset)
    varied: dict[str, Examples] = {} if dataset.augment is None else {"augment": dataset.transfer.x}
    known: dict[tuple[str, Collator, int], Index] = {}
    tried: set[Tokenization] = set()
    for key, model in models.items():
        if (
            masked_by is not None
            and model.tokenizer is not None
            and (other := tokens.moved(model.tokenizer, masked_by))
        ):
            raise RequestError(
                f"{key}: {other}, which is `data.masking.tokenizer`. Expected the tokenizer that the network was "
                "trained with in both."
            )
        collator, most = predictor.collator(model), predictor.kind_of(model).positions(model)
        how = collator.tokens
        if how is not None and has_texts(dataset.train.x):
            how.check_room(f"{key}.max_length", pair=PAIR in columns_of(collator.chosen(dataset.train.x)))
            if how not in tried:
                _check_shortest(dataset, how)
            tried.add(how)
        if how is None or most is None:
            continue
        if how.max_length is not None:
            _check_cut(key, model, how.max_length, most)
            continue
        for split, x in {**dataset.inputs, **varied}.items():
            taken = collator.chosen(x)
            if has_texts(taken) and isinstance(taken, Columns):
                asked = split, collator, most
                if asked not in known:
                    with calls.checked(f"data.{split}: making tokens of its texts raised"):
                        known[asked] = _lengths(taken, how, most)
                _check_lengths(key, model, split, known[asked], most)


def check_tokenized(
    models: Mapping[str, AnyModel], dataset: Dataset, split: str, how: Tokenization, ids: Ragged
) -> None:
    """Raise `RequestError` where a text of a split has no tokens, or more than a model has positions.

    models: by their keys in the configuration. ids: [N] rows of tokens, of all texts of the split by `how`.
    """
    check_each_has_one(dataset, split, how, ids)
    x = dataset.inputs[split]
    for key, model in models.items():
        collator, most = predictor.collator(model), predictor.kind_of(model).positions(model)
        if collator.tokens != how or how.max_length is not None or most is None:
            continue
        if (PAIR in columns_of(collator.chosen(x))) == (PAIR in columns_of(x)):  # else it takes fewer tokens
            _check_lengths(key, model, split, ids.lengths, most)


def notes(models: Mapping[str, AnyModel], dataset: Dataset) -> tuple[str, ...]:
    """Notes on a mask of varied texts that a model's tokenizer does not have. models: by their keys."""
    mask = text_augment.mask_of(dataset.augment)
    if not mask:
        return ()
    hows = [predictor.collator(model).tokens for model in models.values()]
    found = []
    for uri in dict.fromkeys(how.uri for how in hows if how is not None):
        tokenizer = tokens.of_texts(uri)
        count = len(tokenizer(mask, add_special_tokens=False)[IDS])
        own = tokenizer.special_tokens_map.get("mask_token", "")
        if count > 1 and own != mask:
            has = f"whose own mask is '{own}'" if own else "which has no mask of its own"
            found.append(
                f"data.augment: the mask '{mask}' is {count} tokens of '{uri}', {has}. Set `data.augment.kwargs.mask` "
                "to one that each tokenizer has."
            )
    return tuple(found)


def check_tokens(models: Mapping[str, AnyModel], dataset: Dataset) -> None:
    """Raise `RequestError` where the data's tokens are more than a model has positions, or it needs tokens to mask.

    models: by their keys in the configuration.
    """
    for key, model in models.items():
        _check_tokens(key, model, dataset)


def check_each_has_one(dataset: Dataset, split: str, how: Tokenization, ids: Ragged, rows: Index | None = None) -> None:
    """Raise `RequestError` where a text has no tokens besides special ones, as one of invisible characters may have.

    ids: [n] rows of tokens, of the rows [n] of the split; None: of all.
    """
    columns = columns_of(dataset.inputs[split])
    special = how.special(pair=PAIR in columns)
    empty = np.flatnonzero(ids.lengths <= special)
    if not len(empty):
        return
    row = int(empty.min() if rows is None else rows[empty].min())
    of_text = columns[TEXT]
    assert isinstance(of_text, Ragged)
    text = strings(of_text[np.array([row])])[0]
    given = dataset.given_row(split, row)
    besides = f" besides {special} special ones" if special else ""
    raise RequestError(
        f"data.{split}: {text[:SHOWN]!r}, the text of example {given}, has no tokens{besides} by '{how.uri}'; found "
        f"{_counted(len(empty), 'such text', 'such texts')}, expected at least one token in each. Leave them out."
    )


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"


def _check_shortest(dataset: Dataset, how: Tokenization) -> None:
    """Raise `RequestError` where one of the shortest texts has no tokens."""
    for split, x in dataset.inputs.items():
        if has_texts(x) and isinstance(x, Columns):
            texts, sizes = _texts(x)
            shortest = np.argsort(sizes, kind="stable")[:MOST]
            check_each_has_one(dataset, split, how, how(*(column[shortest] for column in texts))[IDS], shortest)


def _check_tokens(key: str, model: AnyModel, dataset: Dataset) -> None:
    """Raise `RequestError` where the data's tokens are more than a model's positions, or it needs tokens to mask."""
    if model.predicts_masked and IDS not in columns_of(dataset.train.x):
        raise RequestError(
            f"{key}.task: masked-lm, and the data have {described(dataset.train.x)}. Expected texts and `data.masking`."
        )
    most = predictor.kind_of(model).positions(model)
    for split, x in dataset.inputs.items():
        column, words = columns_of(x).get(IDS), (f"row of {IDS} has", f"rows of {IDS} have")
        if most is None or not isinstance(column, Ragged):
            continue
        lengths, about = column.lengths, ""
        if isinstance(x, MaskedColumns):
            lengths, about, words = x.of_each_text(), "about " * x.is_sampled, ("text has", "texts have")
        if len(longer := lengths[lengths > most]):
            raise RequestError(
                f"data.{split}: {about}{_counted(len(longer), *words)} more tokens than the {most:,} positions of "
                f"{model.label}, the longest {longer.max():,}. Set `data.masking.max_length`, or leave them out."
            )


def _check_cut(key: str, model: AnyModel, max_length: int, most: int) -> None:
    if max_length > most:
        raise RequestError(
            f"{key}.max_length: {max_length:,}, and {model.label} has positions for {most:,} tokens. Expected at most "
            "as many."
        )


def _check_lengths(key: str, model: AnyModel, split: str, lengths: Index, most: int) -> None:
    """Raise `RequestError` where one of the texts of these lengths [n], in tokens, has more than `most`."""
    longer = lengths[lengths > most]
    if len(longer):
        raise RequestError(
            f"data.{split}: {_counted(len(longer), 'text has', 'texts have')} more tokens than the {most:,} positions "
            f"of {model.label}, the longest {longer.max():,}. Set `{key}.max_length: {most}` to cut them, or leave "
            "them out."
        )


def _lengths(x: Columns, how: Tokenization, most: int) -> Index:
    """The numbers of tokens [n] of those texts, in all their versions, that are likely to have more than `most`."""
    _, sizes = _texts(x)
    longest = np.argsort(-sizes, kind="stable")[: min(MOST, int((sizes + SPECIAL > most).sum()))]
    versions = range(0, len(x), len(sizes))[: 1 + MOST // max(1, len(longest))]
    rows = np.concatenate([longest + first for first in versions])[:MOST]
    blocks = (rows[first : first + tokens.AT_ONCE] for first in range(0, len(rows), tokens.AT_ONCE))
    found = [how(*_texts(x[block])[0])[IDS].lengths for block in blocks]
    return np.concatenate([np.zeros(0, np.int64), *found])


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
