"""Networks of transformers: loaded from folders, matched to the data's classes by name, saved for other software."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from orchestrator import RunConfig
from orchestrator.stages import preflight
from tests import texts as made
from workers.data import texts, tokens
from workers.data.collate import Inputs, NamedInputs, collate
from workers.data.dataset import Split
from workers.data.examples import Columns
from workers.data.ragged import Ragged
from workers.errors import RequestError
from workers.models import checkpoints, predictor, torch_module, transformers_module
from workers.models import provenance as model_provenance
from workers.models.last_product import is_rounded
from workers.models.packing import PackedLinear
from workers.models.transformers_classes import class_order
from workers.specs.models import AnyModel, TransformersModel, model_of
from workers.specs.training import TrainingSpec
from workers.trial import trial

MODERN = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 40, "pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2,
    "eos_token_id": 3,
}  # fmt: skip
"""The keys of a very small ModernBERT."""
NAMES = ("geography", "science", "sport")
TEXTS = Columns({"text": texts.of_strings([row["text"] for row in made.rows(6)])})


def spec(**keys: Any) -> AnyModel:
    return model_of({"kind": "transformers", **keys}).for_classes(3, NAMES)  # type: ignore[no-any-return]


def kept(model: AnyModel, module: torch.nn.Module, place: Path) -> Path:
    """A trained network in its folder, as a run keeps it."""
    place.mkdir()
    checkpoints.save(module.state_dict(), str(place / "model.safetensors"))
    for name, content in predictor.kind_of(model).companions(model).items():
        (place / name).write_bytes(content)
    return place


def batch(model: AnyModel) -> Inputs:
    return predictor.collator(model)(TEXTS, np.arange(6))


def answers(model: AnyModel, weights: str) -> torch.Tensor:
    with torch.no_grad():
        return predictor.load(model, weights)(batch(model)).logits


def test_it_answers_as_transformers_itself(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = made.checkpoint(tmp_path, NAMES)
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(
        [row["text"] for row in made.rows(6)], padding=True, return_tensors="pt"
    )
    tokens.pop("token_type_ids", None)
    with torch.no_grad():
        expected = network(**tokens).logits
    torch.testing.assert_close(answers(spec(checkpoint=folder), folder), expected)


@pytest.mark.parametrize("task", ["sequence-classification", "masked-lm"])
def test_a_member_is_prepared_for_its_device_as_other_networks(tmp_path: Path, task: str) -> None:
    """Its layers are packed on a CPU, and its logits are not rounded to bfloat16."""
    config = made.config(hidden_size=128, num_hidden_layers=2, intermediate_size=256)
    model = spec(config=config, tokenizer=made.tokenizer(tmp_path), task=task)
    if task == "masked-lm":
        model = model.model_copy(update={"classes": 0})
        rows = Ragged.of([np.arange(5, 5 + length) for length in (3, 9, 4, 12)])
        x: Inputs = NamedInputs({"input_ids": collate(Columns({"ids": rows}), np.arange(4)).columns["ids"]})  # type: ignore[union-attr]
    else:
        x = batch(model)
    member: Any = predictor.kind_of(model)(torch_module.build(model).eval())  # type: ignore[call-arg]
    cpu = torch.device("cpu")
    with torch.no_grad():
        expected = member(x).logits
        assert member.prepare(x, cpu, "bfloat16")
        assert not is_rounded(member(x, "bfloat16").logits)
        torch.testing.assert_close(member(x).logits, expected)
        assert member.prepare(x, cpu, "float32")
        assert any(isinstance(layer, PackedLinear) for layer in member.module.modules())
        torch.testing.assert_close(member(x).logits, expected)
        for row in range(len(x)):  # whatever it is batched with
            alone = member(x[row : row + 1]).logits
            torch.testing.assert_close(alone.flatten(0, -2)[0], member(x).logits[row].reshape(-1, alone.shape[-1])[0])


def test_classes_in_another_order_are_put_into_that_of_the_data(tmp_path: Path) -> None:
    order = ("sport", "geography", "science")
    one, other = made.checkpoint(tmp_path / "a", NAMES), made.checkpoint(tmp_path / "b", order)
    state = (tmp_path / "a" / "model.safetensors").read_bytes()
    (tmp_path / "b" / "model.safetensors").write_bytes(state)  # the same numbers, whose classes have other names
    moved = answers(spec(checkpoint=other), other)
    plain = answers(spec(checkpoint=one), one)
    for k, name in enumerate(NAMES):
        torch.testing.assert_close(moved[:, k], plain[:, order.index(name)])


def test_training_from_classes_in_another_order_gives_a_member_that_loads(tmp_path: Path) -> None:
    """As a file, as a run addresses it, and as a folder; the folder says in which order its classes are."""
    from transformers import AutoModelForSequenceClassification

    order = ("sport", "geography", "science")
    model = spec(checkpoint=made.checkpoint(tmp_path / "begun", order))
    module = torch_module.build(model, seed=3).eval()
    place = kept(model, module, tmp_path / "member")
    x = batch(model)
    with torch.no_grad():
        expected = module(**x.padded())["logits"]
    for weights in (str(place / "model.safetensors"), str(place)):
        torch.testing.assert_close(predictor.load(model, weights)(x).logits, expected)
    plain = AutoModelForSequenceClassification.from_pretrained(place).eval()
    with torch.no_grad():
        found = plain(**x.padded()).logits
    assert [plain.config.id2label[k] for k in range(3)] == list(order)
    torch.testing.assert_close(found[:, [order.index(name) for name in NAMES]], expected)
    settings = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**settings, "id2label": dict(enumerate(NAMES))}))
    with pytest.raises(RequestError, match=r"Name the folder instead of the file"):
        predictor.load(model, str(place / "model.safetensors"))


def test_a_head_of_two_layers_is_drawn_in_one_order(tmp_path: Path) -> None:
    """The order of a set of names differs from process to process."""
    import subprocess
    import sys

    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        "distilbert", vocab_size=64, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=40,
        id2label=dict(enumerate("abc")), label2id={"a": 0, "b": 1, "c": 2},
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    made.tokenizer(tmp_path)
    script = (
        "import sys, torch; from workers.models import torch_module; from workers.specs.models import model_of\n"
        "torch.set_num_threads(1)\n"
        f"model = model_of({{'kind': 'transformers', 'checkpoint': {str(tmp_path)!r}}}).for_classes(3, {NAMES!r})\n"
        "state = torch_module.build(model, seed=1).state_dict()\n"
        "print([float(state[f'{name}.weight'].double().abs().sum()) for name in ('pre_classifier', 'classifier')])"
    )
    found = {
        subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, text=True,
                       capture_output=True, check=True).stdout for seed in ("1", "3")
    }  # fmt: skip
    assert len(found) == 1


def test_a_head_of_other_classes_is_not_kept_where_the_encoder_lacks_a_weight(tmp_path: Path) -> None:
    folder = made.checkpoint(tmp_path, ("a", "b", "c"))
    state = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del state["bert.pooler.dense.bias"]
    safetensors.torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    built = torch_module.build(spec(checkpoint=folder), seed=1).state_dict()
    assert not torch.equal(built["classifier.weight"], state["classifier.weight"])
    assert torch.equal(built["bert.pooler.dense.weight"], state["bert.pooler.dense.weight"])


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden_size", 32, r"is \[16\], and its config.json makes \[32\]"),
        ("vocab_size", 70, r"is \[64, 16\], and its config.json makes \[70, 16\]"),
        ("num_hidden_layers", 2, "has 'encoder.layer.2.attention.output.LayerNorm.bias', a layer that its config.json"),
        ("num_hidden_layers", 4, "has no 'encoder.layer.3.attention.output.LayerNorm.bias', of a layer that its"),
    ],
)
@pytest.mark.parametrize("head", [True, False])
def test_a_configuration_of_another_size_than_the_weights_is_refused(
    key: str, value: int, expected: str, head: bool, tmp_path: Path
) -> None:
    place = Path(made.checkpoint(tmp_path / "it", NAMES if head else None, num_hidden_layers=3))
    content = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(content | {key: value}))
    with pytest.raises(RequestError, match=expected):
        torch_module.build(spec(checkpoint=str(place)))  # type: ignore[arg-type]


def test_a_checkpoint_without_class_names_is_noted(tmp_path: Path) -> None:
    model = spec(checkpoint=made.checkpoint(tmp_path, tuple(f"LABEL_{k}" for k in range(3))))
    (note,) = predictor.kind_of(model).notes_on(model)
    assert "names no classes ('LABEL_0', 'LABEL_1', 'LABEL_2'): they are taken to be" in note
    assert ", ".join(map(repr, NAMES)) in note


def test_a_finished_member_whose_classes_no_names_match_is_noted(tmp_path: Path) -> None:
    made_up, named = (
        made.checkpoint(tmp_path / "a", ("LABEL_0", "LABEL_1", "LABEL_2")),
        made.checkpoint(tmp_path / "b", NAMES),
    )

    def notes(folder: str, names: tuple[str, ...], file: str = "") -> tuple[str, ...]:
        model = spec(checkpoint=folder).for_classes(3, names)
        return predictor.kind_of(model).settled(model, f"{folder}{file}", batch(model))[1]

    (note,) = notes(made_up, NAMES)
    assert note.startswith(f"'{made_up}' names no classes (") and ", ".join(map(repr, NAMES)) in note
    assert notes(made_up, ()) == notes(named, NAMES) == notes(named, NAMES, "/model.safetensors") == ()
    for file in ("", "/model.safetensors"):
        (note,) = notes(named, (), file)
        assert note.startswith(
            f"'{named}{file}' has the classes 'geography', 'science', 'sport', and the labels of the"
        )
        assert "they are taken to be 0 to 2, in this order" in note
    trained = spec(checkpoint=named).for_classes(3, ())
    assert "they are taken to be 0 to 2" in predictor.kind_of(trained).notes_on(trained)[0]


def test_a_tokenizer_with_other_ids_than_that_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = made.checkpoint(tmp_path / "it", NAMES)
    torch_module.build(spec(checkpoint=folder, tokenizer=made.tokenizer(tmp_path / "same")))
    other = spec(checkpoint=folder, tokenizer=made.tokenizer(tmp_path / "other", made.WORDS[::-1]))
    message = r"it': '\w+' is token \d+ of '.*it' and \d+ of '.*other'\. Expected the tokenizer that the network"
    for build in (torch_module.build, lambda model: predictor.load(model, folder)):
        with pytest.raises(RequestError, match=message):
            build(other)


def test_weights_with_the_classes_in_another_order_are_no_beginning(tmp_path: Path) -> None:
    begun = spec(checkpoint=made.checkpoint(tmp_path / "begun", ("sport", "geography", "science")))
    weights = kept(begun, torch_module.build(begun), tmp_path / "member")
    new = spec(config=made.config(), tokenizer=made.tokenizer(tmp_path / "tokenizer"))
    for given in (weights, weights / "model.safetensors"):
        torch_module.build(begun, 0, str(given))  # whose logits are put into the order of the data
        with pytest.raises(
            RequestError, match=r"has the classes 'sport', .* Give their folder as `checkpoint` instead of"
        ):
            torch_module.build(new, 0, str(given))
    torch_module.build(new.for_classes(3, ("a", "b", "c")), 0, str(weights))  # of which no class is one of these
    examples, training = Split(TEXTS, np.arange(6) % 3), TrainingSpec(epochs=1, batch_size=2, learning_rate=1e-3)
    role = trial.Role("members.1", new, training, 0, examples, begins_with=begun)
    with pytest.raises(
        RequestError, match=r"`initial` names a member, '.*begun', whose weights have the classes in anoth"
    ):
        trial.check_training(role, 3, [])


def test_embeddings_of_a_class_of_their_own(tmp_path: Path) -> None:
    """As those of I-BERT, which can be quantized."""
    model = spec(config=made.config(model_type="ibert", pad_token_id=1), tokenizer=made.tokenizer(tmp_path))
    module: Any = torch_module.build(model)
    again: Any = torch_module.build(spec(checkpoint=str(kept(model, module, tmp_path / "member"))))
    assert torch.equal(again.get_input_embeddings().weight, module.get_input_embeddings().weight)


@pytest.mark.parametrize("kind", ["roberta", "lilt", "layoutlmv3", "markuplm"])
def test_positions_begin_behind_the_id_that_pads(kind: str, tmp_path: Path) -> None:
    model = spec(config=made.config(model_type=kind, pad_token_id=1), tokenizer=made.tokenizer(tmp_path))
    assert predictor.kind_of(model).positions(model) == 38


@pytest.mark.parametrize(("max_length", "most"), [(7, 7), (None, 40)])
def test_a_student_of_transformers_cuts_where_the_run_did(max_length: int | None, most: int, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = spec(checkpoint=made.checkpoint(tmp_path / "it", NAMES, max_position_embeddings=40), max_length=max_length)
    place = kept(model, torch_module.build(model), tmp_path / "student")  # type: ignore[arg-type]
    tokens = AutoTokenizer.from_pretrained(place)("sea sky " * 100, truncation=True, return_tensors="pt")
    assert tokens["input_ids"].shape == (1, most)
    AutoModelForSequenceClassification.from_pretrained(place)(**tokens)


def test_other_class_names_are_refused_and_made_up_ones_taken_as_they_are(tmp_path: Path) -> None:
    folder = made.checkpoint(tmp_path, ("geography", "science", "cooking"))
    with pytest.raises(RequestError, match=r"has the classes 'geography', 'science', 'cooking', and the data"):
        answers(spec(checkpoint=folder), folder)
    model = spec(checkpoint=folder)
    assert isinstance(model, TransformersModel)
    assert class_order("", ("LABEL_0", "LABEL_1", "LABEL_2"), model, may_add=False) == (0, 1, 2)
    assert class_order("", ("a", "b", "c"), model, may_add=True) is None
    with pytest.raises(RequestError, match="has the classes 'LABEL_0', 'LABEL_1', and the data"):
        class_order("", ("LABEL_0", "LABEL_1"), model, may_add=False)
    names = [f"LABEL_{k}" for k in range(11)]
    many = model.for_classes(11, tuple(sorted(names)))
    assert class_order("", names, many, may_add=False) == (0, 1, 10, *range(2, 10))  # as the labels of the data


def test_a_head_for_other_classes_is_made_anew_for_training(tmp_path: Path) -> None:
    model = spec(checkpoint=made.checkpoint(tmp_path, ("a", "b", "c", "d", "e")))
    module = torch_module.build(model, seed=1)
    assert list(module.classifier.weight.shape) == [3, 16]  # type: ignore[union-attr, arg-type]
    (note,) = predictor.kind_of(model).notes_on(model)
    assert "has no classifier.bias, classifier.weight" in note


def test_training_begins_with_the_encoder_and_a_new_head(tmp_path: Path) -> None:
    folder = made.checkpoint(tmp_path)
    model = spec(checkpoint=folder)
    one, same, other = (torch_module.build(model, seed=seed).state_dict() for seed in (1, 1, 2))
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert differing and all(name.startswith(("classifier", "bert.pooler")) or "cls" in name for name in differing)
    (note,) = predictor.kind_of(model).notes_on(model)
    assert "has no classifier.bias, classifier.weight" in note
    with pytest.raises(RequestError, match="has no classifier"):
        predictor.load(model, folder)


def test_a_vocabulary_that_is_not_given_is_noted(tmp_path: Path) -> None:
    given = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = spec(config=given, tokenizer=made.tokenizer(tmp_path))
    (note,) = predictor.kind_of(model).notes_on(model)
    assert "gives no `vocab_size`, so it has embeddings of 30,522 tokens, and the tokenizer has 26." in note
    model = spec(config={**given, "vocab_size": 64}, tokenizer=made.tokenizer(tmp_path))
    assert predictor.kind_of(model).notes_on(model) == ()


def test_a_trained_network_is_a_folder_that_transformers_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = spec(config=made.config(), tokenizer=made.tokenizer(tmp_path / "tokenizer"))
    module = torch_module.build(model, seed=3).eval()
    place = kept(model, module, tmp_path / "student")
    again, tokenizer = AutoModelForSequenceClassification.from_pretrained(place), AutoTokenizer.from_pretrained(place)
    assert [again.config.id2label[k] for k in range(3)] == list(NAMES)
    tokens = tokenizer([row["text"] for row in made.rows(6)], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = again.eval()(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
    torch.testing.assert_close(answers(model, str(place / "model.safetensors")), expected)


def test_the_tokenizer_beside_a_network_makes_the_tokens_that_it_learned_from(tmp_path: Path) -> None:
    """The file in a folder may make others, since transformers changes it by the settings beside it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import AutoTokenizer

    known = {word: k for k, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "river", "River"])}
    in_file = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    in_file.normalizer = normalizers.BertNormalizer(lowercase=True)
    in_file.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    in_file.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocab.txt").write_text("\n".join(known))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    model = spec(config=made.config(), tokenizer=str(tmp_path))
    how = tokens.Tokenization(str(tmp_path), 8)
    learned = how(texts.of_strings(["River river"]))["input_ids"].flat.tolist()
    assert learned == [2, 6, 5, 3]
    place = kept(model, torch_module.build(model, seed=3), tmp_path / "student")
    assert AutoTokenizer.from_pretrained(place)("River river").input_ids == learned
    assert Tokenizer.from_file(str(place / "tokenizer.json")).encode("River river").ids == learned
    assert tokens.digest(str(place)) == tokens.digest(str(tmp_path))


