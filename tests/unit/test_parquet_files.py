"""Row groups as tasks: every one in exactly one task, of about the same size, a single one for a small source."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import types as T

from lakescore import parquet_files
from lakescore.parquet_files import OnlySparkError, ParquetFile, arrow_type, rows_at_once, spark_type, tasks

MB = 1 << 20


def _file(*megabytes: int) -> ParquetFile:
    return ParquetFile("a", 0, tuple((1000, size * MB) for size in megabytes))


@given(
    st.lists(st.lists(st.integers(0, 300), max_size=6), min_size=1, max_size=8),
    st.integers(1, 64),
)
def test_every_row_group_is_in_one_task(sizes: list[list[int]], cores: int) -> None:
    files = [_file(*one) for one in sizes]
    found = [(i, g) for task in tasks(files, cores, 16 * MB, 512 * MB) for i, groups in task for g in groups]
    assert found == [(i, g) for i, one in enumerate(sizes) for g in range(len(one))]


def test_tasks_are_of_a_size() -> None:
    assert len(tasks([_file(1, 1, 1)], 8, 16 * MB, 512 * MB)) == 1
    found = tasks([_file(*[64] * 8), _file(*[64] * 8)], 2, 16 * MB, 512 * MB)
    assert [sum(len(groups) for _, groups in task) for task in found] == [2] * 8
    assert len(tasks([_file(*[512] * 100)], 2, 16 * MB, 512 * MB)) == 100


def test_row_groups_without_rows_are_left_out() -> None:
    assert tasks([ParquetFile("a", 0, ((0, 100), (5, 100)))], 2, 16 * MB, 512 * MB) == [[(0, (1,))]]


def test_batches_are_bounded_in_rows_and_bytes() -> None:
    assert rows_at_once([_file(1)], 500, 64 * MB) == 500
    assert rows_at_once([ParquetFile("a", 0, ((10, 100 * MB),))], 500, 64 * MB) == 6
    assert rows_at_once([ParquetFile("a", 0, ((1, 100 * MB),))], 500, 64 * MB) == 1


OTHERS = [pa.uint8(), pa.time32("ms"), pa.timestamp("ns"), pa.duration("us"), pa.null(), pa.decimal256(50, 2), pa.list_(pa.uint16())]
DEEP = T.ArrayType(T.StructType([T.StructField("a", T.MapType(T.StringType(), T.DecimalType(5, 2)))]))
SPARK = [DEEP, T.TimestampType(), T.TimestampNTZType(), T.DateType(), T.ByteType(), T.ShortType(), T.BinaryType(), T.BooleanType()]


@pytest.mark.parametrize("kind", OTHERS, ids=str)
def test_types_that_are_not_alike_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(OnlySparkError, match="column 'x' is"):
        spark_type(kind, "x")


@pytest.mark.parametrize("kind", SPARK, ids=lambda kind: kind.simpleString())
def test_types_go_both_ways(kind: T.DataType) -> None:
    assert spark_type(arrow_type(kind), "x") == kind


def test_columns_that_repeat_are_told_by_their_bytes(tmp_path: Path) -> None:
    table = pa.table(
        {
            "few": ["some text"] * 5000,
            "many": [f"some text {i}" for i in range(5000)],
            "number": [float(i) for i in range(5000)],
            "same": [1.5] * 5000,
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert parquet_files.repeating(pq.read_metadata(tmp_path / "a.parquet")) == {"few", "same"}
