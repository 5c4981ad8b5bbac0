"""The measures of drift: known values, scipy's values, what holds for all histograms, and what is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, ks_2samp, wasserstein_distance

from lakescore.drift import measures
from lakescore.drift.measures import MEASURES, batch_drift, check_thresholds, feature_drift, shares, status

Measure = Callable[[npt.ArrayLike, npt.ArrayLike], float]


def wasserstein(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """At 0, 1, 2, ...: one unit between neighbouring bins."""
    return measures.wasserstein(p, q, np.arange(len(np.atleast_1d(p))))


BY_NAME: dict[str, Measure] = {
    "tvd": measures.total_variation,
    "hellinger": measures.hellinger,
    "kld": measures.kl_symmetric,
    "psi": measures.population_stability,
    "jensen_shannon": measures.jensen_shannon,
    "kolmogorov_smirnov": measures.kolmogorov_smirnov,
    "wasserstein": wasserstein,
}
BOUNDED = ("tvd", "hellinger", "jensen_shannon", "kolmogorov_smirnov")

every_measure = pytest.mark.parametrize("measure", BY_NAME.values(), ids=BY_NAME)
# The same examples at every run, and no time limit on a busy machine.
repeatable = settings(deadline=None, derandomize=True)


def histogram_pairs(values: st.SearchStrategy[float], max_bins: int = 24) -> st.SearchStrategy[tuple[list[float], list[float]]]:
    """Two histograms over the same bins, neither of them empty."""
    bins = st.lists(st.tuples(values, values), min_size=1, max_size=max_bins)
    both = bins.map(lambda pairs: ([p for p, _ in pairs], [q for _, q in pairs]))
    return both.filter(lambda pair: any(pair[0]) and any(pair[1]))


counts = histogram_pairs(st.integers(0, 1_000_000))
filled_counts = histogram_pairs(st.integers(1, 1_000_000))
few_counts = histogram_pairs(st.integers(0, 5))
any_floats = histogram_pairs(st.floats(0, allow_infinity=False))


# Known values


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (measures.total_variation, 0.666667),
        (measures.hellinger, 0.727045),
        (measures.kl_symmetric, 8.748242),
        # 2 * ((1/2 - 1e-4) ln(5000) + 1/6 ln 2)
        (measures.population_stability, 8.746539),
        (measures.kolmogorov_smirnov, 0.666667),
        # 1/2 + 2/3 + 1/2 of the rows cross the three inner edges
        (wasserstein, 1.666667),
    ],
)
def test_four_bins_against_the_reverse(measure: Measure, expected: float) -> None:
    q = [0, 1 / 6, 1 / 3, 1 / 2]

    assert measure(q[::-1], q) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    # 2 ln(1e4); 2 (1 - 1e-4) ln(1e4)
    [(name, 1.0) for name in BOUNDED] + [("kld", 18.420681), ("psi", 18.418839), ("wasserstein", 1.0)],
)
def test_nothing_in_common(name: str, expected: float) -> None:
    assert BY_NAME[name]([7, 0], [0, 3]) == pytest.approx(expected, abs=5e-7)


def test_a_bin_empty_on_both_sides_adds_nothing() -> None:
    p, q = [1, 2, 0], [2, 1, 0]

    for name, measure in BY_NAME.items():
        assert measure(p, q) == pytest.approx(measure(p[:2], q[:2])), name


def test_a_tiny_share_opposite_an_empty_one_takes_the_divergence_below_zero() -> None:
    """As MLRun defines it; the docstring gives the bound, 1e-4/e for each such bin."""
    divergence = measures.kl_symmetric([1e6, 37], [1, 0])

    assert -1e-4 / math.e <= divergence < -3.6e-5


def test_wasserstein_is_in_the_unit_of_the_positions() -> None:
    assert measures.wasserstein([0, 0, 4], [4, 0, 0], [10, 20, 50]) == pytest.approx(40)


# What holds for all histograms


@every_measure
@repeatable
@given(pair=counts)
def test_zero_for_equal_histograms(measure: Measure, pair: tuple[list[float], list[float]]) -> None:
    p, _ = pair

    assert measure(p, p) == pytest.approx(0, abs=1e-7)


@every_measure
@repeatable
@given(pair=counts)
def test_symmetric(measure: Measure, pair: tuple[list[float], list[float]]) -> None:
    p, q = pair

    assert measure(p, q) == pytest.approx(measure(q, p), abs=1e-7)


@every_measure
@repeatable
@given(pair=counts, factor=st.floats(1e-6, 1e6))
def test_the_scale_of_the_counts_does_not_matter(measure: Measure, pair: tuple[list[float], list[float]], factor: float) -> None:
    p, q = pair

    assert measure(np.multiply(p, factor), q) == pytest.approx(measure(p, q), abs=1e-7)


@every_measure
@repeatable
@given(pair=any_floats)
def test_a_finite_python_float_for_any_histograms(measure: Measure, pair: tuple[list[float], list[float]]) -> None:
    value = measure(*pair)

    assert type(value) is float
    assert math.isfinite(value)


@pytest.mark.parametrize("name", BOUNDED)
@repeatable
@given(pair=any_floats)
def test_between_zero_and_one(name: str, pair: tuple[list[float], list[float]]) -> None:
    assert 0 <= BY_NAME[name](*pair) <= 1


@pytest.mark.parametrize(
    ("name", "p", "q"),
    [
        ("tvd", [5, 6, 9, 3, 8, 7], [1, 4, 8, 5, 1, 7]),
        ("kolmogorov_smirnov", [6, 5, 3, 3, 1, 1, 1], [2, 8, 6, 9, 5, 6, 9]),
        ("jensen_shannon", [14, 24, 7, 20, 13, 10, 6, 27, 28, 2, 11, 19, 5], [16, 19, 28, 8, 4, 10, 17, 9, 27, 22, 7, 9, 17]),
    ],
)
def test_rounding_does_not_exceed_one_where_nothing_is_in_common(name: str, p: list[int], q: list[int]) -> None:
    assert BY_NAME[name](p + [0] * len(q), [0] * len(p) + q) == 1


def test_rounding_does_not_take_jensen_shannon_below_zero() -> None:
    p = [13, 10, 6, 6, 1]

    assert measures.jensen_shannon(p, [13_000_000_001, *(count * 10**9 for count in p[1:])]) == 0


def test_jensen_shannon_of_the_smallest_share_opposite_none() -> None:
    assert measures.jensen_shannon([1, 5e-324], [1, 0]) == pytest.approx(0)


@repeatable
@given(pair=counts)
def test_the_other_measures_stay_above_their_lower_bounds(pair: tuple[list[float], list[float]]) -> None:
    p, q = np.array(pair[0]), np.array(pair[1])
    one_sided = int(((p == 0) != (q == 0)).sum())

    assert measures.kl_symmetric(p, q) >= -one_sided * 1e-4 / math.e - 1e-12
    assert measures.population_stability(p, q) >= 0
    assert 0 <= wasserstein(p, q) <= p.size - 1 + 1e-9


@repeatable
@given(pair=counts)
def test_kolmogorov_smirnov_is_at_most_total_variation(pair: tuple[list[float], list[float]]) -> None:
    assert measures.kolmogorov_smirnov(*pair) <= measures.total_variation(*pair) + 1e-12


# What scipy and numpy say


@repeatable
@given(pair=counts)
def test_jensen_shannon_is_scipys(pair: tuple[list[float], list[float]]) -> None:
    assert measures.jensen_shannon(*pair) == pytest.approx(jensenshannon(*pair, base=2), abs=1e-7)


@repeatable
@given(pair=counts, gaps=st.lists(st.floats(0.01, 100), min_size=24, max_size=24), start=st.floats(-1000, 1000))
def test_wasserstein_is_scipys(pair: tuple[list[float], list[float]], gaps: list[float], start: float) -> None:
    p, q = pair
    positions = start + np.cumsum(gaps)[: len(p)]

    assert measures.wasserstein(p, q, positions) == pytest.approx(wasserstein_distance(positions, positions, p, q), abs=1e-7)


@repeatable
@given(pair=few_counts)
def test_kolmogorov_smirnov_is_scipys_of_the_binned_rows(pair: tuple[list[int], list[int]]) -> None:
    batch, reference = (np.repeat(np.arange(len(histogram)), histogram) for histogram in pair)

    assert measures.kolmogorov_smirnov(*pair) == pytest.approx(ks_2samp(batch, reference).statistic)


@pytest.mark.parametrize("measure", [measures.kl_symmetric, measures.population_stability])
@repeatable
@given(pair=filled_counts)
def test_without_empty_bins_the_divergences_are_scipys_entropies(measure: Measure, pair: tuple[list[float], list[float]]) -> None:
    p, q = pair

    assert measure(p, q) == pytest.approx(entropy(p, q) + entropy(q, p), abs=1e-9)


@repeatable
@given(pair=counts)
def test_hellinger_is_the_distance_of_the_roots(pair: tuple[list[float], list[float]]) -> None:
    p, q = (np.sqrt(np.array(histogram) / sum(histogram)) for histogram in pair)

    assert measures.hellinger(*pair) == pytest.approx(np.linalg.norm(p - q) / math.sqrt(2), abs=1e-7)


# What is refused


@pytest.mark.parametrize(
    ("histogram", "message"),
    [
        ([1, -1, 3], "a histogram must hold finite values, none below 0, given [1.0, -1.0, 3.0]"),
        ([1, math.nan], "a histogram must hold finite values, none below 0, given [1.0, nan]"),
        ([1, math.inf], "a histogram must hold finite values, none below 0, given [1.0, inf]"),
        ([0, 0], "a histogram must hold at least one value above 0, given 2 empty bins"),
        ([], "a histogram must hold at least one value above 0, given 0 empty bins"),
        ([[1, 2]], "a histogram must be 1-D, given 2-D"),
        (3, "a histogram must be 1-D, given 0-D"),
    ],
)
def test_what_is_no_histogram_is_refused(histogram: npt.ArrayLike, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        shares(histogram)


@every_measure
def test_every_measure_refuses_a_bad_side_and_different_bins(measure: Measure) -> None:
    for p, q in (([0, 0], [1, 2]), ([1, 2], [0, 0]), ([1, 2], [1, 2, 3])):
        with pytest.raises(ValueError, match=r"a histogram must hold|the same bins, given 2 and 3"):
            measure(p, q)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([0, 1, 1], "positions must be finite and strictly increasing, given [0.0, 1.0, 1.0]"),
        ([0, 2, 1], "positions must be finite and strictly increasing, given [0.0, 2.0, 1.0]"),
        ([0, math.nan, 1], "positions must be finite and strictly increasing, given [0.0, nan, 1.0]"),
        ([0, 1, math.inf], "positions must be finite and strictly increasing, given [0.0, 1.0, inf]"),
        ([-1.7e308, 0, 1.7e308], "positions must be finite and strictly increasing, given [-1.7e+308, 0.0, 1.7e+308]"),
        ([0, 1], "positions must be 1-D with one for each of the 3 bins, given shape (2,)"),
    ],
)
def test_bad_positions_are_refused(positions: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        measures.wasserstein([1, 2, 3], [3, 2, 1], positions)


# Drift and status


def test_shares_add_up_to_one_for_counts_whose_sum_overflows() -> None:
    assert shares([1.7e308, 1.7e308]).tolist() == [0.5, 0.5]


@repeatable
@given(pair=any_floats)
def test_shares_keep_the_proportions_and_add_up_to_one(pair: tuple[list[float], list[float]]) -> None:
    p, _ = pair
    assume(0 < sum(p) < math.inf)

    assert shares(p).sum() == pytest.approx(1)
    assert shares(p) == pytest.approx(np.array(p) / max(p) * shares(p).max())


def test_the_drift_of_a_feature_is_the_mean_of_both_distances() -> None:
    assert feature_drift(0.2, 0.6) == pytest.approx(0.4)


def test_the_drift_of_a_batch_is_the_mean_of_both_means() -> None:
    assert batch_drift([0.1, 0.2, 0.6], [0.2, 0.4, 0.9]) == pytest.approx((0.3 + 0.5) / 2)


@pytest.mark.parametrize(("tvds", "hellingers"), [([], []), ([0.1], []), ([0.1], [0.1, 0.2])])
def test_a_batch_without_both_distances_of_each_feature_is_refused(tvds: list[float], hellingers: list[float]) -> None:
    with pytest.raises(ValueError, match=f"given {len(tvds)} and {len(hellingers)}$"):
        batch_drift(tvds, hellingers)


@pytest.mark.parametrize(
    ("drift", "expected"),
    [
        (0.0, "none"),
        (math.nextafter(0.5, 0), "none"),
        (0.5, "possible"),
        (math.nextafter(0.7, 0), "possible"),
        (0.7, "detected"),
        (1.0, "detected"),
    ],
)
def test_the_status_changes_exactly_at_its_thresholds(drift: float, expected: str) -> None:
    assert status(drift, possible=0.5, detected=0.7) == expected


def test_a_drift_that_is_no_number_has_no_status() -> None:
    with pytest.raises(ValueError, match=r"^drift must be a number, given NaN$"):
        status(math.nan, 0.5, 0.7)


@pytest.mark.parametrize(
    ("possible", "detected"), [(0.7, 0.5), (0.5, 0.5), (0, 0.7), (-0.1, 0.7), (0.5, 1), (0.5, 1.1), (math.nan, 0.7), (0.5, math.nan)]
)
def test_a_bad_pair_of_thresholds_is_refused_by_both_keys_and_values(possible: float, detected: float) -> None:
    message = (
        f"possible_threshold and detected_threshold: got {possible} and {detected}; "
        "expected 0 < possible_threshold < detected_threshold < 1"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_thresholds(possible, detected)


@pytest.mark.parametrize(("possible", "detected"), [(0.5, 0.7), (math.nextafter(0, 1), math.nextafter(1, 0))])
def test_a_good_pair_of_thresholds_passes(possible: float, detected: float) -> None:
    check_thresholds(possible, detected)


def test_only_the_last_two_measures_need_ordered_bins() -> None:
    assert {name: measure.ordered_only for name, measure in MEASURES.items()} == {
        name: name in ("kolmogorov_smirnov", "wasserstein") for name in BY_NAME
    }


@pytest.mark.parametrize("name", [name for name, measure in MEASURES.items() if not measure.ordered_only])
@repeatable
@given(pair=counts, random=st.randoms(use_true_random=False))
def test_the_order_of_the_bins_does_not_matter_to_the_rest(name: str, pair: tuple[list[float], list[float]], random: object) -> None:
    bins = list(zip(*pair, strict=True))
    random.shuffle(bins)  # type: ignore[attr-defined]
    p, q = zip(*bins, strict=True)

    assert BY_NAME[name](p, q) == pytest.approx(BY_NAME[name](*pair), abs=1e-7)
