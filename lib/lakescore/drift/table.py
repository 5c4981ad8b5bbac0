"""An analysis in, the rows of the drift table out, one for each column and measure; and the table's rows in, drift over time out.

| column         | what                                                                                           |
| -------------- | ---------------------------------------------------------------------------------------------- |
| ``feature``    | the column; empty for the batch as a whole                                                     |
| ``role``       | ``feature``, ``label``, ``prediction``, ``batch``                                              |
| ``measure``    | ``drift``, which the status is of; ``null_share``; the names of ``measures.MEASURES``          |
| ``value``      | null where it is not analysed                                                                  |
| ``status``     | of ``drift``: ``none``, ``possible``, ``detected``                                             |
| ``not_analysed`` | why there is no value                                                                        |
| ``counts``     | of ``drift``: the rows in each bin, which a later batch can be compared with                   |
| ``bins``       | of ``drift``: what the bins are, as a digest: counts with the same one can be compared         |
| ``decision``   | ``published``, or ``refused`` with ``drift.on_drift: fail``                                    |
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lakescore.drift import measures
from lakescore.drift.analysis import COUNTED_ROLES, Analysis, ColumnDrift, bin_counts, null_share
from lakescore.drift.statistics import ColumnStatistics

DRIFT = "drift"
NULL_SHARE = "null_share"
SCHEMA = pa.schema(
    {
        "feature": pa.string(),
        "role": pa.string(),
        "measure": pa.string(),
        "value": pa.float64(),
        "status": pa.string(),
        "not_analysed": pa.string(),
        "counts": pa.list_(pa.int64()),
        "bins": pa.string(),
        "decision": pa.string(),
    }
)


def rows(analysis: Analysis, kept: Collection[str], decision: str) -> pa.Table:
    """The rows of one batch.

    Args:
        analysis: what was found.
        kept: the measures to keep; empty: all.
        decision: what became of the batch.
    """
    whole = {"value": analysis.drift, "status": analysis.status, "not_analysed": analysis.not_analysed}
    found = [{"feature": "", "role": "batch", "measure": DRIFT, "decision": decision, **whole}]
    for column in analysis.columns:
        found += [{"feature": column.name, "role": column.role, "decision": decision, **row} for row in _of_column(column, kept)]
    return pa.Table.from_pylist(found, SCHEMA)


def _of_column(column: ColumnDrift, kept: Collection[str]) -> list[dict[str, Any]]:
    statistics = column.batch if column.drift is not None else None
    counts = {"counts": list(bin_counts(statistics)), "bins": digest_of(statistics)} if statistics is not None else {}
    found: list[dict[str, Any]] = [
        {"measure": DRIFT, "value": column.drift, "status": column.status, "not_analysed": column.not_analysed, **counts}
    ]
    if (share := null_share(column.batch)) is not None:
        found.append({"measure": NULL_SHARE, "value": share})
    return found + [{"measure": name, "value": value} for name, value in column.measures.items() if not kept or name in kept]


def digest_of(column: ColumnStatistics) -> str:
    """What a column's bins are, in 16 characters."""
    what = column.histogram.edges if column.histogram else column.categories.values if column.categories else ()
    return hashlib.sha256(repr(what).encode()).hexdigest()[:16]


def last_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows in order of date, then of time, one for each batch and feature: of a batch that was scored again, its last run's alone."""
    last = rows[rows["scored_at"] == rows.groupby("batch_id")["scored_at"].transform("max")]
    ordered: pd.DataFrame = last.drop_duplicates(["batch_id", "feature"], keep="last").sort_values(
        ["score_date", "scored_at", "batch_id"], kind="stable", ignore_index=True
    )
    return ordered


def over_time(stored: pd.DataFrame) -> pd.DataFrame:
    """The drift table's rows as ``history.plot`` takes them: batches in order of their date, then of when they were scored (an
    old batch may be scored again), and the drift of each from the one before.

    Args:
        stored: the rows with the measure ``drift`` and the run's columns. Of a batch that was scored again, the last run counts.

    Returns:
        ``scored_at``, ``batch_id``, ``score_date``, ``feature``, ``role``, ``drift``, ``status``, ``previous_drift``; NaN where there is
        no value, as for the first batch, or where the batch before was counted over other bins.
    """
    rows = last_runs(stored).rename(columns={"value": "drift"})
    previous = np.full(len(rows), np.nan)
    before: dict[str, Any] = {}
    for _, batch in rows.groupby(["score_date", "scored_at", "batch_id"], sort=True):
        counted = {row.feature: row for row in batch.itertuples() if row.bins is not None}
        found: list[tuple[float, float]] = []
        for name, row in counted.items():
            other = before.get(name)
            if other is None or other.bins != row.bins:
                continue
            pair = measures.total_variation(row.counts, other.counts), measures.hellinger(row.counts, other.counts)
            previous[row.Index] = measures.feature_drift(*pair)
            if row.role in COUNTED_ROLES:
                found.append(pair)
        whole = batch.index[batch["feature"] == ""]
        if found and len(whole):
            previous[whole[0]] = measures.batch_drift([tvd for tvd, _ in found], [hellinger for _, hellinger in found])
        before = counted
    rows["previous_drift"] = previous
    columns = ["scored_at", "batch_id", "score_date", "feature", "role", "drift", "status", "previous_drift"]
    ordered: pd.DataFrame = rows[columns]
    return ordered
