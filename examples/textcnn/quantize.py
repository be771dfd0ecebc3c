"""Writes a fine-tuned encoder as int8, for ONNX Runtime, which the report then has as a row of its own.

    python quantize.py runs/textcnn/members/0 int8.onnx

Weights of linear layers are int8; activations are quantized as they come, one scale for each tensor ("dynamic").
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from onnxruntime.quantization import quant_pre_process, quantize_dynamic
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Logits(nn.Module):
    """The logits of an encoder as one tensor."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def main(folder: str, file: str) -> None:
    encoder = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        ["one text", "and one that is longer"], padding=True, return_tensors="pt"
    )
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=encoder.config.max_position_embeddings)}
    inputs = (tokens["input_ids"], tokens["attention_mask"])
    names = ["input_ids", "attention_mask"]
    with tempfile.TemporaryDirectory() as place:
        whole, prepared = Path(place) / "whole.onnx", Path(place) / "prepared.onnx"
        torch.onnx.export(
            Logits(encoder), inputs, whole, input_names=names, output_names=["logits"],
            dynamic_shapes=(sizes, sizes), dynamo=True, external_data=False,
        )  # fmt: skip
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_dynamic(prepared, file, per_channel=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
