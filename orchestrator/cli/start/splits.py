"""Which file is which split, and what kind of data it is, from names and endings."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from workers import storage
from workers.data import image_folders, shards, table_files, text_files
from workers.errors import RequestError

WORDS = {
    "train": ("train", "training", "tr"),
    "test": ("test", "testing", "eval", "evaluation", "t10k"),
    "validation": ("validation", "valid", "val", "dev"),
    "unlabeled": ("unlabeled", "unlabelled", "more"),
}
"""Words in the name of a file, by the split that they stand for."""
TABLES = tuple(table_files.READERS)
KINDS = f"a table ({', '.join(TABLES)}), a folder or a pattern of tables, an npz, or a folder of images"
NUMBER = re.compile(r"\d+(?=.*\.)")
"""A number in a file's name, before its ending."""
COUNTING = re.compile(r"(?<!fold)[-_.]$|(part|shard)$", re.IGNORECASE)
"""What stands before a number that counts the files of a split. Others number versions or folds, as in `train_v1`."""


@dataclass(frozen=True)
class Given:
    """The user's data: its kind (`npz`, `table` or `images`), and the URI of each split."""

    kind: str
    splits: dict[str, str]


@dataclass(frozen=True)
class Found:
    """A file or a folder, or a pattern of files. split: what its name says; None where it says none."""

    uri: str
    kind: str
    split: str | None


def given(uris: Sequence[str], folder: str) -> Given:
    """The splits in the files that the user names, or in `folder` where none is named.

    Raises: `RequestError` where files are missing, of several kinds, or where it is not clear which is which.
    """
    places = uris or ([folder] if storage.exists(folder) else [])
    found = [each for uri in places for each in _expanded(uri, folder, is_named=bool(uris))]
    if not found:
        raise RequestError(f"'{uris[0] if uris else folder}': no data in it. Name {KINDS} by `--data`.")
    kinds = {each.kind for each in found}
    if len(kinds) > 1:
        raise RequestError(f"--data: {' and '.join(sorted(kinds))} together. Expected all splits of one kind.")
    return Given(kinds.pop(), _named(found))


def has_data(folder: str) -> bool:
    """Whether the folder exists and has data in it."""
    return storage.exists(folder) and bool(_expanded(folder, folder, is_named=False))


def _named(found: Sequence[Found]) -> dict[str, str]:
    """The URI of each split. One file alone is the training set."""
    if len(found) == 1:
        return {"train": found[0].uri}
    nameless = [each.uri for each in found if each.split is None]
    of_split = {split: [each for each in found if each.split == split] for split in WORDS}
    splits = {split: _together(split, several) for split, several in of_split.items() if several}
    if len(nameless) == 1 and "train" not in splits:
        return {"train": nameless[0], **splits}
    if nameless or "train" not in splits:
        raise RequestError(
            f"--data: which split is '{(nameless or [found[0].uri])[0]}'? Expected names with train, test, validation "
            "or unlabeled, such as train.csv; or one file, of which a part becomes the test split."
        )
    return splits


def _together(split: str, found: Sequence[Found]) -> str:
    """The URI of a split: its file or folder, or the pattern of its tables."""
    uris = [each.uri for each in found]
    if len(uris) == 1:
        return uris[0]
    pattern = _pattern(uris) if all(each.kind == "table" for each in found) else None
    if pattern is None or not _are_counted(uris):
        raise RequestError(
            f"--data: '{uris[0]}' and '{uris[1]}' are both named like `{split}`. Give one of them, or for several "
            "tables a folder or a pattern."
        )
    return pattern


def _are_counted(uris: Sequence[str]) -> bool:
    """Whether one number in the names counts the files from 0 or 1. uris: of names that differ in numbers alone."""
    names = [posixpath.basename(uri) for uri in uris]
    numbers = [each for each in zip(*map(NUMBER.finditer, names), strict=True) if len({at.group() for at in each}) > 1]
    found = sorted(int(at.group()) for at in numbers[0])
    counts = COUNTING.search(names[0][: numbers[0][0].start()]) is not None
    return len(numbers) == 1 and counts and found in (list(range(len(uris))), list(range(1, len(uris) + 1)))


def _pattern(uris: Sequence[str]) -> str | None:
    """The pattern of files whose names differ in numbers alone; None where they do not, or it has other files too."""
    pattern, *others = {
        storage.join(storage.parent(uri), NUMBER.sub("*", posixpath.basename(uri))): None for uri in uris
    }
    return pattern if not others and storage.matching(pattern) == sorted(uris) else None


def split_of(uri: str) -> str | None:
    """The split that a file's name speaks of; None where it speaks of none."""
    words = re.split(r"[^a-z0-9]+", posixpath.basename(uri.rstrip("/")).lower())
    return next((split for split, names in WORDS.items() if any(word in names for word in words)), None)


