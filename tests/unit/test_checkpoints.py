"""Weights: what goes in comes out, and nothing that could run code is opened."""

import json
import pickle
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from workers import storage
from workers.errors import RequestError
from workers.models import checkpoints


def test_round_trip(tmp_path: Path) -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    checkpoints.save(one.state_dict(), str(tmp_path / "a.safetensors"))
    checkpoints.load(other, str(tmp_path / "a.safetensors"))
    assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def test_a_header_that_begins_as_a_pickle_does_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoints.save(nn.Linear(8, 3).state_dict(), str(path))
    assert path.read_bytes()[:1] == b"\x80"  # the length of its header is 128
    checkpoints.load(nn.Linear(8, 3), str(path))


def renamed(module: nn.Module, **names: str) -> dict[str, Tensor]:
    """The module's state dict with some of its names changed."""
    return {names.get(name, name): value for name, value in module.state_dict().items()}


class Trap:
    """A pickle that leaves a mark when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


def test_a_pickle_is_refused_unopened(tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(RequestError, match="is a pickle"):
        checkpoints.load(nn.Linear(1, 1), str(path))
    torch.save({"weight": Trap(mark)}, path)
    with pytest.raises(RequestError, match="is a pickle"):
        checkpoints.load(nn.Linear(1, 1), str(path))
    assert not mark.exists()


def test_misfits_are_named(tmp_path: Path) -> None:
    path = str(tmp_path / "a.safetensors")
    checkpoints.save(nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(RequestError, match=r"'weight' is \[2, 3\], the model's is \[2, 4\]"):
        checkpoints.load(nn.Linear(4, 2), path)
    with pytest.raises(RequestError, match="no 'bias', it has an unknown 'scale'"):
        checkpoints.fill(nn.Linear(3, 2), checkpoints.packed(renamed(nn.Linear(3, 2), bias="scale")), "it")
    with pytest.raises(RequestError, match=r"it has no '0\.bias', '0\.weight', it has an unknown 'bias', 'weight'\. "):
        checkpoints.load(nn.Sequential(nn.Linear(3, 2)), path)
    with pytest.raises(RequestError, match=r"no '1\.bias', '1\.weight', '2\.bias' and 1 more, it has an unknown"):
        checkpoints.load(nn.Sequential(nn.ReLU(), nn.Linear(3, 2), nn.Linear(2, 2)), path)
    wrapped = {f"module.{name}": value for name, value in nn.Linear(3, 2).state_dict().items()}
    with pytest.raises(RequestError, match=r"each of its names begins with 'module\.'"):
        checkpoints.fill(nn.Linear(3, 2), checkpoints.packed(wrapped), "it")
    Path(path).write_bytes(b"neither")
    with pytest.raises(RequestError, match="not a safetensors file"):
        checkpoints.load(nn.Linear(3, 2), path)


class Tied(nn.Module):
    """An output layer that shares the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embedding.weight


def test_tied_weights_are_loaded_once(tmp_path: Path) -> None:
    one, other, path = Tied(), Tied(), str(tmp_path / "a.safetensors")
    safetensors.torch.save_model(one, path)  # leaves out one of the two names
    assert len(safetensors.torch.load_file(path)) == 2
    checkpoints.load(other, path)
    assert torch.equal(one.head.weight, other.head.weight) and other.head.weight is other.embedding.weight
    checkpoints.save(one.state_dict(), path)
    checkpoints.load(third := Tied(), path)
    assert torch.equal(one.head.weight, third.head.weight) and third.head.weight is third.embedding.weight
    with pytest.raises(RequestError, match=r"its 'embedding\.weight' and 'head\.weight' differ, .* shares them"):
        weights = one.state_dict()
        checkpoints.fill(Tied(), checkpoints.packed({**weights, "head.weight": weights["head.weight"] + 1}), "it")
    with pytest.raises(RequestError, match=r"no 'embedding\.weight', 'head\.weight'"):
        checkpoints.fill(Tied(), checkpoints.packed({"head.bias": one.head.bias}), "it")


