"""The file of statistics: what is written is read again, and what is malformed is named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lakescore.drift.counting import Bins, Counter
from lakescore.drift.statistics import (
    QUANTILES,
    Categories,
    ColumnStatistics,
    Histogram,
    Statistics,
    from_json,
    moments,
    quantiles_of,
)
from lakescore.errors import InputError

EDGES = tuple(float(edge) for edge in range(5))
WHOLE = Statistics(
    rows=10,
    columns={
        "x": ColumnStatistics(
            "feature", "double", 9, 1, nan=1, positive_infinite=1, mean=1.5, std=1.0, min=0.0, max=4.0, distinct=8,
            quantiles={"0.5": 1.5}, histogram=Histogram(EDGES, (1, 2, 3, 1), 0, 0),
        ),
        "s": ColumnStatistics("label", "string", 10, 0, categories=Categories(("ä", "b"), (7, 2), 1)),
        "p": ColumnStatistics("prediction", "double", 0, 10, not_analysed="all values are null"),
    },
    source="somewhere",
)  # fmt: skip


def _tree(**changes: Any) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(WHOLE.to_json())
    tree["columns"]["x"].update(changes)
    return tree


def test_what_is_written_is_read() -> None:
    assert from_json(WHOLE.to_json(), "file") == WHOLE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "file is no JSON"),
        ("[]", "holds no statistics"),
        ("[" * 100_000, "is no JSON"),
        ('{"rows": 1}', "holds no statistics"),
        ('{"lakescore_statistics": 2}', "version 2"),
        ('{"lakescore_statistics": 1, "rows": -1, "columns": {}}', "'rows'"),
        ('{"lakescore_statistics": 1, "rows": 1, "columns": {"x": 3}}', "column 'x'"),
        ('{"lakescore_statistics": 1, "rows": 1, "columns": {"x": {"role": "king"}}}', "column 'x'"),
        ('{"lakescore_statistics": 1, "rows": 1, "columns": {"x": {"role": "feature", "count": 1.5}}}', "column 'x'"),
    ],
)
def test_a_file_that_is_none(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        from_json(text, "file")


@pytest.mark.parametrize(
    ("histogram", "why"),
    [
        ({"edges": [0, 1, 2], "counts": [1]}, "one edge more"),
        ({"edges": [0, 1], "counts": [1, 2]}, "one edge more"),
        ({"edges": [], "counts": []}, "one edge more"),
        ({"edges": [0, 1, 1], "counts": [1, 2]}, "rise"),
        ({"edges": [0, 1, float("nan")], "counts": [1, 2]}, "finite"),
        ({"edges": [0, 1, 5], "counts": [1, 2]}, "same width"),
        ({"edges": [0, 1, 2], "counts": [0, 0]}, "nothing was counted"),
        ({"edges": [0, 1, 2], "counts": [1, -1]}, "whole numbers"),
        ({"edges": [0, 1, 2], "counts": [1, 0.5]}, "whole numbers"),
        ({"edges": [0, 1, 2], "counts": [1, 10**400]}, "whole numbers"),
        ({"edges": [0, 10**400], "counts": [1]}, "finite"),
        ([0, 1], "expected a mapping, given list"),
        ("none", "expected a mapping, given str"),
    ],
)
def test_a_malformed_histogram_is_not_analysed_and_says_why(histogram: Any, why: str) -> None:
    column = from_json(json.dumps(_tree(histogram=histogram)), "file").columns["x"]
    assert column.histogram is None
    assert why in str(column.not_analysed)


@pytest.mark.parametrize("quantiles", [[1, 2], "half"])
def test_malformed_quantiles_are_named(quantiles: Any) -> None:
    column = from_json(json.dumps(_tree(quantiles=quantiles)), "file").columns["x"]
    assert "expected a mapping" in str(column.not_analysed)


@pytest.mark.parametrize("name", ["mean", "std", "min", "max", "distinct"])
@pytest.mark.parametrize("value", [10**400, float("nan"), "much", [1], True])
def test_a_number_that_is_none_is_left_out(name: str, value: Any) -> None:
    column = from_json(json.dumps(_tree(**{name: value})), "file").columns["x"]
    assert getattr(column, name) is None


_NO_KIND = "all texts, all booleans, or all whole numbers that a double holds"


@pytest.mark.parametrize(
    ("categories", "why"),
    [
        ({"values": ["a", "a"], "counts": [1, 2]}, _NO_KIND),
        ({"values": ["a"], "counts": [1, 2]}, "a count for each"),
        ({"values": 3, "counts": [1]}, "values and a count for each"),
        ({"values": [], "counts": []}, "values and a count for each"),
        ({"values": ["a", 1], "counts": [1, 2]}, _NO_KIND),
        ({"values": [True, 1], "counts": [1, 2]}, _NO_KIND),
        ({"values": [None, "a"], "counts": [1, 2]}, _NO_KIND),
        ({"values": [["a"], ["b"]], "counts": [1, 2]}, _NO_KIND),
        ({"values": [0.5, 1.5], "counts": [1, 2]}, _NO_KIND),
        ({"values": [10**400, 1], "counts": [1, 2]}, _NO_KIND),
        ({"values": [2**53, 2**53 + 1], "counts": [1, 2]}, _NO_KIND),
        (7, "expected a mapping, given int"),
    ],
)
def test_malformed_categories_are_not_analysed_and_say_why(categories: Any, why: str) -> None:
    tree = _tree()
    tree["columns"]["s"]["categories"] = categories
    assert why in str(from_json(json.dumps(tree), "file").columns["s"].not_analysed)


def test_moments_are_those_of_numpy() -> None:
    x = np.random.default_rng(0).normal(1e6, 0.1, 5_000)
    counter = Counter({"x": Bins(edges=(x.min(), x.max(), 20))})
    for part in np.array_split(x, 3):
        counter.update({"x": part})
    found = moments(counter.counts["x"])
    assert found["mean"] == pytest.approx(x.mean(), rel=1e-14)
    assert found["std"] == pytest.approx(x.std(ddof=1), rel=1e-9)
    assert (found["min"], found["max"]) == (x.min(), x.max())


def test_moments_of_nothing_and_of_too_much() -> None:
    counter = Counter({"x": Bins(edges=(0.0, 1.0, 20))})
    assert moments(counter.counts["x"]) == {"mean": None, "std": None, "min": None, "max": None}
    counter.update({"x": np.array([1e300, -1e300])})
    assert moments(counter.counts["x"])["std"] is None


def test_quantiles_are_exact_to_a_bin() -> None:
    x = np.random.default_rng(1).gamma(2.0, 3.0, 20_000)
    low, high = 1.0, 20.0
    inside, edges = np.histogram(x, bins=20, range=(low, high))
    found = quantiles_of(
        Histogram(tuple(edges), tuple(inside), int((x < low).sum()), int((x > high).sum())), float(x.min()), float(x.max())
    )
    for q in QUANTILES:
        assert found[str(q)] == pytest.approx(np.quantile(x, q), abs=max((high - low) / 20, low - x.min(), 2.0))


def test_quantiles_of_bins_that_are_empty() -> None:
    found = quantiles_of(Histogram((0.0, 1.0, 2.0, 3.0), (5, 0, 5)), 0.5, 2.5)
    assert found["0.01"] >= 0.5
    assert found["0.99"] <= 2.5
    assert found["0.25"] <= 1.0
    assert found["0.75"] >= 2.0
    assert quantiles_of(Histogram((0.0, 1.0), (0,)), None, None) == {}
    far = quantiles_of(Histogram(tuple(np.linspace(0.0, 100.0, 21)), (1, *[0] * 18, 999)), 2.0, 99.0)
    assert 95.0 <= far["0.05"] <= far["0.5"] <= far["0.95"] <= 99.0
    assert far["0.5"] == pytest.approx(97.5, abs=0.1)
