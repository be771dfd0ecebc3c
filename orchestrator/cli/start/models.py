"""The text of `models.py`: networks that fit the data, and those that the checkpoints were made by."""

from __future__ import annotations

HEADER = '''"""Networks for {name}, written by `stillhouse init`. Change them freely.

A function returns a network from a batch to logits; its keyword arguments are `kwargs` in config.yaml.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
'''

MLP = '''

def mlp(inputs: int, classes: int, hidden: int, layers: int = 1, dropout: float = 0.0) -> nn.Module:
    """Logits [B, classes] of numbers [B, ..., inputs in all]. The first layer scales each column as training saw it."""
    found: list[nn.Module] = [nn.Flatten(), nn.BatchNorm1d(inputs, affine=False)]
    for layer in range(layers):
        found += [nn.Linear(hidden if layer else inputs, hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*found, nn.Linear(hidden, classes))
'''

CNN = '''

class Images(nn.Module):
    """Images as convolutions take them: [B, C, height, width] from 0 to 1."""

    def __init__(self, channels_last: bool, scale: float) -> None:
        super().__init__()
        self.channels_last, self.scale = channels_last, scale

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1) if x.ndim == 3 else x.permute(0, 3, 1, 2) if self.channels_last else x
        return x / self.scale


def cnn(
    channels: int, classes: int, width: int, dropout: float = 0.0, channels_last: bool = False, scale: float = 1.0
) -> nn.Module:
    """Logits [B, classes] of images of any size: three convolutions, each of twice as many filters at half the size."""
    found: list[nn.Module] = [Images(channels_last, scale)]
    for inputs, filters in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
        found += [nn.Conv2d(inputs, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
        found += [nn.MaxPool2d(2)]
    found[-1:] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    network = nn.Sequential(*found, nn.Linear(4 * width, classes))
    return network.to(memory_format=torch.channels_last)  # in which convolutions are faster
'''

TEXTCNN = '''

class TextCNN(nn.Module):
    """Convolutions of several widths over token embeddings, each filter's maximum over the text (Kim 2014)."""

    def __init__(self, vocabulary: int, classes: int, size: int, filters: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, size)
        self.convolutions = nn.ModuleList(nn.Conv1d(size, filters, width, padding=width - 1) for width in (2, 3, 4))
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(3 * filters, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, classes] of token ids [B, L]. attention_mask: 1 for tokens, 0 for padding."""
        words = (self.dropout(self.embed(input_ids)) * attention_mask.unsqueeze(-1)).transpose(1, 2)
        found = []
        for convolution in self.convolutions:
            answers = convolution(words)
            behind = attention_mask.sum(1) + convolution.kernel_size[0] - 1  # the first window without a token
            beyond = torch.arange(answers.shape[2], device=words.device) >= behind[:, None]
            found.append(answers.masked_fill(beyond.unsqueeze(1), -torch.inf).amax(2).relu())
        logits: Tensor = self.output(self.dropout(torch.cat(found, dim=1)))
        return logits


def textcnn(vocabulary: int, classes: int, size: int, filters: int, dropout: float = 0.0) -> nn.Module:
    """A small network of texts."""
    return TextCNN(vocabulary, classes, size, filters, dropout)
'''

CHAIN = '''

class Chain(nn.Module):
    """Layers one after another, each under the name that the checkpoints have for it; without weights: no name."""

    def __init__(self, layers: list[tuple[str, nn.Module]]) -> None:
        super().__init__()
        self.order = [layer for _, layer in layers]
        for name, layer in layers:
            *parents, last = name.split(".")
            place: nn.Module = self
            for parent in parents:
                if parent not in dict(place.named_children()):
                    place.add_module(parent, nn.Module())
                place = place.get_submodule(parent)
            if name:
                place.add_module(last, layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = layer(x)
        return x
'''

FAMILIES = {"mlp": MLP, "cnn": CNN, "textcnn": TEXTCNN}


def text(name: str, family: str, members: list[str]) -> str:
    """The whole file. members: functions for networks of checkpoints."""
    chain = [CHAIN] if any("Chain(" in each for each in members) else []
    content = "".join([HEADER.format(name=name), FAMILIES[family], *chain, *members])
    if "Tensor" not in content.replace("import Tensor", ""):
        content = content.replace("from torch import Tensor, nn", "from torch import nn")
    if "torch." not in content.replace("torch.nn", ""):
        content = content.replace("import torch\nfrom", "from")
    return content
