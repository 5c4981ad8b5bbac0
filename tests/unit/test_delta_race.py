"""Two runs that make the same Delta table at once: one batch is there once, of two batches each is there."""

from __future__ import annotations

import threading
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import types as T

from lakescore.config import OutputConfig
from lakescore.errors import OutputError
from lakescore.sinks.base import Batch, Layout
from lakescore.sinks.delta import DeltaSink

SCHEMA = T.StructType([T.StructField("x", T.DoubleType()), T.StructField("score_date", T.DateType())])


def _write(layout: Layout) -> set[str]:
    Path(layout.folder).mkdir(parents=True)
    pq.write_table(pa.table({"x": [1.0]}), Path(layout.folder, "part-0.parquet"))
    return {"part-0.parquet"}


@pytest.mark.parametrize(("batches", "files"), [(("a", "a"), 1), (("a", "b"), 2)])
@pytest.mark.parametrize("turn", range(5))
def test_two_runs_that_create_a_table_at_once(tmp_path: Path, batches: tuple[str, str], files: int, turn: int) -> None:
    barrier, outcomes = threading.Barrier(2), []

    def run(batch_id: str, run_id: str) -> None:
        sink = DeltaSink(OutputConfig(path=str(tmp_path / "table")), Batch(batch_id, run_id, date(2026, 1, 31), "skip"))
        staged = sink.stage_files(SCHEMA, _write)
        barrier.wait()
        try:
            sink.publish(None, staged)
            outcomes.append("published")
        except OutputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=run, args=(batch_id, f"run-{i}")) for i, batch_id in enumerate(batches)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(DeltaTable(tmp_path / "table").file_uris()) == files
    assert outcomes.count("published") == files
