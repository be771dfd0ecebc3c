"""Texts, a tokenizer and small networks of transformers for the tests; nothing of them comes from a hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORDS = ["river", "mountain", "goal", "match", "atom", "cell", "said", "the", "of", "in", "very"]
TOPICS = {"geography": ["river", "mountain"], "sport": ["goal", "match"], "science": ["atom", "cell"]}


def rows(count: int, first: int = 0) -> list[dict[str, str]]:
    """Texts of three topics, each of another length."""
    found = []
    for k in range(first, first + count):
        topic = list(TOPICS)[k % 3]
        words = [TOPICS[topic][(k // 3) % 2], *(WORDS[6 + (k * 7 + j) % 5] for j in range(k % 9))]
        found.append({"text": f"{' '.join(words)} {k}", "label": topic})
    return found


def write_jsonl(path: Path, content: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content))
    return str(path)


def tokenizer(folder: Path, words: Sequence[str] = WORDS) -> str:
    """A tokenizer of words, with an id for each digit, and one for what it does not know; 26 ids in all."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: k for k, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    vocabulary |= {str(digit): len(vocabulary) + digit for digit in range(10)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    return str(folder)


def config(**also: Any) -> dict[str, Any]:
    """The keys of a very small BERT's configuration."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return {"model_type": "bert", "vocab_size": 64, "max_position_embeddings": 40, **small, **also}


def checkpoint(folder: Path, labels: Sequence[str] | None = None, seed: int = 0, **also: Any) -> str:
    """A very small BERT with random weights in a folder, with its tokenizer. labels: of its head; None: without one."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    torch.manual_seed(seed)
    names = (
        {}
        if labels is None
        else {"id2label": dict(enumerate(labels)), "label2id": {n: k for k, n in enumerate(labels)}}
    )
    kind = AutoModel if labels is None else AutoModelForSequenceClassification
    kind.from_config(AutoConfig.for_model(**config(**also), **names)).save_pretrained(folder)
    tokenizer(folder)
    return str(folder)
