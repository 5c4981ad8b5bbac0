"""Two histograms over the same bins in, one drift value out: the measures and the status, in numpy alone.

``p`` is the batch and ``q`` the reference: 1-D, of one length, as counts or as shares, in any scale. In the formulas they are shares,
sums run over the bins, F and G are the cumulated p and q, and ln is the natural logarithm. A measure is a Python float, never NaN.
It raises ValueError where p or q is not a histogram (see ``shares``) or their lengths differ. MLRun's definitions are those of
https://docs.mlrun.org/en/stable/model-monitoring/ and of ``mlrun.model_monitoring.metrics.histogram_distance``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Shares = npt.NDArray[np.float64]

# What an empty bin counts as where its share is divided by or its logarithm is taken; the shares are not normalised again.
EMPTY_SHARE = 1e-4


class Measure(NamedTuple):
    """How a measure is shown: its name and range for a reader, and whether it needs bins in an order (numbers, not categories)."""

    label: str
    range_text: str
    ordered_only: bool


MEASURES: Mapping[str, Measure] = {
    "tvd": Measure("Total variation distance", "0 to 1", False),
    "hellinger": Measure("Hellinger distance", "0 to 1", False),
    "kld": Measure("Symmetric Kullback-Leibler divergence", "0 and up, nats", False),
    "psi": Measure("Population stability index", "0 and up, nats", False),
    "jensen_shannon": Measure("Jensen-Shannon distance", "0 to 1", False),
    "kolmogorov_smirnov": Measure("Kolmogorov-Smirnov statistic", "0 to 1", True),
    "wasserstein": Measure("Wasserstein distance", "0 and up, in the feature's unit", True),
}


def shares(counts: npt.ArrayLike) -> Shares:
    """The share of each bin, with sum 1. ValueError unless 1-D, finite, nowhere negative and not all zero."""
    values = np.asarray(counts, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"a histogram must be 1-D, given {values.ndim}-D")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"a histogram must hold finite values, none below 0, given {values.tolist()}")
    if not values.any():
        raise ValueError(f"a histogram must hold at least one value above 0, given {values.size} empty bins")
    scaled: Shares = values / values.max()  # a sum of huge values would overflow
    normalised: Shares = scaled / scaled.sum()
    return normalised


def _share_pair(p: npt.ArrayLike, q: npt.ArrayLike) -> tuple[Shares, Shares]:
    batch, reference = shares(p), shares(q)
    if batch.size != reference.size:
        raise ValueError(f"batch and reference must have the same bins, given {batch.size} and {reference.size}")
    return batch, reference


def _fill_empty(values: Shares) -> Shares:
    return np.where(values == 0, EMPTY_SHARE, values)


def total_variation(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Total variation distance, sum |p - q| / 2: the share of rows in other bins. In [0, 1], no unit. Source: MLRun."""
    p, q = _share_pair(p, q)
    return min(float(np.abs(p - q).sum()) / 2, 1.0)