def test_a_new_network_has_whole_precision_whatever_its_configuration_names(tmp_path: Path) -> None:
    config = made.config(torch_dtype="float16")
    module = torch_module.build(spec(config=config, tokenizer=made.tokenizer(tmp_path)))
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_the_norm_of_a_head_that_is_drawn_anew_is_one(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    labels = {"id2label": dict(enumerate("abc")), "label2id": {"a": 0, "b": 1, "c": 2}}
    config = AutoConfig.for_model("modernbert", **{**MODERN, **labels})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    made.tokenizer(tmp_path)
    head: Any = torch_module.build(spec(checkpoint=str(tmp_path)), seed=1).head
    assert head.norm.weight.unique().tolist() == [1.0] and float(head.dense.weight.detach().std()) > 0.01


def test_pairs_for_a_network_with_a_single_type_of_token(tmp_path: Path) -> None:
    """As of RoBERTa; a tokenizer may tell the texts of a pair apart nevertheless."""
    config = made.config(model_type="roberta", type_vocab_size=1, pad_token_id=1)
    model = spec(config=config, tokenizer=made.tokenizer(tmp_path))
    pairs = Columns({**TEXTS.columns, "text_pair": texts.of_strings(["the goal"] * 6)})
    x = predictor.collator(model)(pairs, np.arange(6))
    assert isinstance(x, NamedInputs) and "token_type_ids" in x.columns
    member: Any = predictor.kind_of(model)(torch_module.build(model).eval())  # type: ignore[call-arg]
    with torch.no_grad():
        assert member(x).logits.shape == (6, 3)


def test_a_network_that_classifies_by_the_last_token_knows_what_pads(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "vocab_size": 64, "n_positions": 40, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = spec(config=config, tokenizer=made.tokenizer(tmp_path))
    member: Any = predictor.kind_of(model)(torch_module.build(model).eval())  # type: ignore[call-arg]
    x = batch(model)
    with torch.no_grad():
        for row in range(len(x)):
            torch.testing.assert_close(member(x[row : row + 1]).logits[0], member(x).logits[row])


def test_the_key_follows_from_content_and_not_from_places(tmp_path: Path) -> None:
    one, other = (spec(checkpoint=made.checkpoint(tmp_path / name, NAMES)) for name in "ab")
    assert model_provenance.of_model(one) == model_provenance.of_model(other)
    config = tmp_path / "b" / "config.json"
    config.write_text(
        json.dumps({**json.loads(config.read_text()), "id2label": {0: "sport", 1: "science", 2: "geography"}})
    )
    assert model_provenance.of_model(one) != model_provenance.of_model(other)


# --- what is refused before anything starts -----------------------------------------------------------------


def run_config(folder: Path, *, trained: bool = True, **model: Any) -> RunConfig:
    made.write_jsonl(folder / "train.jsonl", made.rows(60))
    made.write_jsonl(folder / "test.jsonl", made.rows(12, 100))
    training = {"epochs": 1, "batch_size": 16}
    small = {"kind": "transformers", "config": made.config(), "tokenizer": str(folder / "tokenizer")}
    made.tokenizer(folder / "tokenizer")
    values = {
        "name": "texts", "storage": str(folder / "runs"), "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
        "data": {"kind": "text", "train": "train.jsonl", "test": "test.jsonl"},
        "ensemble": {"size": 1, "model": {**small, **model}, "training": training if trained else None},
        "student": {"model": small, "training": training},
    }  # fmt: skip
    return RunConfig.from_mapping(values, str(folder))


def refused(folder: Path, *, trained: bool = True, **model: Any) -> str:
    with pytest.raises(RequestError) as error:
        preflight.check(run_config(folder, trained=trained, **model))
    assert not (folder / "runs").exists()
    return str(error.value)


def test_a_vocabulary_that_is_too_small_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, config=made.config(vocab_size=20))
    assert "embeds 20 tokens, and the tokenizer" in message and "has ids up to 25" in message
    assert "Expected `config.vocab_size: 26`." in message


def test_texts_longer_than_the_positions_are_counted(tmp_path: Path) -> None:
    message = refused(tmp_path, config=made.config(max_position_embeddings=8))
    of_train = [len(row["text"].split()) - 1 + len(row["text"].split()[-1]) + 2 for row in made.rows(60)]
    counted = int(message.split("data.train: ")[1].split(" texts")[0])
    assert 0 < counted <= sum(length > 8 for length in of_train)  # a tenth of them is the validation split
    assert "texts have more tokens than the 8 positions" in message
    assert "ensemble.model.max_length: 8" in message
    assert "max_length: 9, and" in refused(tmp_path, config=made.config(max_position_embeddings=8), max_length=9)


def test_a_length_of_special_tokens_alone_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, max_length=2)
    assert message.startswith("ensemble.model.max_length: 2, and the tokenizer '")
    assert "adds 2 special tokens to each text. Expected at least 3." in message


