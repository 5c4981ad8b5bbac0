"""Counts of batches are those of numpy over all rows, however the rows are split."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pyspark import cloudpickle

from lakescore.drift import counting, profile
from lakescore.drift.counting import Bins, Counter, Watch, add_up, to_bytes, watched

BINS = {"x": Bins(edges=(-1.0, 2.0, 20))}


def _count(bins: dict[str, Bins], *batches: dict[str, Any]) -> dict[str, counting.Counts]:
    """What two tasks count, each of every other batch."""
    counters = [Counter(bins), Counter(bins)]
    for i, batch in enumerate(batches):
        counters[i % 2].update(batch)
    return add_up(bins, [to_bytes(counter.counts) for counter in counters])


def test_bins_are_those_of_numpy() -> None:
    x = np.random.default_rng(0).normal(size=10_000)
    counts = _count(BINS, *({"x": part} for part in np.array_split(x, 7)))["x"]
    inside, _ = np.histogram(x, bins=20, range=(-1.0, 2.0))
    assert counts.bins == [int((x < -1).sum()), *inside.tolist(), int((x > 2).sum())]
    assert counts.rows == 10_000
    assert counts.missing == 0
    assert (counts.least, counts.greatest) == (x.min(), x.max())


@settings(max_examples=300, deadline=None)
@given(
    low=st.floats(-1e6, 1e6),
    width=st.floats(1e-6, 1e9),
    size=st.integers(1, 40),
    places=arrays(np.float64, st.integers(1, 50), elements=st.floats(-0.5, 1.5)),
)
def test_values_on_and_beside_the_edges_fall_where_numpy_puts_them(low: float, width: float, size: int, places: Any) -> None:
    high = low + width
    edges = np.linspace(low, high, size + 1)
    if not (np.diff(edges) > 0).all():
        return
    beside = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf), low + places * width])
    counts = _count({"x": Bins(edges=(low, high, size))}, {"x": beside})["x"]
    inside, _ = np.histogram(beside, bins=edges)
    assert counts.bins == [int((beside < low).sum()), *inside.tolist(), int((beside > high).sum())]


def test_missing_and_infinite_values_are_counted_apart() -> None:
    x = np.array([0.0, np.nan, np.inf, -np.inf, np.inf, 5.0, -5.0])
    counts = _count(BINS, {"x": x})["x"]
    assert (counts.rows, counts.missing, counts.negative_infinite, counts.positive_infinite) == (7, 1, 1, 2)
    assert sum(counts.bins) == 3
    assert counts.bins[0] == counts.bins[-1] == 1
    assert (counts.least, counts.greatest) == (-5.0, 5.0)


@pytest.mark.parametrize("x", [[], [np.nan, np.nan], [np.inf], [-np.inf, np.nan]])
def test_batches_with_nothing_to_put_into_bins(x: list[float]) -> None:
    counts = _count(BINS, {"x": np.array(x)}, {"x": np.array([0.5])})["x"]
    assert sum(counts.bins) == 1
    assert counts.rows == len(x) + 1


def test_values_that_no_sum_of_squares_holds() -> None:
    counts = _count({"x": Bins(edges=(0.0, 1e300, 20))}, {"x": np.array([1e300, 2e300, 0.0])})["x"]
    assert counts.bins[0] == 0
    assert counts.bins[1] == counts.bins[20] == counts.bins[21] == 1


@pytest.mark.parametrize(
    "values",
    [
        np.array([True, False, True]),
        pd.Series([True, None, False]),
        pd.Series([1, 2, None], dtype="Int64"),
        pd.Series([1, 0], dtype="int8"),
        pd.Series([1.0, None], dtype="float32"),
    ],
)
def test_numbers_of_any_kind_are_doubles(values: Any) -> None:
    found = counting.as_floats(values)
    assert found.dtype == np.float64
    assert [None if np.isnan(v) else v for v in found] == [None if pd.isna(v) else float(v) for v in values]


def test_categories_and_all_others() -> None:
    bins = {"s": Bins(values=("a", "b")), "n": Bins(values=(1.0, 2.0))}
    texts = pd.Series(["a", "b", "c", None, "a", ""])
    numbers = pd.Series([1, 2, 3, None, 1, 1], dtype=float)
    found = _count(bins, {"s": texts, "n": numbers})
    assert (found["s"].bins, found["s"].missing) == ([2, 1, 2], 1)
    assert (found["n"].bins, found["n"].missing) == ([3, 1, 1], 1)
    assert (found["n"].total, found["n"].squares, found["n"].least, found["n"].greatest) == (8.0, 16.0, 1.0, 3.0)


def test_distinct_values_are_found_until_they_are_too_many() -> None:
    bins = {"few": Bins(discovers=True), "many": Bins(discovers=True)}
    batch = {"few": pd.Series(["x", "y", None] * 500), "many": pd.Series([f"v{i}" for i in range(1_500)])}
    found = _count(bins, batch, batch, batch)
    assert found["few"].found == {"x": 1_500, "y": 1_500}
    assert found["few"].missing == 1_500
    assert found["many"].found is None


def test_a_watched_function_answers_the_same_and_says_in_its_last_row_what_passed() -> None:
    watch = Watch({"x": (BINS["x"], "x")}, {"prediction": (Bins(edges=(0.0, 10.0, 5)), None, None)}, "value", "error")
    batches = [pd.DataFrame({"x": part}) for part in (np.arange(3.0), np.array([]), np.arange(2.0))]

    def double(frames: Iterator[pd.DataFrame]) -> Iterator[pd.Series[float]]:
        for frame in frames:
            if len(frame):  # as spark_udf does
                yield frame["x"] * 2

    answers = list(watched(double, watch)(iter(batches)))
    assert [list(answer["value"]) for answer in answers] == [[0.0, 2.0, 4.0], [0.0, 2.0]]
    said = [one for answer in answers for one in answer[counting.COUNTED_FIELD] if one is not None]
    assert len(said) == 1
    assert answers[-1][counting.COUNTED_FIELD].iloc[-1] is said[0]
    counts = add_up({"x": BINS["x"], "prediction": Bins(edges=(0.0, 10.0, 5))}, said)
    assert counts["x"].rows == counts["prediction"].rows == 5
    assert counts["prediction"].bins == [0, 2, 2, 1, 0, 0, 0]


def test_rows_that_failed_have_no_prediction_to_count() -> None:
    watch = Watch({}, {"prediction": (Bins(edges=(0.0, 10.0, 5)), None, None)}, "value", "error")
    answer = pd.DataFrame({"value": [1.0, 0.0, 3.0], "error": ["", "ValueError: no", ""]})
    (seen,) = watched(lambda frames: (answer for _ in frames), watch)(iter([pd.DataFrame({"x": [1, 2, 3]})]))
    counts = add_up({"prediction": Bins(edges=(0.0, 10.0, 5))}, [seen[counting.COUNTED_FIELD].iloc[-1]])
    assert counts["prediction"].rows == 2


def test_elements_of_arrays() -> None:
    found = counting.element([[0.2, 0.8], np.array([0.5]), None], 1)
    assert found[0] == 0.8
    assert np.isnan(found[1])
    assert np.isnan(found[2])


def test_what_runs_on_executors_needs_no_lakescore_there(tmp_path: Path) -> None:
    watch = Watch({"x": (BINS["x"], "x")}, {}, "value", "error")
    columns = profile.counting.Columns(BINS, {"x": "c0"}, ("x",))
    functions = [watched(iter, watch), counting.counter_of(columns), counting.passing(columns)]
    (tmp_path / "functions").write_bytes(cloudpickle.dumps(functions))
    code = (
        "import pickle, sys, pandas as pd, pyarrow as pa\n"
        "sys.modules['lakescore'] = None\n"
        f"first, second, third = pickle.load(open({str(tmp_path / 'functions')!r}, 'rb'))\n"
        "assert len(list(first(iter([pd.DataFrame({'x': [1.0]})])))) == 1\n"
        "batch = pa.RecordBatch.from_pydict({'c0': [1.0, None], 'other': [1, 2]})\n"
        "assert next(second(iter([batch]))).num_rows == 1\n"
        "assert next(third(iter([batch]))).schema.names == ['other', '__lakescore_counted']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
