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
from workers.models import checkpoint_files, checkpoints
from workers.storage import reading


def test_saved_weights_load_bit_for_bit(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_no_code_of_a_checkpoint_runs(tmp_path: Path, ending: str) -> None:
    mark, path = tmp_path / "executed", tmp_path / f"model.{ending}"
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(RequestError, match="is a pickle, which could run code and was not opened"):
        checkpoints.load(nn.Linear(1, 1), str(path))
    weights = nn.Linear(1, 1).state_dict()
    for hidden in ({"weight": Trap(mark)}, {"state_dict": weights, "callbacks": Trap(mark)}):
        for archive in (True, False):
            torch.save(hidden, path, _use_new_zipfile_serialization=archive)
            with pytest.raises(RequestError, match=r"holds more than tensors: it names pathlib\.Path\.touch|getattr"):
                checkpoints.load(nn.Linear(1, 1), str(path))
    torch.save(nn.Linear(1, 1), path)
    with pytest.raises(RequestError, match=r"it names torch\.nn\.modules\.linear\.Linear"):
        checkpoints.load(nn.Linear(1, 1), str(path))
    assert not mark.exists()


@pytest.mark.parametrize("archive", [True, False])
def test_state_dicts_of_torch(tmp_path: Path, archive: bool) -> None:
    one, other, path = nn.BatchNorm1d(3), nn.BatchNorm1d(3), tmp_path / "a.pt"
    one(torch.randn(8, 3))
    for kept, notes in (
        (one.state_dict(), []),
        ({"epoch": 3, "state_dict": one.state_dict()}, ["are those under 'state_dict'"]),
        ({"model": one.state_dict(), "optimizer": {"lr": 0.1}}, ["are those under 'model'"]),
        (
            {"model_state_dict": one.state_dict(), "loss": torch.tensor(0.5)},
            ["are those under 'model_state_dict'"],
        ),
    ):
        torch.save(kept, path, _use_new_zipfile_serialization=archive)
        found = checkpoints.load(other, str(path))
        assert len(found) == len(notes) and all(part in note for part, note in zip(notes, found, strict=True))
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    torch.save({"epoch": 3, "lr": 0.1}, path)
    with pytest.raises(RequestError, match=r"a\.pt' holds the keys 'epoch', 'lr' and no state dict"):
        checkpoints.load(other, str(path))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RequestError, match=r"a\.pt' cannot be read as weights of torch"):
        checkpoints.load(other, str(path))


def test_numbers_beside_weights_are_noted(tmp_path: Path) -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save({"epoch": 3, "by": "me", **one.state_dict()}, tmp_path / "a.pt")
    notes = checkpoints.load(other, str(tmp_path / "a.pt"))
    assert torch.equal(one.weight, other.weight) and "'by', 'epoch': no weights" in notes[0]
    torch.save({"_extra_state": 3, **one.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match="an unknown '_extra_state'"):
        checkpoints.load(other, str(tmp_path / "a.pt"))


def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path) -> None:
    (linear, filled), path = (nn.Linear(3, 2), nn.Linear(3, 2)), str(tmp_path / "a.pt")
    one, other = nn.Sequential(linear), nn.Sequential(filled)
    for prefixes in ("module.", "_orig_mod.", "module._orig_mod."):
        torch.save({prefixes + name: value for name, value in one.state_dict().items()}, path)
        notes = checkpoints.load(other, path)
        assert [note.split("'")[3] for note in notes] == [each + "." for each in prefixes.split(".")[:-1]]
        assert torch.equal(linear.weight, filled.weight)
        nn.init.zeros_(filled.weight)
    torch.save({name.replace("0.", "0._orig_mod."): value for name, value in one.state_dict().items()}, path)
    assert checkpoints.load(other, path) == [f"checkpoint '{path}': '_orig_mod.' was taken out of its names."]
    wrapped = nn.ModuleDict({"module": nn.Linear(3, 2)})
    checkpoints.save(wrapped.state_dict(), path)
    assert checkpoints.load(nn.ModuleDict({"module": nn.Linear(3, 2)}), path) == []  # its own name


def test_several_files_with_an_index(tmp_path: Path) -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    for name, value in one.state_dict().items():
        checkpoints.save({name: value}, str(tmp_path / f"{name}.safetensors"))
    index = tmp_path / "model.safetensors.index.json"
    files = {name: f"{name}.safetensors" for name in one.state_dict()}
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    for uri in (str(index), str(tmp_path)):
        assert checkpoints.load(other, uri) == [] and torch.equal(one.weight, other.weight)
        nn.init.zeros_(other.weight)
    before = checkpoints.sha256(str(index))
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert checkpoints.size(str(index)) == sum(sizes)
    checkpoints.save({"bias": one.bias + 1}, str(tmp_path / "bias.safetensors"))
    assert checkpoints.sha256(str(index)) != before
    index.write_text(json.dumps({"weight_map": files | {"scale": "bias.safetensors"}}))
    with pytest.raises(RequestError, match=r"none of its files has 'scale', which it lists\. .*save or copy"):
        checkpoints.load(other, str(index))
    for wrong in ("../bias.safetensors", "/etc/passwd", 3):
        index.write_text(json.dumps({"weight_map": {"bias": wrong}}))
        with pytest.raises(RequestError, match="expected names of files beside it"):
            checkpoints.load(other, str(index))
    index.write_text("[]")
    with pytest.raises(RequestError, match="no index of safetensors files"):
        checkpoints.load(other, str(index))
    index.unlink()
    with pytest.raises(RequestError, match="is a folder without"):
        checkpoints.load(other, str(tmp_path))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision(tmp_path: Path, kind: torch.dtype) -> None:
    one, other, path = nn.Linear(3, 2), nn.Linear(3, 2), str(tmp_path / "a.pt")
    torch.save({name: value.to(kind) for name, value in one.state_dict().items()}, path)
    (note,) = checkpoints.load(other, path)
    assert note.endswith(f"its weights are {str(kind).removeprefix('torch.')}, and are computed in float32.")
    assert other.weight.dtype == torch.float32 and torch.equal(other.weight, one.weight.to(kind).float())


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
    wrapped = {f"net.{name}": value for name, value in nn.Linear(3, 2).state_dict().items()}
    with pytest.raises(RequestError, match=r"each of its names begins with 'net\.'"):
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


def test_nan_is_no_difference_of_tied_weights() -> None:
    one, other = Tied(), Tied()
    for module in (one, other):
        module.register_buffer("bounds", torch.tensor([float("nan"), 1.0]))
    with torch.no_grad():
        one.head.weight[0] = float("nan")
    checkpoints.fill(other, checkpoints.packed(one.state_dict()), "it")
    torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=0, atol=0, equal_nan=True)


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
        content = safetensors.torch.save(dict(nn.Linear(3, 2).state_dict()), {checkpoint_files.VERSIONS: versions})
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
    read_with = storage.read_with
    monkeypatch.setattr(reading, "read_with", lambda uri, how: (read.append(uri), read_with(uri, how))[1])  # type: ignore[func-returns-value]
    for content in (b"first", b"other"):  # of one size
        storage.write_bytes(uri, content)
        for _ in range(3):
            assert checkpoints.sha256(uri) == storage.sha256(content)
    assert len(read) == 2
    with pytest.raises(RequestError, match="no such file"):
        checkpoints.sha256(str(tmp_path / "nothing"))
