"""Top-k targets through Parquet: what comes back is what went in, in few enough bytes."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from workers.targets.top_k import TopK, compress
from workers.targets.top_k_columns import WRITE_OPTIONS, columns, from_table


def written(targets: TopK) -> bytes:
    buffer = io.BytesIO()
    ids = np.arange(len(targets), dtype=np.int64)
    pq.write_table(pa.table({"example_id": ids, **columns(targets)}), buffer, **WRITE_OPTIONS)
    return buffer.getvalue()


def targets(rows: int, k: int, dtype: torch.dtype = torch.float16) -> TopK:
    rng = torch.Generator().manual_seed(0)
    return compress(torch.softmax(3 * torch.randn(rows, 5000, generator=rng), -1), k, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_comes_back_as_it_was(rows: int, dtype: torch.dtype) -> None:
    expected = targets(rows, 16, dtype)
    found = from_table(pq.read_table(io.BytesIO(written(expected))))
    for name in ("ids", "probabilities", "tail"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_tables_in_several_chunks_and_rows_out_of_step_with_memory() -> None:
    whole = targets(30, 4)
    table = pa.concat_tables([pa.table(columns(whole.rows(slice(a, a + 10)))) for a in (0, 10, 20)])
    found = from_table(table.slice(5, 20))
    assert torch.equal(found.ids, whole.ids[5:25])
    assert torch.equal(found.probabilities, whole.probabilities[5:25])
    assert torch.equal(found.tail, whole.tail[5:25])
    every_second = columns(whole.rows(slice(None, None, 2)))
    assert every_second["top_ids"].to_pylist() == whole.ids[::2].tolist()


def test_the_same_rows_are_the_same_bytes() -> None:
    assert written(targets(100, 16)) == written(targets(100, 16))


def test_plain_readers_see_lists_of_numbers() -> None:
    table = pq.read_table(io.BytesIO(written(targets(5, 3))))
    assert [field.name for field in table.schema] == ["example_id", "top_ids", "top_probabilities", "tail"]
    row = table.to_pylist()[0]
    assert sum(row["top_probabilities"]) + row["tail"] == 1.0
    assert all(isinstance(i, int) for i in row["top_ids"])


def test_sixteen_classes_are_within_the_budget_even_where_nothing_compresses() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**31, size=(4096, 16), dtype=np.int32)
    noise = TopK(
        torch.from_numpy(bits),
        torch.from_numpy(rng.integers(0, 2**15, (4096, 16), dtype=np.int16)).view(torch.float16),
        torch.from_numpy(rng.integers(0, 2**30, 4096, dtype=np.int32)).view(torch.float32),
    )
    assert len(written(noise)) / 4096 <= 114
