"""Weights: what goes in comes out, and nothing that could run code is opened."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from workers import checkpoints, storage
from workers.errors import RequestError


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
    with pytest.raises(RequestError, match=r"no '0\.bias', it has an unknown 'bias'"):
        checkpoints.load(nn.Sequential(nn.Linear(3, 2)), path)
    Path(path).write_bytes(b"neither")
    with pytest.raises(RequestError, match="not a safetensors file"):
        checkpoints.load(nn.Linear(3, 2), path)


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