def hellinger(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Hellinger distance, sqrt(max(1 - sum sqrt(p q), 0)). In [0, 1], no unit. Source: MLRun. Rounding: up to 1e-7 for equal p and q."""
    p, q = _share_pair(p, q)
    return math.sqrt(max(1 - float(np.sqrt(p * q).sum()), 0.0))


def kl_symmetric(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Symmetric Kullback-Leibler divergence, KL(p||q) + KL(q||p) with KL(a||b) = sum a ln(a / b). In nats. Source: MLRun.

    A zero b counts as 1e-4 and a zero a adds nothing. Range: [0, inf); but a share below 1e-4 opposite an empty one counts below 0,
    down to -1e-4/e for each such bin.
    """
    p, q = _share_pair(p, q)
    return _kl(p, q) + _kl(q, p)


def _kl(a: Shares, b: Shares) -> float:
    filled = a > 0
    a, b = a[filled], _fill_empty(b)[filled]
    return float((a * (np.log(a) - np.log(b))).sum())  # a / b could overflow


def population_stability(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Population stability index, sum (p - q) ln(p / q) over the given bins; an empty share, of p or q, counts as 1e-4.

    In [0, inf), nats. Source: Siddiqi, Credit Risk Scorecards (Wiley, 2006); the 1e-4 is MLRun's for its divergence.
    """
    p, q = (_fill_empty(values) for values in _share_pair(p, q))
    return float(((p - q) * (np.log(p) - np.log(q))).sum())


def jensen_shannon(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Jensen-Shannon distance, the square root of (KL(p||m) + KL(q||m)) / 2 with m = (p + q) / 2 and logarithms to base 2.

    In [0, 1], no unit. Source: Lin, IEEE Trans. Inf. Theory 37 (1991) 145-151; that the square root is a metric: Endres and Schindelin,
    IEEE Trans. Inf. Theory 49 (2003) 1858-1860.
    """
    p, q = _share_pair(p, q)
    total = p + q  # twice m: halving could round the smallest share to zero
    divergence = sum(float((a[a > 0] * np.log2(2 * a[a > 0] / total[a > 0])).sum()) for a in (p, q)) / 2
    return math.sqrt(min(max(divergence, 0.0), 1.0))


def kolmogorov_smirnov(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Kolmogorov-Smirnov statistic, max |F - G| at the edges of ordered bins: at most that of the rows themselves.

    In [0, 1], no unit. Source: Conover, Practical Nonparametric Statistics (Wiley, 3rd ed. 1999), section 6.3.
    """
    p, q = _share_pair(p, q)
    return min(float(np.abs(np.cumsum(p - q)).max()), 1.0)


def wasserstein(p: npt.ArrayLike, q: npt.ArrayLike, positions: npt.ArrayLike) -> float:
    """First Wasserstein distance, sum |F - G| times the gap to the next position, with the rows of each bin at its position.

    In [0, last - first position], in the unit of the feature. ``positions`` are the bins' midpoints: 1-D, one for each bin, finite and
    strictly increasing, or ValueError. Source: Vallender, Theory Probab. Appl. 18 (1974) 784-786.
    """
    p, q = _share_pair(p, q)
    places = np.asarray(positions, dtype=np.float64)
    if places.shape != p.shape:
        raise ValueError(f"positions must be 1-D with one for each of the {p.size} bins, given shape {places.shape}")
    # Python's floats: a range beyond them is inf, without a warning.
    if not math.isfinite(float(places[-1]) - float(places[0])) or not (places[1:] > places[:-1]).all():
        raise ValueError(f"positions must be finite and strictly increasing, given {places.tolist()}")
    return float((np.abs(np.cumsum(p - q))[:-1] * np.diff(places)).sum())


def feature_drift(tvd: float, hellinger: float) -> float:
    """Drift of one feature, (TVD + Hellinger) / 2. In [0, 1], no unit. Source: MLRun."""
    return (tvd + hellinger) / 2


def batch_drift(tvds: Sequence[float], hellingers: Sequence[float]) -> float:
    """Drift of a batch, (mean TVD + mean Hellinger) / 2 over its features. In [0, 1], no unit; ValueError without any. Source: MLRun."""
    if not len(tvds) or len(tvds) != len(hellingers):
        raise ValueError(f"batch drift needs a TVD and a Hellinger distance of each feature, given {len(tvds)} and {len(hellingers)}")
    return feature_drift(float(np.mean(tvds)), float(np.mean(hellingers)))


def status(drift: float, possible: float, detected: float) -> str:
    """'detected' from the threshold ``detected`` on, 'possible' from ``possible`` on, else 'none'; ValueError for NaN. Source: MLRun."""
    if math.isnan(drift):
        raise ValueError("drift must be a number, given NaN")
    if drift >= detected:
        return "detected"
    return "possible" if drift >= possible else "none"


def check_thresholds(possible: float, detected: float) -> None:
    """ValueError unless 0 < possible < detected < 1, shares of the drift's range [0, 1]. Source: MLRun."""
    if not 0 < possible < detected < 1:
        raise ValueError(
            f"possible_threshold and detected_threshold: got {possible} and {detected}; "
            "expected 0 < possible_threshold < detected_threshold < 1"
        )
