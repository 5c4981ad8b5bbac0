"""The drift table's rows: what one batch leaves, and the drift of each batch from the one before."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pytest

from lakescore.drift import measures, table
from lakescore.drift.analysis import Thresholds, analyse
from lakescore.drift.statistics import ColumnStatistics, Histogram, Statistics


def _statistics(counts: Sequence[int], **others: ColumnStatistics) -> Statistics:
    histogram = Histogram((0.0, 1.0, 2.0), tuple(counts))
    return Statistics(sum(counts), {"x": ColumnStatistics("feature", "double", sum(counts), 0, histogram=histogram), **others})


REFERENCE = _statistics([1, 3])


def _stored(batch_id: str, day: int, *counts: int, **others: ColumnStatistics) -> pd.DataFrame:
    """What ``over_time`` is given of one run."""
    found = table.rows(analyse(_statistics(counts, **others), REFERENCE, Thresholds()), (), "published").to_pandas()
    run: dict[str, Any] = {"batch_id": batch_id, "scored_at": dt.datetime(2026, 1, day), "score_date": dt.date(2026, 1, day)}
    return found[found["measure"] == table.DRIFT].assign(**run)


def _previous(*runs: pd.DataFrame) -> dict[tuple[str, str], float | None]:
    found = table.over_time(pd.concat(runs))
    pairs = zip(found["batch_id"], found["feature"], strict=True)
    return {key: None if pd.isna(drift) else drift for key, drift in zip(pairs, found["previous_drift"], strict=True)}


def _drift(p: Sequence[int], q: Sequence[int]) -> Any:
    return pytest.approx(measures.feature_drift(measures.total_variation(p, q), measures.hellinger(p, q)))


def test_a_batch_has_a_row_for_itself_and_those_of_its_columns() -> None:
    found = table.rows(analyse(_statistics([3, 1]), REFERENCE, Thresholds()), ["psi"], "refused").to_pylist()

    assert [(row["feature"], row["measure"]) for row in found] == [("", "drift"), ("x", "drift"), ("x", "null_share"), ("x", "psi")]
    assert {row["decision"] for row in found} == {"refused"}
    assert found[1]["counts"] == [0, 3, 1, 0]
    assert found[0]["value"] == found[1]["value"]


def test_each_batch_is_compared_with_the_one_before() -> None:
    found = _previous(_stored("b", 2, 2, 2), _stored("a", 1, 1, 3), _stored("c", 3, 4, 0))

    first, second = _drift([1, 3], [2, 2]), _drift([2, 2], [4, 0])
    assert found == {("a", ""): None, ("a", "x"): None, ("b", ""): first, ("b", "x"): first, ("c", ""): second, ("c", "x"): second}


def test_a_batch_over_other_bins_is_not_compared() -> None:
    other = _stored("b", 2, 2, 2)
    other["bins"] = other["bins"].where(other["bins"].isna(), "others")

    assert _previous(_stored("a", 1, 1, 3), other)[("b", "x")] is None


def test_the_last_run_counts_of_a_batch_that_was_scored_again() -> None:
    gone = ColumnStatistics("feature", "double", 0, 0, not_analysed="it was dropped since")

    found = _previous(_stored("a", 1, 1, 3, gone=gone), _stored("b", 2, 2, 2), _stored("a", 3, 4, 0))

    assert found == {("b", ""): None, ("b", "x"): None, ("a", ""): _drift([2, 2], [4, 0]), ("a", "x"): _drift([2, 2], [4, 0])}