def test_a_configuration_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    assert "cannot be made into a network" in refused(tmp_path, config={"model_type": "no-such-type"})
    with pytest.raises(RequestError, match="`config` needs `model_type`"):
        run_config(tmp_path, config={"hidden_size": 8})


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    folder = made.checkpoint(tmp_path / "own", NAMES)
    (Path(folder) / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = Path(folder, "config.json")
    asks = {"model_type": "of-its-own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **asks}))
    message = refused(tmp_path, checkpoint=folder, config=None)
    assert "not run" in message and not (tmp_path / "ran").exists()


def test_a_checkpoint_whose_code_makes_another_network_is_refused(tmp_path: Path) -> None:
    """Its type is one of transformers, whose network has other weights, which would be random."""
    folder = made.checkpoint(tmp_path / "own", NAMES)
    config = Path(folder, "config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoModel": "own.Model"}}))
    assert answers(spec(checkpoint=folder), folder).shape == (6, 3)
    weights = safetensors.torch.load_file(f"{folder}/model.safetensors")
    renamed = {name.replace(".query.", ".Wqkv."): weight for name, weight in weights.items()}
    safetensors.torch.save_file(renamed, f"{folder}/model.safetensors", {"format": "pt"})
    with pytest.raises(RequestError, match=r"wants code of its own .*another network, with bert.*query"):
        torch_module.build(spec(checkpoint=folder))


