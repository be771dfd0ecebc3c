"""Texts as tokens: a tokenizer and its settings, and the columns that it makes of texts.

The tokenizer is a folder of Hugging Face `transformers` on any fsspec URI. It is loaded once in each process, and its
code is never taken from the folder.
"""

from __future__ import annotations

import atexit
import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import storage
from workers.data.ragged import Ragged, contiguous
from workers.data.texts import strings
from workers.errors import RequestError, first_line

AT_ONCE = 1000
"""Texts that are encoded at a time."""
FILE = "tokenizer.json"
"""A whole tokenizer of one kind or another in one file."""
FILES = (".json", ".txt", ".model", ".jinja")
"""Endings of the files that a tokenizer may consist of."""
SETTINGS = (
    "pad_token_id", "model_input_names", "truncation_side", "split_special_tokens", "add_bos_token", "add_eos_token",
)  # fmt: skip
"""Attributes of a tokenizer that change its tokens, beside its `tokenizer.json`."""
IDS, TYPES = "input_ids", "token_type_ids"
"""Names of the columns: token ids [length] int32, and for pairs, 0 or 1 for the text that each token belongs to."""


@dataclass(frozen=True)
class Tokenization:
    """How texts become tokens. uri: the tokenizer's folder, or its `tokenizer.json`. max_length: where longer token
    sequences are cut, special tokens included; None: never."""

    uri: str
    max_length: int | None = None

    def __call__(self, texts: Ragged, pairs: Ragged | None = None) -> dict[str, Ragged]:
        """The columns of tokens for texts [N] and their second texts: rows of int32 by name."""
        tokenizer = of_texts(self.uri)
        with_types = pairs is not None and TYPES in tokenizer.model_input_names
        found: dict[str, list[Ragged]] = {IDS: [], **({TYPES: []} if with_types else {})}
        for start in range(0, len(texts), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            made = tokenizer(
                strings(texts[rows]),
                None if pairs is None else strings(pairs[rows]),
                truncation=self.max_length is not None,
                max_length=self.max_length,
                return_attention_mask=False,
                return_token_type_ids=with_types,
                verbose=False,
            )
            for name, several in found.items():
                several.append(_packed(made[name]))
        none = Ragged.packed(np.zeros(0, np.int32), np.zeros(0, np.int64))
        return {name: contiguous([none, *several]) for name, several in found.items()}

    def check_room(self, key: str, *, pair: bool) -> None:
        """Raise `RequestError` where special tokens alone take `max_length`; a tokenizer would then cut nothing.

        key: of `max_length` in the configuration. pair: whether texts have second texts.
        """
        if self.max_length is None or self.max_length > (special := self.special(pair=pair)):
            return
        raise RequestError(
            f"{key}: {self.max_length}, and the tokenizer '{self.uri}' adds {special} special tokens to each "
            f"{'pair of texts' if pair else 'text'}. Expected at least {special + 1}."
        )

    def special(self, *, pair: bool) -> int:
        """How many special tokens a text gets, or a pair of texts."""
        return int(of_texts(self.uri).num_special_tokens_to_add(pair=pair))

    def cut(self, lengths: Mapping[str, NDArray[np.int64]]) -> str:
        """A note on the texts that `max_length` may have cut; empty where there are none. lengths: [N] tokens, by
        split."""
        full = {split: int((of_split == self.max_length).sum()) for split, of_split in lengths.items()}
        if not any(full.values()):
            return ""
        found = ", ".join(f"{n:,} of {len(lengths[split]):,} texts of {split}" for split, n in full.items() if n)
        return f"{found} have {self.max_length:,} tokens or more by '{self.uri}'; `max_length` cuts longer ones"

    @property
    def identity(self) -> dict[str, Any]:
        """What the tokens follow from, besides the texts."""
        return {"tokenizer": digest(self.uri), "max_length": self.max_length}

    @property
    def padding(self) -> Mapping[str, int]:
        """The value that pads each column; 0 for those that are not listed."""
        return {IDS: int(load(self.uri).pad_token_id or 0)}


def _packed(rows: list[list[int]]) -> Ragged:
    lengths = np.array([len(row) for row in rows], np.int64)
    flat = np.fromiter((value for row in rows for value in row), np.int32, int(lengths.sum()))
    return Ragged.packed(flat, lengths)


def require_transformers(what: str) -> Any:
    """The package transformers. what: names the key that needs it. Raises: `RequestError` where it is missing."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a missing file is an error, and not a download
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import transformers
    except ImportError as error:
        raise RequestError(
            f"{what} needs the package transformers, which is not installed on this machine. Install it by "
            "`pip install 'stillhouse[text]'`, on every node."
        ) from error
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what it reports of a load is in the notes and errors here
    return transformers


@lru_cache(maxsize=16)
def load(uri: str) -> Any:
    """The tokenizer in a folder, or of a `tokenizer.json`. Raises: `RequestError` where there is none."""
    transformers = require_transformers(f"tokenizer '{uri}'")
    folder, name = local(uri, FILES)
    try:
        if name:
            found = transformers.PreTrainedTokenizerFast(tokenizer_file=os.path.join(folder, name))
        else:
            found = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # tokenizers raise plain exceptions for damaged files
        raise RequestError(
            f"tokenizer '{uri}': cannot be loaded ({first_line(error)}). Expected a folder that `save_pretrained` "
            "wrote, or a `tokenizer.json`. Code in it is not run."
        ) from error
    if not found.is_fast:
        raise RequestError(f"tokenizer '{uri}': has no `tokenizer.json`; expected a fast tokenizer. Save it as one.")
    return found


@lru_cache(maxsize=16)
def of_texts(uri: str) -> Any:
    """The tokenizer in a folder, which has tokens of texts. Raises: `RequestError` where there is none.

    For a folder without a tokenizer's files, transformers makes one of special tokens alone.
    """
    found = load(uri)
    if not has_tokens(uri):
        raise RequestError(
            f"tokenizer '{uri}': has {len(found.get_vocab())} special tokens and no others, as where its files are "
            "missing. Expected `tokenizer.json`, or a vocabulary: save the tokenizer there by `save_pretrained`, or "
            "set `tokenizer` to its folder."
        )
    return found


@lru_cache(maxsize=16)
def has_tokens(uri: str) -> bool:
    """Whether the tokenizer has tokens besides special ones."""
    tokenizer = load(uri)
    return not tokenizer.get_vocab().keys() <= {*tokenizer.all_special_tokens}


def file_of(uri: str) -> str:
    """The content of a `tokenizer.json` that makes the same tokens.

    The file in a folder may make others: transformers changes what it reads by the class and the settings beside it.
    """
    return json.dumps(_backend(uri), ensure_ascii=False)


def _backend(uri: str) -> dict[str, Any]:
    of_last_call = {"truncation": None, "padding": None}
    return {**json.loads(load(uri).backend_tokenizer.to_str()), **of_last_call}


@lru_cache(maxsize=16)
def digest(uri: str) -> str:
    """sha256 of all that a tokenizer does, whatever its folder is called."""
    tokenizer = load(uri)
    settings = {name: getattr(tokenizer, name, None) for name in SETTINGS}
    found = {"class": type(tokenizer).__name__, "settings": settings, "backend": _backend(uri)}
    return storage.sha256(json.dumps(found, sort_keys=True, default=str).encode())


def vocabulary(uri: str) -> int:
    """One more than the largest id that the tokenizer can return."""
    return int(max(load(uri).get_vocab().values())) + 1


@lru_cache(maxsize=16)
def moved(uri: str, other: str) -> str:
    """A token that each of two tokenizers has under an id of its own, in words; empty where there is none.

    Tokens that only one of them has do not count. uri: of a folder that may hold no tokenizer.
    """
    try:
        known: dict[str, int] = load(uri).get_vocab() if uri != other and has_tokens(uri) else {}
    except RequestError:
        return ""
    given: dict[str, int] = load(other).get_vocab() if known else {}
    found = next((token for token, k in known.items() if given.get(token, k) != k), None)
    return "" if found is None else f"{found!r} is token {known[found]:,} of '{uri}' and {given[found]:,} of '{other}'"


_copies: dict[tuple[str, tuple[str, ...]], str] = {}


def local(uri: str, endings: tuple[str, ...]) -> tuple[str, str]:
    """The local folder with the files at `uri`, and the file's name where `uri` is a file.

    Files of a remote storage that end like this are copied to a temporary folder, once in each process.
    """
    is_file = not storage.is_folder(uri)
    folder, name = (storage.parent(uri), posixpath.basename(uri)) if is_file else (uri, "")
    if is_file and not storage.exists(uri):
        raise RequestError(f"'{uri}': no such file or folder. {storage.CHECK_PATH}")
    if storage.is_local(uri):
        return str(storage.filesystem(folder)[1]), name
    if (uri, endings) not in _copies:
        target = tempfile.mkdtemp(prefix="stillhouse-model-")
        atexit.register(shutil.rmtree, target, ignore_errors=True)
        for each in [name] if is_file else storage.names(folder):
            if each.endswith(endings):
                with open(os.path.join(target, each), "wb") as file:
                    file.write(storage.read_raw(storage.join(folder, each)))
        _copies[uri, endings] = target
    return _copies[uri, endings], name
