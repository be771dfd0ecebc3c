"""What each column of a table is for: the label, texts, features, or nothing. Guesses, each with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from workers.data import encoded_tables, table_files
from workers.data.tables import ROW_NUMBERS_FROM, index_columns
from workers.errors import RequestError, first_few

LABELS = (
    "label", "labels", "target", "class", "classes", "category", "outcome", "diagnosis", "species", "topic",
    "sentiment", "klasse", "ziel", "clase", "classe",
)  # fmt: skip
"""Names that a label usually has, the surest first."""
Y = "y"
"""Another such name, and that of a coordinate."""
MOST_CLASSES = 1000
FEW_ROWS_A_CLASS = 5
"""Rows for each value, on average, below which a column is no label."""
WORDS_OF_TEXT, WORDS_OF_LONG_TEXT = 3.0, 10.0
"""Mean number of words of free text; and of one that is more than a name, an address or a title."""
LETTERS_OF_WORD = 8 / 3
"""Characters that count as a word in a script without spaces."""
FEATURES_BESIDE_TEXT = 1
"""Most features of a table whose free text is what a model is to learn from, however short."""
IN_A_TABLE = "is free text (--text learns from such a column, instead of the others)"


@dataclass(frozen=True)
class Column:
    """A column and what is seen in it. values: different ones, empty cells aside."""

    name: str
    type: pa.DataType
    values: int
    empty: int
    use: str = ""
    """Why it is no feature; empty for a feature."""


@dataclass(frozen=True)
class GuessedRoles:
    """The label, the columns of texts (one, else none), the features, and the reasons."""

    label: str
    texts: tuple[str, ...]
    features: tuple[str, ...]
    reasons: tuple[str, ...]


def guessed(
    table: pa.Table, label: str | None, where: str, *, text: str | None = None, whole: bool = True
) -> GuessedRoles:
    """The roles in rows of the training set.

    label, text: columns that the user names. whole: whether these are all its rows. A column of free text is what a
    model learns from where its texts are long, or hardly another column can be a feature.

    Raises: `RequestError` where no column can be the label, or it is a quantity, or has one value; or where `text` is
    no other column, or has no texts.
    """
    if table.num_rows == 0:
        raise RequestError(f"'{where}': no rows. Expected a table with a header and examples.")
    seen = {name: _seen(name, table.column(name)) for name in table.column_names}
    name, why = _label(seen, table.num_rows, label, where)
    _check_label(seen[name], table, where, whole=whole)
    others = {each: column for each, column in seen.items() if each != name}
    words = {each: mean_words(table.column(each)) for each in others}
    if text is not None:
        _check_text(text, others, name, where)
        return _of_texts(name, text, words, [why, f"text: '{text}', as you say"])
    free = {each for each, mean in words.items() if mean >= WORDS_OF_TEXT}
    unused = {each: IN_A_TABLE if each in free else _no_feature(column, table) for each, column in others.items()}
    features = tuple(each for each, reason in unused.items() if not reason)
    longest = max(words, key=words.__getitem__, default="")
    if longest in free and (len(features) <= FEATURES_BESIDE_TEXT or words[longest] >= WORDS_OF_LONG_TEXT):
        reason = f"text: '{longest}', the column of free text (--text names another)"
        return _of_texts(name, longest, words, [why, reason])
    if not features:
        told = "; ".join(f"'{each}' {reason}" for each, reason in unused.items()) or "there is no other column"
        raise RequestError(
            f"'{where}': no column can be a feature beside the label '{name}': {told}. Name another label by --label, "
            "or a text column by --text."
        )
    table_files.check_commas(where, table, [name, *features])
    reasons = [why, f"features: {_listed(features)}"]
    reasons += [f"categories: '{each}' {reason}" for each in features if (reason := _as_categories(each, table))]
    reasons += [f"not used: '{each}' {reason}" for each, reason in unused.items() if reason]
    return GuessedRoles(name, (), features, tuple(reasons))


def _check_text(text: str, others: Mapping[str, Column], label: str, where: str) -> None:
    known = [name for name, column in others.items() if table_files.is_text(column.type)]
    if text not in known:
        raise RequestError(
            f"--text: '{where}' has no column '{text}' of texts beside the label '{label}'; found "
            + (f"{_listed(known)}. Name one of these." if known else "none. Leave --text out.")
        )


def _of_texts(label: str, text: str, words: Mapping[str, float], reasons: list[str]) -> GuessedRoles:
    """The roles where a column of texts is learned from. words: of each column but the label, see `mean_words`."""
    pair = [each for each, mean in words.items() if each != text and mean >= max(WORDS_OF_TEXT, words[text] / 2)]
    left = [each for each in words if each not in (text, *pair)]
    told = [f"not used: {_listed(left)}, since a model of texts takes texts alone"] if left else []
    if pair:
        both = json.dumps([each for each in words if each in (text, pair[0])], ensure_ascii=False)
        told = [f"not used: {_listed(pair)}; for pairs of texts, set `text_column: {both}`", *told]
    return GuessedRoles(label, (text,), (), (*reasons, *told))


def _seen(name: str, column: pa.ChunkedArray) -> Column:
    column = table_files.plain(column)
    try:
        values = pc.count_distinct(column, mode="only_valid").as_py()
    except pa.ArrowNotImplementedError:  # lists
        values = len(column)
    return Column(name, column.type, values, column.null_count)


def _label(seen: dict[str, Column], rows: int, asked: str | None, where: str) -> tuple[str, str]:
    """The column of the label, and why."""
    if asked is not None:
        if asked not in seen:
            raise RequestError(
                f"--label: '{where}' has no column '{asked}'; found {_listed([*seen])}. Name one of these."
            )
        return asked, f"label: '{asked}', as you say"
    likely = [name for name, column in seen.items() if _may_be_label(column, rows)]
    named = _named(seen, rows)
    for names, why in ((named, "by its name"), (_ends(likely, seen), "since it has few different values")):
        if names:
            others = [name for name in dict.fromkeys(names) if name != names[0]]
            other = f", such as {_listed(others)}" if others else ""
            return names[0], f"label: '{names[0]}', {why} (--label names another{other})"
    raise RequestError(
        f"'{where}': which column is the label? Found {_listed([*seen])}; none is called {', '.join(LABELS[:5])}, or "
        "has few different values. Name it by `--label COLUMN`."
    )


def _named(seen: dict[str, Column], rows: int) -> list[str]:
    """The columns that are called as labels are, the surest first."""
    last = {name: name.lower().rpartition(".")[2] for name in seen}
    known = [name for each in LABELS for name in seen if last[name] == each]
    parts = [name for name in seen if {*re.split(r"[^a-z]+", name.lower())} & {"label", "target", "class"}]
    unsure = [*(name for name in seen if last[name] == Y), *parts]
    return [*known, *sorted(unsure, key=lambda name: not _has_few_values(seen[name], rows))]


def _ends(likely: Sequence[str], seen: dict[str, Column]) -> list[str]:
    """Of the columns that may be the label: the last column of the table, else the first, else texts, else the last."""
    names = [*seen]
    at_ends = [name for name in (names[-1], names[0]) if name in likely]
    texts = [name for name in likely if table_files.is_text(seen[name].type)]
    return [*at_ends, *reversed(texts), *reversed(likely)]


def _may_be_label(column: Column, rows: int) -> bool:
    kind = column.type
    of_classes = table_files.is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return of_classes and _has_few_values(column, rows)


def _has_few_values(column: Column, rows: int) -> bool:
    return 2 <= column.values <= min(MOST_CLASSES, max(2, rows // FEW_ROWS_A_CLASS))


def _check_label(column: Column, table: pa.Table, where: str, *, whole: bool) -> None:
    try:
        texts = encoded_tables.texts_of(table.column(column.name), where, column.name)
    except RequestError as error:  # such as numbers with a fraction
        raise RequestError(f"{error} --label names another column.") from error
    different = len({each for each in texts if each is not None})
    if different < 2:
        read, sorted_ = (
            ("", "") if whole else (" in the rows that were read", "; if rows are sorted by it, shuffle them")
        )
        raise RequestError(
            f"'{where}': the label '{column.name}' has {different} different "
            f"{'value' if different == 1 else 'values'}{read}; expected at least two classes. --label names another "
            f"column{sorted_}."
        )
    if different > MOST_CLASSES or different * 2 > len(texts) > 10:
        what = "a quantity" if encoded_tables.is_number(column.type) else "free text or an id"
        raise RequestError(
            f"'{where}': the label '{column.name}' has {different:,} different values in {len(texts):,} rows, as "
            f"{what} has. Stillhouse is for classification; --label names another column."
        )


def mean_words(column: pa.ChunkedArray) -> float:
    """The mean number of words in the values of a column; 0.0 where they are no texts, or repeat as categories do.

    In a script without spaces, characters are counted instead.
    """
    column = table_files.plain(column)
    if not table_files.is_text(column.type):
        return 0.0
    texts = [each for each in column.slice(0, 1000).to_pylist() if each]
    if not texts or len({*texts}) * 5 < len(texts):
        return 0.0
    words = sum(len(each.split()) for each in texts) / len(texts)
    foreign = sum(not each.isascii() for each in texts) * 2 > len(texts)
    if foreign and words < WORDS_OF_TEXT:
        return sum(map(len, texts)) / len(texts) / LETTERS_OF_WORD
    return words


def _no_feature(column: Column, table: pa.Table) -> str:
    """Why a column is no feature; empty where it is one."""
    rows = table.num_rows
    if column.name in index_columns(table.schema):
        return "is pandas' index"
    if column.empty == rows:
        return "is empty"
    if column.values == 1 and not column.empty:
        return "has the same value in every row"
    kind = column.type
    if table_files.is_text(kind) and column.values > encoded_tables.MOST_CATEGORIES:
        by_cells = encoded_tables.no_numbers(table.column(column.name))
        return by_cells or f"has {column.values:,} different texts, as an id or a name has"
    if not (table_files.is_text(kind) or encoded_tables.is_number(kind) or table_files.is_list(kind)):
        return f"is {kind}; dates and the like are no numbers"
    if pa.types.is_integer(kind) and column.values == rows >= ROW_NUMBERS_FROM and _is_id(column.name, table):
        return "has another whole number in each row, as an id has"
    return _unreadable(table.column(column.name))


def _as_categories(name: str, table: pa.Table) -> str:
    """Why a feature that looks like numbers is categories; empty for other features."""
    column = table.column(name)
    return encoded_tables.no_numbers(column) if table_files.is_text(table_files.plain(column).type) else ""


def _unreadable(column: pa.ChunkedArray) -> str:
    """Why a run would refuse a column, such as one of numbers beyond 2^53; empty where it takes it."""
    try:
        encoded_tables.encoding("", column, "")
    except RequestError as error:  # its first sentence, without the names
        return str(error).removeprefix("'': column '' ").partition(". ")[0].removesuffix(".")
    return ""


def _is_id(name: str, table: pa.Table) -> bool:
    """Whether different whole numbers look like an id: by the name, or as they ascend without large gaps."""
    values = table.column(name).to_numpy()
    named = bool({*re.split(r"[^a-z]+", name.lower())} & {"id", "nr", "no", "key", "index", "number"})
    span = int(values.max()) - int(values.min()) + 1
    return named or name.lower().endswith("id") or span <= 3 * len(values)


def _listed(names: Sequence[str]) -> str:
    return first_few(names, 8, "'{}'".format)
