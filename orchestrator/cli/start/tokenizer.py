"""A tokenizer of the user's own texts, for models that have none: byte-level BPE (Sennrich et al. 2016)."""

from __future__ import annotations

import importlib.util

from orchestrator.cli.start.look import Seen, texts_head
from orchestrator.cli.start.recipe import VOCABULARY
from workers.errors import RequestError

NEEDED = "pip install 'stillhouse[text]'"
LEARNT_FROM = 200_000
"""Most texts that the vocabulary is made of."""


def learnt(seen: Seen) -> tuple[str, int]:
    """The content of `tokenizer.json` for the training texts, and the number of its tokens."""
    import pyarrow.compute as pc
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="[UNK]"))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["[PAD]", "[UNK]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    column = texts_head(seen.data["train"]).column(seen.data["text_column"]).slice(0, LEARNT_FROM)
    made.train_from_iterator(pc.drop_null(column).to_pylist(), trainer)
    return made.to_str(pretty=True), made.get_vocab_size()


def check_installed() -> None:
    """Raise `RequestError` where a package for texts is missing."""
    missing = [name for name in ("tokenizers", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise RequestError(f"models of texts need {' and '.join(missing)}, not installed here: {NEEDED}")
