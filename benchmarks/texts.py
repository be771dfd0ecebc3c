"""Shared parts of the benchmarks of texts: synthetic texts, a tokenizer, BERTs from configurations, and bare loops.

Nothing comes from a network: words are numbered, lengths are log-normal, and networks begin with random weights. A text
has 5 to 60 words, most of them drawn by Zipf's law from a common vocabulary, and some from the words of its topic.

The bare loops are a lower bound on the cost in one process, as in `benchmarks.loops`. They take tokens in memory and
group batches by length, and have no checkpoints, validation, logs or resuming.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks import common
from benchmarks.loops import Loss, distillation_loss

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

WORDS, TOPICS, OF_TOPIC = 4000, 20, 50
"""Words in all, topics, and words that belong to one topic alone."""
TOPICAL = 0.15
"""Share of a text's words that are its topic's."""
SHORTEST, MEDIAN, LONGEST, SIGMA = 5, 20, 60, 0.6
"""Words of a text: the log-normal distribution and its bounds."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_LENGTH = LONGEST + 2
"""Tokens of the longest text, with [CLS] and [SEP]."""
TEACHER = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
STUDENT = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
SMALLEST = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
"""A student that costs next to nothing, where only the teachers are measured."""
LOSS = Loss(temperature=2.0, soft_weight=0.9, hard_weight=0.1)
LEARNING_RATE = 1e-3
GROUPED = 50
"""Batches among which a bare loop groups examples by length: as many as transformers' `LengthGroupedSampler`."""

Teach = Callable[[NDArray[np.int64], dict[str, Tensor]], Tensor]
"""(rows [B], the student's inputs) -> soft targets [B, K], either looked up by row or computed from the inputs."""


