"""Which file is which split, and what kind of data it is, from names and endings."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from workers import storage
from workers.data import image_folders, table_files
from workers.errors import RequestError

WORDS = {
    "train": ("train", "training", "tr"),
    "test": ("test", "testing", "eval", "evaluation", "t10k"),
    "validation": ("validation", "valid", "val", "dev"),
    "unlabeled": ("unlabeled", "unlabelled", "more"),
}
"""Words in the name of a file, by the split that they stand for."""
TABLES = tuple(table_files.READERS)
KINDS = f"a table ({', '.join(TABLES)}), an npz, or a folder of images"


@dataclass(frozen=True)
class Given:
    """The user's data: its kind (`npz`, `table` or `images`), and the URI of each split."""

    kind: str
    splits: dict[str, str]


def given(uris: Sequence[str], folder: str) -> Given:
    """The splits in the files that the user names, or in `folder` where none is named.

    Raises: `RequestError` where files are missing, of several kinds, or where it is not clear which is which.
    """
    found = [each for uri in uris or [folder] for each in _expanded(uri, is_named=bool(uris))]
    if not found:
        raise RequestError(f"'{uris[0] if uris else folder}': no data in it. Name {KINDS} by `--data`.")
    kinds = {kind for _, kind in found}
    if len(kinds) > 1:
        raise RequestError(f"--data: {' and '.join(sorted(kinds))} together. Expected all splits of one kind.")
    return Given(kinds.pop(), _named([uri for uri, _ in found]))


def has_data(folder: str) -> bool:
    """Whether the folder exists and has data in it."""
    return storage.exists(folder) and bool(_expanded(folder, is_named=False))


def _named(uris: Sequence[str]) -> dict[str, str]:
    """The split of each file. One file alone is the training set."""
    if len(uris) == 1:
        return {"train": uris[0]}
    splits: dict[str, str] = {}
    nameless = []
    for uri in uris:
        split = split_of(uri)
        if split is None:
            nameless.append(uri)
        elif split in splits:
            raise RequestError(
                f"--data: '{splits[split]}' and '{uri}' are both named like `{split}`. Give one of them."
            )
        else:
            splits[split] = uri
    if len(nameless) == 1 and "train" not in splits:
        return {"train": nameless[0], **splits}
    if nameless or "train" not in splits:
        raise RequestError(
            f"--data: which split is '{(nameless or list(uris))[0]}'? Expected names with train, test, validation or "
            "unlabeled, such as train.csv; or one file, of which a part becomes the test split."
        )
    return splits


def split_of(uri: str) -> str | None:
    """The split that a file's name speaks of; None where it speaks of none."""
    words = re.split(r"[^a-z0-9]+", posixpath.basename(uri.rstrip("/")).lower())
    return next((split for split, names in WORDS.items() if any(word in names for word in words)), None)


def _expanded(uri: str, *, is_named: bool) -> list[tuple[str, str]]:
    """The data files or folders at a URI, each with its kind. is_named: whether the user names the URI."""
    if not storage.exists(uri):
        raise RequestError(f"'{uri}': no such file or folder. Expected {KINDS}.")
    if not storage.is_folder(uri):
        return [(uri, _kind(uri))]
    if is_named and _is_sharded(uri):
        return [(uri, "table")]
    inner = [name for name in storage.names(uri) if not storage.is_hidden(name)]
    folders = [storage.join(uri, name) for name in inner if storage.is_folder(storage.join(uri, name))]
    named = {each: image_folders.files(each) for each in folders if split_of(each) is not None}
    is_nested = any("/" in image for images in named.values() for image in images)
    if is_nested or not any(image_folders.files(each) for each in folders if each not in named):
        splits = [(each, "images") for each, images in named.items() if images]  # else they are classes of such names
        if splits:
            return splits
    if image_folders.files(uri):
        return [(uri, "images")]
    files = [storage.join(uri, name) for name in inner if _is_data(name)]
    return [(each, _kind(each)) for each in files] or [(each, "table") for each in folders if _is_sharded(each)]


def _is_sharded(uri: str) -> bool:
    """Whether a folder of tables is one split: by its own name, and not by theirs."""
    if split_of(uri) is None and table_files.ending(uri) not in TABLES:
        return False
    seen = [name for name in storage.names(uri) if not storage.is_hidden(name)]
    tables = [name for name in seen if _is_data(name) and table_files.ending(name) in TABLES]
    return bool(tables) and not any(map(split_of, tables)) and not image_folders.files(uri)


def _is_data(name: str) -> bool:
    generated = name.endswith(".schema.json") or name in ("config.json", "report.json")
    return not generated and (name.endswith(".npz") or table_files.ending(name) in TABLES)


def _kind(uri: str) -> str:
    if uri.lower().endswith(".npz"):
        return "npz"
    if table_files.ending(uri) in TABLES:
        return "table"
    hint = " An Excel sheet can be saved as CSV." if uri.lower().endswith((".xlsx", ".xls")) else ""
    hint = hint or (" A pickle could run code and is not read." if uri.lower().endswith((".pkl", ".pickle")) else "")
    raise RequestError(f"'{uri}': no kind of data that is known. Expected {KINDS}.{hint}")
