"""Tokens of the data's texts: computed once for each tokenizer and split, and found again by key in the whole storage.

Blocks of texts are tokenized by Ray tasks, a few at a time, so that no process holds all texts or all tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from orchestrator.cluster.resources import Placement
from orchestrator.cluster.tasks import Task
from orchestrator.config.run_config import RunConfig
from orchestrator.run_folder import paths
from orchestrator.run_folder.paths import RunFolder
from orchestrator.stages.ray_tasks import run_tasks
from workers.artifacts import catalogue, parts, store
from workers.artifacts.catalogue import Found
from workers.artifacts.key import Key
from workers.data import masked_texts, masking, token_files
from workers.data.collate import Collator
from workers.data.dataset import Dataset
from workers.data.examples import Columns, has_texts
from workers.data.masked_texts import MaskedColumns
from workers.data.ragged import Ragged
from workers.data.texts import PAIR, TEXT, is_text
from workers.data.token_files import ENDING, tokenize_block
from workers.data.token_tasks import TokenJob, tokenize
from workers.data.tokens import IDS, Tokenization
from workers.models import predictor
from workers.trial.sequences import check_tokenized, check_tokens

if TYPE_CHECKING:
    from orchestrator.observers.fanout import Progress
    from orchestrator.stages.context import BaseContext

BLOCK_BYTES = 2**24
"""About how many bytes of texts a task tokenizes; each block is a file that every process maps."""
AHEAD = 2
"""Blocks that wait for each core."""

Block = tuple[Ragged, ...]
W = TypeVar("W")


class Wanted(NamedTuple):
    """Tokens that a run needs: those of the texts in `x`, made so, under this key."""

    x: Columns
    how: Tokenization
    key: Key


def tokenized(run: BaseContext, dataset: Dataset) -> Dataset:
    """The data set with the tokens of its texts by every tokenizer of the run; unchanged without a tokenizer.

    Raises: `RequestError` where a text has no tokens, or more than a model has positions.
    """
    if texts := masked_texts.texts_of(dataset.inputs):
        return _masked(run, dataset, texts)
    models = run.config.models.values()
    hows = list(dict.fromkeys(how for model in models if (how := predictor.collator(model).tokens) is not None))
    splits = {name: x for name, x in dataset.inputs.items() if isinstance(x, Columns) and has_texts(x)}
    if not hows or not splits:
        return dataset
    with run.events.stage("tokens") as stage:
        wanted = {
            (name, how): Wanted(splits[name], how, token_files.key_of(dataset.digest_of_inputs(name), how))
            for name in splits
            for how in hows
        }
        made: dict[str, dict[Tokenization, Mapping[str, Ragged]]] = {name: {} for name in splits}
        for (name, how), columns in _made(run, stage, wanted):
            made[name][how] = columns
            check_tokenized(run.config.models, dataset, name, how, made[name][how][IDS])
        for how in hows:
            run.note(how.cut({name: made[name][how][IDS].lengths for name in splits}))
    return dataset.with_inputs({name: replace(x, derived=made[name]) for name, x in splits.items()})


def _masked(run: BaseContext, dataset: Dataset, texts: Mapping[str, tuple[str, Columns]]) -> Dataset:
    """The data set with the tokens of its masked texts, which all models take. texts: as of `masked_texts.texts_of`.

    Raises: `RequestError` where a text has no token that may be masked, or more than a model has positions.
    """
    assert isinstance(dataset.train.x, MaskedColumns)
    how = masking.tokenization(dataset.train.x.masks.how.spec)
    with run.events.stage("tokens") as stage:
        wanted = {source: Wanted(x, how, token_files.key_of(source, how)) for source, (_, x) in texts.items()}
        made = {source: columns[IDS] for source, columns in _made(run, stage, wanted)}
        run.note(how.cut({texts[source][0]: ids.lengths for source, ids in made.items()}))
        found = dataset.with_inputs(masked_texts.with_tokens(dataset.inputs, made))
        check_tokens(run.config.models, found)
    return found


def _made(run: BaseContext, stage: Progress, wanted: Mapping[W, Wanted]) -> Iterator[tuple[W, Mapping[str, Ragged]]]:
    """The columns of tokens of each, found in the storage or computed."""
    had = run.artifacts.obtain_all((each.key, paths.tokens) for each in wanted.values())
    run.note(catalogue.note("tokens", had))
    stage.reused = all(each is not None for each in had)
    for (name, each), found in zip(wanted.items(), had, strict=True):
        yield name, _obtained(run, each.x, each.how, each.key, found)


def _obtained(run: BaseContext, x: Columns, how: Tokenization, key: Key, found: Found | None) -> Mapping[str, Ragged]:
    """The tokens of a split, of which blocks that are missing or damaged are computed."""
    folder = RunFolder(run.config.folder).tokens(key.digest)
    there = {number: name for number, name, _ in parts.files(folder, ENDING) if token_files.is_whole(folder, name)}
    made = dict(_computed(run, x, folder, how, [each for each in _blocks(x) if each[0] not in there]))
    names = [name for _, name in sorted({**there, **made}.items())]
    if made or found is None:
        checksums = {name: checksum for _, name, checksum in parts.named(names, ENDING)}
        store.commit(run.artifacts.uri(paths.tokens(key.digest)), key, checksums)
        run.artifacts.register(key, paths.tokens(key.digest))
    return token_files.read(folder, names)


def _blocks(x: Columns) -> Iterator[tuple[int, slice]]:
    """The number and the rows of each block; equal for equal texts, so that a resumed run finds its blocks."""
    texts = x.columns[TEXT]
    assert isinstance(texts, Ragged)
    for number, (start, block) in enumerate(texts.blocks(BLOCK_BYTES)):
        yield number, slice(start, start + len(block))


def _computed(
    run: BaseContext, x: Columns, folder: str, how: Tokenization, missing: Sequence[tuple[int, slice]]
) -> Iterator[tuple[int, str]]:
    """Tokenize blocks; yields the number and the file of each. A single block is not worth a process of its own."""
    if len(missing) == 1:
        ((number, rows),) = missing
        yield number, tokenize_block(folder, number, _texts(x, rows), how)[0]
        return
    placement = Placement(1, 1, min(1.0, run.machines.cpus), 0.0, run.machines.asked("teacher"))
    at_once = max(2, AHEAD * int(run.machines.cpus))
    for some in (missing[start : start + at_once] for start in range(0, len(missing), at_once)):
        numbers = {f"tokens {number}": number for number, _ in some}
        blocks = {f"tokens {number}": (TokenJob(folder, number, how), _texts(x, rows)) for number, rows in some}
        tasks = [
            Task(name, tokenize, (*block, name, run.heartbeat.queue), placement, f"tokenizing with '{how.uri}'")
            for name, block in blocks.items()
        ]
        with run_tasks(run, "tasks that tokenize", tasks) as ended:
            for task, (name, _) in ended:
                yield numbers[task.name], name


def _texts(x: Columns, rows: slice) -> Block:
    """The texts of a block, and their second texts, without the rest of the column's memory."""
    columns = [x.columns[name] for name in (TEXT, PAIR) if name in x.columns]
    block = [column[rows] for column in columns if isinstance(column, Ragged)]
    return tuple(Ragged.packed(column.flat, column.lengths) for column in block)


def without_texts(run: RunConfig, dataset: Dataset) -> Dataset:
    """The data set without texts that no process needs, since all models take tokens and no example is augmented."""
    texts = {name for x in dataset.inputs.values() if isinstance(x, Columns) and has_texts(x) for name in (TEXT, PAIR)}
    texts &= {name for x in dataset.inputs.values() if isinstance(x, Columns) for name in x.columns}
    takes_texts = (_takes_texts(predictor.collator(model), texts) for model in run.models.values())
    if dataset.augment is not None or any(takes_texts):
        return dataset
    served = dataset.served
    found = dataset.hashed().with_inputs(
        {name: _without(x) for name, x in dataset.inputs.items() if isinstance(x, Columns) and x.derived}
    )
    return replace(found, texts=served)


def _takes_texts(collator: Collator, texts: Collection[str]) -> bool:
    """Whether a model takes texts: without a tokenizer, or by tokens of some text columns, which are made as needed."""
    return collator.tokens is None or (collator.columns is not None and not {*texts} <= {*collator.columns})


def _without(x: Columns) -> Columns:
    columns = {
        name: column.lengths_only() if isinstance(column, Ragged) and is_text(name, column) else column
        for name, column in x.columns.items()
    }
    return replace(x, columns=columns)