def test_names_of_an_older_torch_are_loaded() -> None:
    new = parametrizations.weight_norm(nn.Linear(3, 2))
    old = {"bias": torch.zeros(2), "weight_g": torch.ones(2, 1), "weight_v": torch.full((2, 3), 2.0)}
    checkpoints.fill(new, checkpoints.packed(old), "it")
    torch.testing.assert_close(new.weight, torch.full((2, 3), 3**-0.5))
    norm = nn.BatchNorm1d(2)
    weights = {name: value for name, value in norm.state_dict().items() if name != "num_batches_tracked"}
    checkpoints.fill(norm, checkpoints.packed(weights), "it")


def test_half_precision_is_loaded_into_what_the_model_has() -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    checkpoints.fill(other, checkpoints.packed(one.half().state_dict()), "it")
    assert other.weight.dtype == torch.float32 and torch.equal(other.weight, one.weight.float())


class Second(nn.Linear):
    """A layer whose first version kept its weights in units of two."""

    _version = 2

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, local: dict[str, Any], *others: Any) -> None:
        if local.get("version") is None:
            state[prefix + "weight"] = state[prefix + "weight"] * 2
        super()._load_from_state_dict(state, prefix, local, *others)


def test_a_modules_version_is_kept_for_its_load_hook() -> None:
    one, other, third = (nn.Sequential(Second(3, 2)) for _ in range(3))
    checkpoints.fill(other, checkpoints.packed(one.state_dict()), "it")
    assert torch.equal(cast(Any, one[0]).weight, cast(Any, other[0]).weight)
    checkpoints.fill(third, safetensors.torch.save(dict(one.state_dict())), "it")
    assert torch.equal(cast(Any, one[0]).weight * 2, cast(Any, third[0]).weight)


def test_what_safetensors_cannot_hold_is_named() -> None:
    weights: dict[str, Any] = {"a._extra_state": {"steps": 3}}
    with pytest.raises(RequestError, match=r"'a\._extra_state' is dict.*register_buffer"):
        checkpoints.packed(weights)
    with pytest.raises(RequestError, match="cannot be kept as safetensors"):
        checkpoints.packed({"a": torch.eye(2).to_sparse()})


def test_metadata_that_is_none_is_refused() -> None:
    for versions in ("{", json.dumps([1]), json.dumps({"": 3})):
        content = safetensors.torch.save(dict(nn.Linear(3, 2).state_dict()), {checkpoints.VERSIONS: versions})
        with pytest.raises(RequestError, match=r"it (is not a safetensors file|does not fit)"):
            checkpoints.fill(nn.Linear(3, 2), content, "it")


def test_the_recommended_call_writes_what_is_loaded(tmp_path: Path) -> None:
    """Tied weights are refused by `save_file`, so the call that messages name is another."""
    (tmp_path / "a.safetensors").write_bytes(b"PK\x03\x04" + bytes(8))
    with pytest.raises(RequestError) as error:
        checkpoints.load(Tied(), str(tmp_path / "a.safetensors"))
    assert "safetensors.torch.save_model(model, path)" in str(error.value)
    exec(
        "safetensors.torch.save_model(model, path)",
        {"safetensors": safetensors, "model": Tied(), "path": str(tmp_path / "b")},
    )
    checkpoints.load(Tied(), str(tmp_path / "b"))


def test_a_file_is_hashed_once_until_it_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, read = str(tmp_path / "weights"), []
    read_bytes = storage.read_bytes
    monkeypatch.setattr(storage, "read_bytes", lambda uri: (read.append(uri), read_bytes(uri))[1])  # type: ignore[func-returns-value]
    for content in (b"first", b"other"):  # of one size
        storage.write_bytes(uri, content)
        for _ in range(3):
            assert checkpoints.sha256(uri) == storage.sha256(content)
    assert len(read) == 2
    with pytest.raises(RequestError, match="no such file"):
        checkpoints.sha256(str(tmp_path / "nothing"))