def _expanded(uri: str, place: str, *, is_named: bool) -> list[Found]:
    """The data at a URI. place: the folder that `init` writes into. is_named: whether the user names the URI."""
    if not storage.exists(uri):
        if "*" in uri:
            return _of_pattern(uri)
        raise RequestError(f"'{uri}': no such file or folder. Expected {KINDS}.")
    if not storage.is_folder(uri):
        return [_of_file(uri)]
    inner = _inner(uri)
    of_folder = _of_folder(uri, place, is_named=True) if is_named else None
    if of_folder is not None:
        return [of_folder]
    folders = [storage.join(uri, name) for name in inner if storage.is_folder(storage.join(uri, name))]
    named = {each: image_folders.files(each) for each in folders if split_of(each) is not None}
    is_nested = any("/" in image for images in named.values() for image in images)
    if is_nested or not any(image_folders.files(each) for each in folders if each not in named):
        splits = [Found(each, "images", split_of(each)) for each, images in named.items() if images]
        if splits:  # else they are classes of such names
            return splits
    if image_folders.files(uri):
        return [Found(uri, "images", split_of(uri))]
    files = [_of_file(storage.join(uri, name)) for name in inner if _is_data(name, is_named=is_named)]
    if any(each.split is not None for each in files):
        return _without_other_json(files)
    found = [of for each in folders if (of := _of_folder(each, place, is_named=is_named)) is not None]
    return found if any(each.split == "train" for each in found) else files


def _without_other_json(files: list[Found]) -> list[Found]:
    """Without JSON that is named like no split beside a file of train, such as of a description."""
    has_train = any(each.split == "train" for each in files)
    return [each for each in files if each.split or not has_train or table_files.ending(each.uri) != ".json"]


def _of_file(uri: str) -> Found:
    return Found(uri, _kind(uri), split_of(uri))


def _of_pattern(uri: str) -> list[Found]:
    """The tables that a pattern names, one by one where they are of several splits.

    The split is in the name of a table, in that of its folder, or in the pattern.
    """
    files = shards.files(uri, TABLES)
    others = [each for each in files if table_files.ending(each) not in TABLES]
    if others:
        raise RequestError(f"--data '{uri}': '{others[0]}' is no table. Expected a pattern of {', '.join(TABLES)}.")
    asked = split_of(uri) or split_of(storage.parent(uri))
    found = [Found(each, "table", split_of(each) or split_of(storage.parent(each)) or asked) for each in files]
    of_pattern = {each.split for each in found}
    return found if len(of_pattern) > 1 else [Found(uri, "table", of_pattern.pop())]


def _of_folder(uri: str, place: str, *, is_named: bool) -> Found | None:
    """The tables of a folder that are one split, by its name; None where they are not. Arguments as of `_expanded`.

    What `init` writes into a folder would be among the files of its split, so there a pattern names them.
    """
    split = split_of(uri)
    if split is None and table_files.ending(uri) not in TABLES:
        return None
    seen = [name for name in _inner(uri) if _is_data(name, is_named=is_named)]
    tables = [storage.join(uri, name) for name in seen if table_files.ending(name) in TABLES]
    of_one_kind = len({table_files.ending(each) for each in tables}) == 1
    if not of_one_kind or {*map(split_of, tables)} - {None, split} or image_folders.files(uri):
        return None
    if len(tables) == 1:
        return Found(tables[0], "table", split)
    if storage.local_path(uri) != storage.local_path(place):
        return Found(uri, "table", split)
    pattern = _pattern(tables)
    return None if pattern is None else Found(pattern, "table", split)


def _inner(uri: str) -> list[str]:
    """The names in a folder but hidden ones. Raises: `RequestError` for a folder that `datasets` saved."""
    names = [name for name in storage.names(uri) if not storage.is_hidden(name)]
    if text_files.is_saved(names):
        raise RequestError(
            f"'{uri}': a folder that `datasets` saved, which `init` does not read. Write its splits as Parquet "
            "(`to_parquet`), or name its folders in a configuration of `kind: text`."
        )
    return names


def _is_data(name: str, *, is_named: bool) -> bool:
    """Whether a file in a folder is data by its name. is_named: whether the user names the folder; in others a JSON
    that is named like no split may be of any program."""
    generated = name.endswith(".schema.json") or name in ("config.json", "report.json")
    ending = table_files.ending(name)
    return (
        not generated
        and (name.endswith(".npz") or ending in TABLES)
        and (is_named or ending != ".json" or split_of(name) is not None)
    )


def _kind(uri: str) -> str:
    if uri.lower().endswith(".npz"):
        return "npz"
    if table_files.ending(uri) in TABLES:
        return "table"
    hint = " An Excel sheet can be saved as CSV." if uri.lower().endswith((".xlsx", ".xls")) else ""
    hint = hint or (" A pickle could run code and is not read." if uri.lower().endswith((".pkl", ".pickle")) else "")
    raise RequestError(f"'{uri}': no kind of data that is known. Expected {KINDS}.{hint}")
