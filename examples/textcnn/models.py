"""Students of texts: convolutions over word embeddings (Kim 2014), and an LSTM. Padding counts in neither."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


def embedding(table: str | None, vocabulary: int, size: int) -> nn.Embedding:
    """Word embeddings that training changes: random [vocabulary, size], or those of an encoder.

    table: the encoder's file of safetensors, relative to this one. Its embeddings are centred, and scaled to a variance
    of 1, as random ones have it.
    """
    if table is None:
        return nn.Embedding(vocabulary, size)
    with safe_open(Path(__file__).parent / table, "pt") as weights:
        names = weights.keys()
        found = weights.get_tensor(next(n for n in names if n.endswith("word_embeddings.weight"))).float()
    found -= found.mean(0)
    made: nn.Embedding = nn.Embedding.from_pretrained(found / found.std(), freeze=False)
    return made


class TextCNN(nn.Module):
    """Parallel convolutions of several widths, each filter's maximum over the text, dropout and a linear layer."""

    def __init__(self, embed: nn.Embedding, classes: int, widths: Sequence[int], filters: int, dropout: float) -> None:
        super().__init__()
        self.embed, self.widths = embed, tuple(widths)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(embed.embedding_dim, filters, width, padding=width - 1) for width in widths
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(filters * len(widths), classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, classes] of token ids [B, L]."""
        words = (self.dropout(self.embed(input_ids)) * attention_mask.unsqueeze(-1)).transpose(1, 2)
        found = []
        for convolution, width in zip(self.convolutions, self.widths, strict=True):
            answers = convolution(words)
            behind = attention_mask.sum(1) + width - 1  # the first window without a word
            beyond = torch.arange(answers.shape[2], device=words.device) >= behind[:, None]
            found.append(answers.masked_fill(beyond.unsqueeze(1), -torch.inf).amax(2).relu())
        logits: Tensor = self.output(self.dropout(torch.cat(found, dim=1)))
        return logits


class BiLSTM(nn.Module):
    """A bidirectional LSTM, the maximum of its states over the text, and a linear layer."""

    def __init__(self, embed: nn.Embedding, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embed = embed
        self.lstm = nn.LSTM(embed.embedding_dim, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * hidden, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, classes] of token ids [B, L]."""
        words, lengths = self.dropout(self.embed(input_ids)), attention_mask.sum(1).cpu()
        packed, _ = self.lstm(pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False))
        states, _ = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, padding_value=-torch.inf)
        logits: Tensor = self.output(self.dropout(states.amax(1)))
        return logits


def textcnn(
    classes: int,
    *,
    table: str | None = "minilm/model.safetensors",
    vocabulary: int = 30522,
    size: int = 128,
    widths: Sequence[int] = (1, 2, 3, 4),
    filters: int = 128,
    dropout: float = 0.1,
) -> TextCNN:
    return TextCNN(embedding(table, vocabulary, size), classes, widths, filters, dropout)


def lstm(
    classes: int,
    *,
    table: str | None = "minilm/model.safetensors",
    vocabulary: int = 30522,
    size: int = 128,
    hidden: int = 128,
    dropout: float = 0.1,
) -> BiLSTM:
    return BiLSTM(embedding(table, vocabulary, size), classes, hidden, dropout)