@dataclass(frozen=True)
class Tokens:
    """Tokenized texts. ids: [length] int64 each. labels: [N] int64."""

    ids: Sequence[Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(row) for row in self.ids])

    def padded(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """The inputs of some texts: `input_ids` and `attention_mask`, [B, L] int64, L the longest of them."""
        ids = [self.ids[row] for row in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }


def synthesized(count: int, seed: int) -> tuple[list[str], NDArray[np.int64]]:
    """Texts [N] and the topic of each [N]."""
    draw = np.random.default_rng(seed)
    topics = draw.integers(0, TOPICS, count)
    lengths = np.exp(draw.normal(np.log(MEDIAN), SIGMA, count)).round().clip(SHORTEST, LONGEST).astype(int)
    total, common = int(lengths.sum()), WORDS - TOPICS * OF_TOPIC
    frequency = 1 / np.arange(10, common + 10)
    words = np.searchsorted(np.cumsum(frequency / frequency.sum()), draw.random(total)).clip(0, common - 1)
    of_topic = common + np.repeat(topics, lengths) * OF_TOPIC + draw.integers(0, OF_TOPIC, total)
    words = np.where(draw.random(total) < TOPICAL, of_topic, words)
    names, ends = [f"w{word}" for word in range(WORDS)], np.cumsum(lengths)
    texts = [
        " ".join([names[word] for word in words[end - length : end]])
        for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
    ]
    return texts, topics


def write(folder: Path, train: int, others: int = 256) -> Path:
    """Write the splits as jsonl files, and the tokenizer. others: texts for validation, and for the test."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate({"train": train, "validation": others, "test": others}.items()):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as file:
            for text, topic in zip(*synthesized(count, seed), strict=True):
                file.write(json.dumps({"text": text, "label": f"topic-{topic:02}"}) + "\n")
    tokenizer().save_pretrained(folder / "tokenizer")
    return folder


def tokenizer() -> Any:
    """A tokenizer with an id for each word."""
    vocabulary = {word: k for k, word in enumerate([*SPECIAL, *(f"w{word}" for word in range(WORDS))])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=MAX_LENGTH, model_input_names=["input_ids", "attention_mask"], **names
    )


def rows(folder: Path, split: str) -> tuple[list[str], list[int]]:
    """The texts of a split, and the number of each one's topic."""
    with open(folder / f"{split}.jsonl", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return [row["text"] for row in found], [int(row["label"].removeprefix("topic-")) for row in found]


def read(folder: Path, split: str) -> Tokens:
    """The tokens of a split."""
    texts, labels = rows(folder, split)
    return Tokens([torch.tensor(row) for row in tokenizer()(texts)["input_ids"]], torch.tensor(labels))


def bert(**size: int) -> dict[str, Any]:
    """The keys of a BERT's configuration."""
    return {
        "model_type": "bert",
        "vocab_size": len(SPECIAL) + WORDS,
        "max_position_embeddings": MAX_LENGTH + 2,
        "pad_token_id": 0,
        **size,
    }


def made(seed: int, **size: int) -> nn.Module:
    """A BERT with random weights that classifies the topics."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(**bert(**size), num_labels=TOPICS)
    module: nn.Module = transformers.AutoModelForSequenceClassification.from_config(config)
    return module


def write_teachers(folder: Path, count: int, **size: int) -> list[Path]:
    """Write teachers with random weights, whose forward passes cost as much as those of trained ones.

    size: of their networks; left out: `TEACHER`.
    """
    paths = [folder / f"teacher-{k}" for k in range(count)]
    for k, path in enumerate(paths):
        save(made(k, **(size or TEACHER)), path)
    return paths


def save(module: Any, folder: Path) -> None:
    """Write a network and its tokenizer, as `checkpoint` of the kind `transformers` expects them."""
    module.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def load(folder: Path) -> nn.Module:
    """Load a teacher in evaluation mode."""
    found: nn.Module = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    return found.eval()


def configuration(
    data: Path, teachers: Sequence[Path], student: dict[str, int], *, epochs: int, batch_size: int
) -> dict[str, Any]:
    """The configuration of a run with loaded teachers."""
    models = [
        {"kind": "transformers", "checkpoint": str(path.resolve()), "max_length": MAX_LENGTH} for path in teachers
    ]
    made_anew = {
        "kind": "transformers",
        "config": bert(**student),
        "tokenizer": str(data.resolve() / "tokenizer"),
        "max_length": MAX_LENGTH,
    }
    ensemble = {"members": [{"model": model} for model in models]}
    return common.distillation(data, "jsonl", ensemble, made_anew, loss=LOSS, epochs=epochs, batch_size=batch_size)


@torch.no_grad()
def mean_of_teachers(teachers: Sequence[nn.Module], inputs: dict[str, Tensor], temperature: float) -> Tensor:
    """Soft targets [B, K]: the arithmetic mean of the teachers' probabilities."""
    total = torch.softmax(teachers[0](**inputs).logits / temperature, dim=-1)
    for teacher in teachers[1:]:
        total += torch.softmax(teacher(**inputs).logits / temperature, dim=-1)
    return total / len(teachers)


def teacher_pass(teachers: Sequence[nn.Module], x: Tokens, temperature: float, batch_size: int) -> Tensor:
    """The soft targets of all texts, [N, K], in RAM; texts of similar lengths share a batch."""
    order = np.argsort(x.lengths, kind="stable")
    soft = torch.empty(len(x), TOPICS)
    for start in range(0, len(x), batch_size):
        batch = order[start : start + batch_size]
        soft[torch.from_numpy(batch)] = mean_of_teachers(teachers, x.padded(batch), temperature)
    return soft


def grouped(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """The batches of an epoch in random order, each of similar lengths."""
    drawn, wide = torch.randperm(len(lengths)).numpy(), batch_size * GROUPED
    groups = [drawn[start : start + wide] for start in range(0, len(drawn), wide)]
    ordered = np.concatenate([group[np.argsort(lengths[group], kind="stable")] for group in groups])
    starts = np.arange(0, len(drawn), batch_size)
    for start in starts[torch.randperm(len(starts)).numpy()]:
        yield ordered[start : start + batch_size]


def train(
    model: nn.Module, x: Tokens, loss: Loss, teach: Teach | None = None, *, epochs: int, batch_size: int
) -> Iterator[float]:
    """Train `model` in place, on labels, or also on soft targets. Yields the seconds of each epoch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    lengths = x.lengths
    model.train()
    for _ in range(epochs):
        started = time.perf_counter()
        for batch in grouped(lengths, batch_size):
            inputs = x.padded(batch)
            soft = None if teach is None else teach(batch, inputs)
            optimizer.zero_grad(set_to_none=True)
            labels = x.labels[torch.from_numpy(batch)]
            distillation_loss(model(**inputs).logits, labels, soft, loss).backward()
            optimizer.step()
        yield time.perf_counter() - started


@torch.no_grad()
def accuracy(model: nn.Module, x: Tokens) -> float:
    """The fraction of texts whose most likely topic is correct."""
    model.eval()
    inputs = x.padded(np.arange(len(x)))
    return float((model(**inputs).logits.argmax(-1) == x.labels).float().mean())
