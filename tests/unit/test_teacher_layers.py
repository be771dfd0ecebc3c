"""A student's initial weights from layers of its teacher."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from workers.errors import RequestError
from workers.models import teacher_layers

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50, "num_labels": 3}


def bert(layers: int, **also: int) -> nn.Module:
    config = transformers.BertConfig(num_hidden_layers=layers, max_position_embeddings=20, **{**SIZES, **also})
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def distilbert(layers: int) -> nn.Module:
    config = transformers.DistilBertConfig(n_layers=layers, dim=16, n_heads=2, hidden_dim=32, vocab_size=50,
                                           max_position_embeddings=20, num_labels=3)  # fmt: skip
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


def weights(module: nn.Module, part: str) -> torch.Tensor:
    return dict(module.named_parameters())[part]


def test_every_second_layer_is_taken_and_embeddings_and_head_as_they_are() -> None:
    student, teacher = bert(3), bert(6)
    teacher_layers.fill(student, teacher, "student")
    name = "bert.encoder.layer.{}.attention.self.query.weight"
    for own, other in ((0, 0), (1, 2), (2, 4)):
        assert torch.equal(weights(student, name.format(own)), weights(teacher, name.format(other)))
    for name in ("bert.embeddings.word_embeddings.weight", "classifier.weight", "bert.pooler.dense.bias"):
        assert torch.equal(weights(student, name), weights(teacher, name))


def test_as_many_layers_are_the_whole_teacher() -> None:
    student, teacher = bert(2), bert(2)
    teacher_layers.fill(student, teacher, "student")
    ids = torch.tensor([[2, 7, 9, 3]])
    assert torch.equal(student(ids).logits, teacher(ids).logits)


def test_distilbert_computes_the_hidden_states_of_bert_without_token_types() -> None:
    student, teacher = distilbert(2), bert(2)
    teacher_layers.fill(student, teacher, "student")
    ids = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]])
    mask = (ids > 0).long()
    hidden = [
        module(ids, attention_mask=mask, output_hidden_states=True).hidden_states for module in (student, teacher)
    ]
    for own, other in zip(*hidden, strict=True):
        torch.testing.assert_close(own[mask.bool()], other[mask.bool()], rtol=1e-4, atol=1e-5)


def test_a_masked_language_model_of_distilbert_has_the_head_of_bert() -> None:
    kinds = transformers.BertForMaskedLM, transformers.DistilBertForMaskedLM
    teacher, student = (
        kind(module.config).eval() for kind, module in zip(kinds, (bert(2), distilbert(2)), strict=True)
    )
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    teacher_layers.fill(student, teacher, "student")
    ids = torch.tensor([[2, 7, 9, 3]])
    torch.testing.assert_close(student(ids).logits, teacher(ids).logits, rtol=1e-4, atol=1e-5)


def test_a_head_in_another_order_is_not_copied() -> None:
    student, teacher = bert(1), bert(2)
    teacher.register_forward_hook(lambda module, arguments, output: output)
    before = weights(student, "classifier.weight").clone()
    teacher_layers.fill(student, teacher, "student")
    assert torch.equal(weights(student, "classifier.weight"), before)


def test_more_layers_and_other_architectures_are_refused() -> None:
    with pytest.raises(RequestError, match=r"'encoder.layer.' has 4 layers, and the teacher 2 of this name"):
        teacher_layers.fill(bert(4), bert(2), "student")
    config = transformers.MPNetConfig(num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=32,
                                      vocab_size=50, max_position_embeddings=20)  # fmt: skip
    with pytest.raises(RequestError, match=r"have no 'encoder\.layer\.0\.attention\.attn\.q.* or leave `initial` out"):
        teacher_layers.fill(transformers.MPNetForSequenceClassification(config), bert(2), "student")


def test_each_stack_of_an_encoder_and_decoder_is_thinned_by_itself() -> None:
    def bart(encoder: int, decoder: int) -> nn.Module:
        config = transformers.BartConfig(
            encoder_layers=encoder, decoder_layers=decoder, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16,
            encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=50, max_position_embeddings=20,
        )  # fmt: skip
        return transformers.BartForSequenceClassification(config)

    student, teacher = bart(6, 2), bart(6, 6)
    teacher_layers.fill(student, teacher, "student")
    name = "model.decoder.layers.{}.fc1.weight"
    assert torch.equal(weights(student, name.format(1)), weights(teacher, name.format(3)))
    name = "model.encoder.layers.{}.fc1.weight"
    assert torch.equal(weights(student, name.format(5)), weights(teacher, name.format(5)))


def test_other_widths_and_networks_without_layers_are_refused() -> None:
    with pytest.raises(RequestError, match=r"'embeddings.word_embeddings.weight' is \[50, 8\], and the teacher's is"):
        teacher_layers.fill(bert(1, hidden_size=8), bert(2), "student model 'bert'")
    with pytest.raises(RequestError, match="no stack of layers is known in the student"):
        teacher_layers.fill(nn.Linear(3, 3), bert(2), "student model 'bert'")