def test_a_checkpoint_of_another_network_is_no_beginning(tmp_path: Path) -> None:
    """By names or shapes; training would begin with random numbers."""
    folder = made.checkpoint(tmp_path)
    config, file = Path(folder, "config.json"), Path(folder, "model.safetensors")
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": 32}))
    with pytest.raises(
        RequestError, match=r"word_embeddings.weight' is \[64, 16\], and its config.json makes \[32, 16\]"
    ):
        torch_module.build(spec(checkpoint=folder))
    config.write_text(json.dumps({**json.loads(config.read_text()), "vocab_size": 64}))
    wrapped = {f"module.{name}": weight for name, weight in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(wrapped, file, {"format": "pt"})
    with pytest.raises(RequestError, match=r"has no bert.*, nor most other weights of BertForSequenceClassification"):
        torch_module.build(spec(checkpoint=folder))


def test_what_is_beside_a_file_of_weights_is_explained(tmp_path: Path) -> None:
    folder = Path(made.checkpoint(tmp_path, NAMES))
    file, config = str(folder / "model.safetensors"), (folder / "config.json").read_text()
    of_folder = spec(config=made.config(), tokenizer=str(folder))
    assert isinstance(of_folder, TransformersModel)
    weights = safetensors.torch.load_file(file)
    for wrong in ("{", "[]", json.dumps({"id2label": {"a": "sport"}})):
        (folder / "config.json").write_text(wrong)
        with pytest.raises(RequestError, match=r"config.json' beside it is no configuration of transformers"):
            predictor.load(of_folder, file)
        transformers_module._check_classes_beside(of_folder, file, begins=True)  # names that are unknown
    (folder / "config.json").write_text(config)
    safetensors.torch.save_file({**weights, "bert.embeddings.position_ids": torch.arange(40)}, file, {"format": "pt"})
    with pytest.raises(
        RequestError, match=r"an unknown 'bert.embeddings.position_ids'.* Its folder, instead of the file"
    ):
        predictor.load(spec(checkpoint=str(folder)), file)
    assert answers(spec(checkpoint=str(folder)), str(folder)).shape == (6, 3)


def test_the_head_of_another_task_is_no_head(tmp_path: Path) -> None:
    folder = made.checkpoint(tmp_path, NAMES)
    with pytest.raises(RequestError, match=r"has no classifier.*the head of the task 'token-classification'"):
        predictor.load(spec(checkpoint=folder, task="token-classification"), folder)


def test_keys_of_a_configuration_without_an_effect_are_noted(tmp_path: Path) -> None:
    tokenizer = made.tokenizer(tmp_path)
    model = spec(config=made.config(num_hidden_layer=3, transformers_version="4", num_labels=7), tokenizer=tokenizer)
    assert torch_module.build(model).classifier.weight.shape[0] == 3  # type: ignore[union-attr]
    (note,) = predictor.kind_of(model).notes_on(model)
    assert note.startswith("'bert': `config` has num_hidden_layer, without an effect on BertConfig.")
    model = spec(config={"model_type": "modernbert", **MODERN, "global_rope_theta": 3e4}, tokenizer=tokenizer)
    assert predictor.kind_of(model).notes_on(model) == ()


def test_a_member_without_training_needs_a_head(tmp_path: Path) -> None:
    folder = made.checkpoint(tmp_path / "bare")
    assert "the head of the task" in refused(tmp_path, checkpoint=folder, config=None, trained=False)
    whole = made.checkpoint(tmp_path / "whole", NAMES)
    weights = safetensors.torch.load_file(f"{whole}/model.safetensors")
    dropped = next(name for name in weights if name.endswith("query.weight"))
    safetensors.torch.save_file({n: w for n, w in weights.items() if n != dropped}, f"{whole}/model.safetensors")
    message = refused(tmp_path, checkpoint=whole, config=None, trained=False)
    assert f"has no {dropped}. Expected all weights of a member" in message


def test_relation_of_heads_to_width_is_checked_by_the_library(tmp_path: Path) -> None:
    assert "cannot be made into a network" in refused(tmp_path, config=made.config(num_attention_heads=3))


def test_a_checkpoint_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = Path(made.checkpoint(tmp_path / "alone", NAMES))
    for each in folder.glob("tokenizer*"):
        each.unlink()
    message = refused(tmp_path, checkpoint=str(folder), config=None, tokenizer=None)
    assert message.startswith(f"tokenizer '{folder}': has 5 special tokens and no others")


def test_a_model_of_texts_needs_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text("import torch\n\ndef net():\n    return torch.nn.Linear(1, 3)\n")
    values = run_config(tmp_path).model_dump(mode="json", exclude_none=True)
    values["student"]["model"] = {"factory": "models:net"}
    with pytest.raises(RequestError, match=r"student.model.tokenizer: not given, and the data are texts"):
        preflight.check(RunConfig.from_mapping(values, str(tmp_path)))


def test_classes_are_matched_without_architectures_and_beside_a_file(tmp_path: Path) -> None:
    folder = Path(made.checkpoint(tmp_path / "ft", ("sport", "geography", "science")))
    config = json.loads((folder / "config.json").read_text())
    moved = answers(spec(checkpoint=str(folder)), str(folder))
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "architectures"}))
    torch.testing.assert_close(answers(spec(checkpoint=str(folder)), str(folder)), moved)
    file = str(folder / "model.safetensors")
    torch.testing.assert_close(answers(spec(checkpoint=str(folder)), file), moved)
    with pytest.raises(RequestError, match="Name the folder instead of the file"):
        predictor.load(spec(config=made.config(), tokenizer=str(folder)), file)


def test_a_head_of_other_names_is_drawn_anew(tmp_path: Path) -> None:
    model = spec(checkpoint=made.checkpoint(tmp_path, ("a", "b", "c")))
    one, other = (torch_module.build(model, seed=seed).state_dict() for seed in (1, 2))
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    assert any("has no classifier" in note for note in predictor.kind_of(model).notes_on(model))


def test_a_folder_may_have_a_dot_in_its_name(tmp_path: Path) -> None:
    folder = made.checkpoint(tmp_path / "bge-small-v1.5", NAMES)
    assert len(checkpoints.sha256(folder)) == 64
