"""`examples/textcnn/quantize.py`: the int8 graph of an encoder answers nearly as the encoder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tests import texts
from workers.data.collate import NamedInputs
from workers.models import predictor
from workers.specs.models import OnnxModel

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_an_int8_encoder_answers_nearly_as_the_encoder(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    spec = importlib.util.spec_from_file_location("quantize", ROOT / "examples/textcnn/quantize.py")
    assert spec is not None and spec.loader is not None
    quantize = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quantize)
    folder, file = texts.checkpoint(tmp_path / "encoder", ["a", "b", "c"]), str(tmp_path / "int8.onnx")
    model = OnnxModel(kind="onnx", path=file, tokenizer=folder)
    encoder = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        for layer in (encoder.bert.pooler.dense, encoder.classifier):
            layer.weight.mul_(20)  # so that logits differ by more than int8 hides
    encoder.save_pretrained(folder)
    quantize.main(folder, file)
    loaded = predictor.load(model, file)
    for batch, length in ((1, 3), (5, 11)):  # not the sizes of the export
        ids = torch.randint(5, 20, (batch, length), generator=torch.Generator().manual_seed(length))
        mask = torch.ones_like(ids)
        found = loaded(NamedInputs({"input_ids": ids, "attention_mask": mask}), "float32").logits
        with torch.no_grad():
            expected = encoder(input_ids=ids, attention_mask=mask).logits
        assert found.shape == (batch, 3)
        np.testing.assert_allclose(found.softmax(-1), expected.softmax(-1), atol=0.05)
        assert expected.std() > 0.5
