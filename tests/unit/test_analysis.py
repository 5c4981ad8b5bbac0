"""Two statistics against each other: the measures and the status of each column, the batch's value, and what is not analysed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from lakescore.drift.analysis import Analysis, ColumnDrift, Thresholds, analyse, null_share, to_results
from lakescore.drift.statistics import Categories, ColumnStatistics, Histogram, Statistics

EDGES = (0.0, 1.0, 2.0, 3.0, 4.0)


def numbers(counts: Sequence[int], edges: Sequence[float] = EDGES, under: int = 0, over: int = 0, **changes: Any) -> ColumnStatistics:
    histogram = Histogram(tuple(edges), tuple(counts), under, over)
    count = sum(counts) + under + over + changes.get("nan", 0)
    return ColumnStatistics(**{"role": "feature", "type": "double", "count": count, "nulls": 0, "histogram": histogram, **changes})


def categories(values: Sequence[Any], counts: Sequence[int], other: int = 0) -> ColumnStatistics:
    return ColumnStatistics("feature", "string", sum(counts) + other, 0, categories=Categories(tuple(values), tuple(counts), other))


def compare(batch: dict[str, ColumnStatistics], reference: dict[str, ColumnStatistics]) -> Analysis:
    return analyse(Statistics(10, batch), Statistics(10, reference), Thresholds())


def column(batch: ColumnStatistics, reference: ColumnStatistics) -> ColumnDrift:
    (found,) = compare({"x": batch}, {"x": reference}).columns
    return found


RISING, FALLING = numbers([0, 1, 2, 3]), numbers([3, 2, 1, 0])
EQUAL = numbers([1, 1, 1, 1])


def test_the_case_of_four_bins_has_the_known_values() -> None:
    found = column(FALLING, RISING)

    assert found.measures == {
        "tvd": pytest.approx(0.666667, abs=1e-6),
        "hellinger": pytest.approx(0.727045, abs=1e-6),
        "kld": pytest.approx(8.748242, abs=1e-6),
        "psi": pytest.approx(8.746539, abs=1e-6),
        "jensen_shannon": pytest.approx(0.735426, abs=1e-6),
        "kolmogorov_smirnov": pytest.approx(2 / 3),
        "wasserstein": pytest.approx(5 / 3),
    }
    assert found.drift == pytest.approx((0.666667 + 0.727045) / 2, abs=1e-6)
    assert (found.status, found.not_analysed) == ("possible", None)


@pytest.mark.parametrize(
    ("thresholds", "status"),
    [(Thresholds(0.5, 0.6968), "detected"), (Thresholds(0.5, 0.6969), "possible"), (Thresholds(0.6969, 0.7), "none")],
)
def test_the_thresholds_decide_the_status_of_columns_and_batch(thresholds: Thresholds, status: str) -> None:
    found = analyse(Statistics(6, {"x": FALLING}), Statistics(6, {"x": RISING}), thresholds)

    assert (found.columns[0].status, found.status) == (status, status)


def test_a_bad_pair_of_thresholds_is_refused_naming_both() -> None:
    with pytest.raises(ValueError, match=r"possible_threshold and detected_threshold: got 0\.7 and 0\.5"):
        Thresholds(0.7, 0.5)


@pytest.mark.parametrize(
    ("counts", "under", "over", "distance"),
    [([0, 0, 0, 1], 0, 0, 3.0), ([0, 0, 0, 0], 0, 5, 4.0), ([0, 0, 0, 0], 5, 0, 1.0), ([1, 0, 0, 0], 0, 0, 0.0)],
    ids=["last", "overflow", "underflow", "same"],
)
def test_the_outer_bins_lie_half_a_bin_outside_the_range(counts: list[int], under: int, over: int, distance: float) -> None:
    found = column(numbers(counts, under=under, over=over), numbers([7, 0, 0, 0]))

    assert found.measures["wasserstein"] == pytest.approx(distance)
    assert found.drift == (1.0 if distance else 0.0)


def test_categories_have_no_measure_of_order_and_all_others_are_one_more() -> None:
    found = column(categories(["a", "b"], [1, 1], other=2), categories(["a", "b"], [2, 2]))

    assert list(found.measures) == ["tvd", "hellinger", "kld", "psi", "jensen_shannon"]
    assert found.measures["tvd"] == pytest.approx(0.5)


def test_labels_of_the_reference_are_reported_but_do_not_count_for_the_batch() -> None:
    shifted, same = numbers([4, 0, 0, 0]), numbers([0, 0, 0, 4])
    batch = {
        "kept": replace(EQUAL, role="label"),
        "prediction": replace(FALLING, role="prediction"),
        "label": replace(shifted, role="label"),
    }
    reference = {"kept": EQUAL, "prediction": replace(RISING, role="prediction"), "label": replace(same, role="label")}

    found = compare(batch, reference)

    assert {one.name: one.drift for one in found.columns}["label"] == 1.0
    assert found.drift == pytest.approx(0.696856 / 2, abs=1e-6)
    assert (found.worst and found.worst.name, found.status, found.not_analysed) == ("prediction", "none", None)


def test_columns_come_in_the_order_of_the_reference_and_new_ones_last() -> None:
    found = compare({"new": EQUAL, "a": EQUAL, "b": EQUAL}, {"b": EQUAL, "gone": EQUAL, "a": EQUAL})

    assert [one.name for one in found.columns] == ["b", "gone", "a", "new"]


ALL_NULL = numbers([0, 0, 0, 0], nulls=9)
DEGENERATE = {
    "the reference's own reason": (
        EQUAL,
        replace(EQUAL, histogram=None, not_analysed="it is constant (5)"),
        "in the reference, it is constant (5)",
    ),
    "all null": (ALL_NULL, EQUAL, "in the batch, all values are null"),
    "all NaN": (numbers([0] * 4, nan=9), EQUAL, "in the batch, all values are NaN"),
    "all infinite": (
        replace(ALL_NULL, nulls=0, count=9, positive_infinite=4, negative_infinite=5),
        EQUAL,
        "in the batch, all values are infinite",
    ),
    "some of each": (
        replace(ALL_NULL, nulls=1200, count=9, nan=5, negative_infinite=4),
        EQUAL,
        "in the batch, no value can be counted: 1,200 null, 5 NaN, 4 infinite",
    ),
    "no rows of the column": (numbers([0] * 4), EQUAL, "in the batch, nothing was counted"),
    "an empty reference": (EQUAL, numbers([0] * 4), "in the reference, nothing was counted"),
    "the batch's own reason": (
        replace(EQUAL, histogram=None, not_analysed="it is string, which the reference has not"),
        EQUAL,
        "in the batch, it is string, which the reference has not",
    ),
    "numbers against categories": (EQUAL, categories(["a"], [4]), "the reference counted categories, the batch bins of numbers"),
    "categories against numbers": (categories(["a"], [4]), EQUAL, "the reference counted bins of numbers, the batch categories"),
    "neither": (replace(EQUAL, histogram=None), replace(EQUAL, histogram=None), "in the batch, nothing was counted"),
    "other edges": (numbers([1] * 4, (0, 1, 2, 3, 5)), EQUAL, "batch and reference were not counted over the same bins of numbers"),
    "more bins": (numbers([1] * 5, (0, 1, 2, 3, 4, 5)), EQUAL, "batch and reference were not counted over the same bins of numbers"),
    "other values": (
        categories(["a", "c"], [1, 1]),
        categories(["a", "b"], [1, 1]),
        "batch and reference were not counted over the same categories",
    ),
}


@pytest.mark.parametrize(("batch", "reference", "why"), DEGENERATE.values(), ids=DEGENERATE)
def test_what_cannot_be_compared_is_not_analysed_and_says_why(batch: ColumnStatistics, reference: ColumnStatistics, why: str) -> None:
    found = compare({"x": batch, "y": FALLING}, {"x": reference, "y": RISING})

    assert found.columns[0] == ColumnDrift("x", "feature", {}, None, None, why, batch, reference)
    assert found.drift == found.columns[1].drift


def test_a_column_that_only_one_of_them_has_is_not_analysed() -> None:
    found = compare({"new": EQUAL}, {"gone": replace(EQUAL, role="label")})

    assert [(one.name, one.role, one.not_analysed) for one in found.columns] == [
        ("gone", "label", "the batch has no such column"),
        ("new", "feature", "the reference has no such column"),
    ]
    assert (found.drift, found.status, found.worst, found.not_analysed) == (
        None,
        None,
        None,
        "no feature and no prediction could be compared",
    )


def test_a_batch_without_rows_is_not_analysed() -> None:
    found = analyse(Statistics(0, {"x": numbers([0] * 4)}), Statistics(4, {"x": EQUAL, "y": EQUAL}), Thresholds())

    assert (found.drift, found.status, found.worst, found.not_analysed) == (None, None, None, "the batch has no rows")
    assert [one.not_analysed for one in found.columns] == ["the batch has no rows"] * 2


def test_one_row_is_compared() -> None:
    assert column(numbers([1, 0, 0, 0]), EQUAL).measures["tvd"] == pytest.approx(0.75)


def test_edges_that_differ_in_their_last_digits_are_the_same() -> None:
    edges = [0.1 * i for i in range(5)]

    assert edges != [0.0, 0.1, 0.2, 0.3, 0.4]
    assert column(numbers([1] * 4, edges), numbers([1] * 4, [0.0, 0.1, 0.2, 0.3, 0.4])).drift == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("edges", [(1e16, 1e16 + 2, 1e16 + 4, 1e16 + 6, 1e16 + 8), (1e308, 1.2e308, 1.4e308, 1.6e308, 1.797e308)])
def test_bins_without_midpoints_have_all_measures_but_one(edges: tuple[float, ...]) -> None:
    found = column(numbers([3, 2, 1, 0], edges), numbers([0, 1, 2, 3], edges))

    assert set(column(FALLING, RISING).measures) - set(found.measures) == {"wasserstein"}
    assert found.drift == column(FALLING, RISING).drift


def test_the_share_of_nulls_has_nan_in_it() -> None:
    assert null_share(numbers([4, 2, 0, 0], nan=2, nulls=2)) == 0.4
    assert null_share(numbers([0] * 4)) is None
    assert null_share(None) is None


def test_the_results_are_a_tree_without_nan() -> None:
    batch = {"kept": numbers([1, 1, 1, 1], nulls=1), "empty": ALL_NULL}

    found = to_results(compare(batch, {"kept": EQUAL, "empty": EQUAL, "gone": EQUAL}))

    assert json.loads(json.dumps(found, allow_nan=False)) == found
    zero = pytest.approx(0, abs=1e-7)
    names = ("tvd", "hellinger", "kld", "psi", "jensen_shannon", "kolmogorov_smirnov", "wasserstein")
    nothing = {"role": "feature", "status": None, "drift": None, "measures": {}}
    assert found == {
        "drift_metric": zero,
        "drift_status": "none",
        "thresholds": {"possible": 0.5, "detected": 0.7},
        "worst": "kept",
        "not_analysed": None,
        "columns": {
            "kept": {
                "role": "feature",
                "status": "none",
                "drift": zero,
                "measures": dict.fromkeys(names, zero),
                "not_analysed": None,
                "null_share": {"batch": 0.2, "reference": 0.0},
            },
            "empty": {**nothing, "not_analysed": "in the batch, all values are null", "null_share": {"batch": 1.0, "reference": 0.0}},
            "gone": {**nothing, "not_analysed": "the batch has no such column", "null_share": {"batch": None, "reference": 0.0}},
        },
    }


def test_one_line_says_the_drift_the_status_and_the_worst_column() -> None:
    found = compare({"x": FALLING, "y": EQUAL, "z": numbers([0, 0, 0, 0])}, {"x": RISING, "y": EQUAL, "z": EQUAL})

    assert str(found) == "0.348, none (worst: x 0.697, possible)"
    assert ([one.name for one in found.analysed], [one.name for one in found.unanalysed]) == (["x", "y"], ["z"])
    assert str(analyse(Statistics(0, {}), Statistics(10, {"x": EQUAL}), Thresholds())) == "not analysed: the batch has no rows"
