"""The scored DataFrame in, one batch in a table out, in two steps: stage where no reader looks, then publish or discard."""

from __future__ import annotations

from collections.abc import Sequence

from lakescore.config import OutputConfig
from lakescore.sinks.base import Batch, FileSink, Published, PublishedRows, Sink, Staged
from lakescore.sinks.delta import DeltaSink
from lakescore.sinks.parquet import ParquetSink
from lakescore.sinks.rows import CountSink, RowsSink
from lakescore.sinks.table import TableSink

__all__ = ["Batch", "FileSink", "Published", "PublishedRows", "Sink", "Staged", "open_sink"]


def open_sink(config: OutputConfig, batch: Batch, keys: Sequence[str] = ()) -> Sink:
    """The sink for the section ``output``; nothing is read or written yet.

    Args:
        config: the section ``output``.
        batch: what is to be published.
        keys: the columns that identify a row (``columns.keys``).
    """
    if config.format == "summary_only":
        return CountSink()
    if config.is_row_file:
        return RowsSink(config, batch, keys)
    if config.table is not None:
        return TableSink(config, batch)
    return DeltaSink(config, batch) if config.format == "delta" else ParquetSink(config, batch)
