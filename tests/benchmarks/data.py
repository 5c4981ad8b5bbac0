"""The rows that are scored: doubles f0, f1, ..., a long `id` from 0, and six strings, as Parquet files; the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FILES = 8
# Fewer rows than this are one file.
ONE_FILE_ROWS = 100_000
# Rows of a row group, which is also what is made at one time.
ROW_GROUP_ROWS = 125_000
# How many different values each of s0, s1, ... has.
STRINGS = (3, 20, 500, 10_000, 1_000_000, 1_000_000_000)


def feature_names(columns: int) -> list[str]:
    return [f"f{i}" for i in range(columns)]


def features(rows: int, columns: int, seed: Sequence[int]) -> np.ndarray:
    """Rows of independent normal doubles, ``(rows, columns)``."""
    return np.random.default_rng(seed).normal(size=(rows, columns))


def prepare(folder: Path, rows: int, columns: int) -> Path:
    """The folder of Parquet files of so many rows and double columns, made where it is not there, and read once.

    Reading puts the files in the page cache, so that the first contender finds what all others find.
    """
    made = folder / f"rows-{rows}-columns-{columns}"
    if not made.exists():
        unfinished = folder / f"{made.name}.unfinished"
        unfinished.mkdir(parents=True, exist_ok=True)
        files = FILES if rows >= ONE_FILE_ROWS else 1
        bounds = [rows * i // files for i in range(files + 1)]
        for i in range(files):
            _write(unfinished / f"part-{i}.parquet", bounds[i], bounds[i + 1], columns)
        unfinished.rename(made)
    for file in made.iterdir():
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass
    return made


def _write(path: Path, start: int, end: int, columns: int) -> None:
    writer = None
    for first in range(start, end, ROW_GROUP_ROWS):
        table = _table(first, min(first + ROW_GROUP_ROWS, end), columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None, "every file has rows"
    writer.close()


def _table(first: int, end: int, columns: int) -> pa.Table:
    """The rows with the ids ``first`` to ``end - 1``."""
    ids = np.arange(first, end)
    values = features(len(ids), columns, (1, first))
    doubles = {name: values[:, i] for i, name in enumerate(feature_names(columns))}
    # Multiplying by a large prime spreads the ids, so that neighbours differ.
    strings = {f"s{i}": [f"s{i}-{id * 2_654_435_761 % different:09d}" for id in ids.tolist()] for i, different in enumerate(STRINGS)}
    return pa.table({"id": ids, **doubles, **strings})
