"""The scored DataFrame in, one batch in a table out, in two steps: stage where no reader looks, then publish or discard."""

from __future__ import annotations

from lakescore.config import OutputConfig
from lakescore.sinks.base import Batch, Published, Sink, Staged
from lakescore.sinks.delta import DeltaSink
from lakescore.sinks.parquet import ParquetSink
from lakescore.sinks.table import TableSink

__all__ = ["Batch", "Published", "Sink", "Staged", "open_sink"]


def open_sink(config: OutputConfig, batch: Batch) -> Sink:
    """The sink for the section ``output``; nothing is read or written yet."""
    if config.table is not None:
        return TableSink(config, batch)
    return DeltaSink(config, batch) if config.format == "delta" else ParquetSink(config, batch)
