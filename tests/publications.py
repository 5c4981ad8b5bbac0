"""Batches of a Parquet table without Spark: staged by hand, published by the real sink, and stopped at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakescore import object_store, results
from lakescore.config import OutputConfig
from lakescore.sinks.base import Batch, Staged
from lakescore.sinks.parquet import ParquetSink
from lakescore.storage import Location

_CHANGES: dict[Any, tuple[str, ...]] = {
    Location: ("move_to", "create_text", "remove", "remove_files", "remove_if_empty", "publish_as"),
    object_store: ("create", "copy", "remove"),
}


class Killed(BaseException):
    """The process ends here."""


def open_sink(table: str, batch_id: str, on_rerun: str = "skip") -> ParquetSink:
    return ParquetSink(OutputConfig(path=table, format="parquet"), Batch(batch_id, "run", date(2026, 1, 31), on_rerun))


def stage(sink: ParquetSink, values: dict[str, Sequence[float]], files: int = 2) -> Staged:
    """Stage rows: for each date so many files with the same values in ``x``."""

    def fill(folder: Location) -> None:
        for day, xs in values.items():
            for part in range(files):
                place = folder / f"score_date={day}" / f"batch_id={sink._batch.batch_id}" / f"part-{part}-{folder.name}.parquet"
                place._make_folder(place.path.rpartition("/")[0])
                with place.fs.open_output_stream(place.path) as stream:
                    pq.write_table(pa.table({"x": list(xs)}), stream)

    return sink._stage(fill)


def publish(table: str, batch_id: str, values: dict[str, Sequence[float]], on_rerun: str = "skip", files: int = 2) -> None:
    """A whole run: recover, find, stage, publish."""
    sink = open_sink(table, batch_id, on_rerun)
    sink.recover(None)
    if sink.find(None) and on_rerun == "skip":
        return
    staged = stage(sink, values, files)
    try:
        sink.publish(None, staged)
    except BaseException:
        sink.discard(staged)
        raise


def shown(table: str, batch_id: str) -> list[float]:
    """What ``lakescore.read`` shows of a batch, sorted."""
    try:
        rows = results.read(table)
    except results.InputError:
        return []
    return sorted(rows.loc[rows["batch_id"] == batch_id, "x"])


def hidden(table: str) -> list[str]:
    """The files that are left in the table's hidden folder."""
    root = Location.of(table)
    assert root is not None
    return [info.path for info in (root / "_lakescore")._listed(recursive=True) if info.is_file]


@contextmanager
def killed_at(step: int, patch: pytest.MonkeyPatch, on: Any = Location) -> Iterator[list[str]]:
    """End the block at its step-th change of a file (on S3: request); what it would do while it unwinds is not done either."""
    done: list[str] = []
    dead = False

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal dead
            if dead or len(done) == step:
                dead = True
                raise Killed
            done.append(name)
            return real(*args, **kwargs)

        return call

    with patch.context() as inside:
        for name in _CHANGES[on]:
            inside.setattr(on, name, counted(name, getattr(on, name)))
        with suppress(Killed):
            yield done
