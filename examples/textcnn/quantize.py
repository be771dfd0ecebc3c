"""Writes a fine-tuned encoder as int8, for ONNX Runtime, which the report then has as a row of its own.

    python quantize.py runs/textcnn/members/0 int8.onnx

It is exported as `stillhouse export --format onnx --quantize int8` exports a student.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from transformers import AutoModelForSequenceClassification

from workers.data.collate import Collator
from workers.data.examples import Columns
from workers.data.texts import TEXT, of_strings
from workers.data.tokens import Tokenization
from workers.models import onnx_export


def main(folder: str, file: str) -> None:
    encoder = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    few = Columns({TEXT: of_strings(["one text", "and one that is longer"])})
    tokens = Collator(tokens=Tokenization(folder))(few, np.arange(2))
    with tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "whole.onnx"
        onnx_export.write(encoder, tokens, whole, folder)
        onnx_export.quantize(whole, Path(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
