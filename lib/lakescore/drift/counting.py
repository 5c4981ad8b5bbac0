"""Runs on executors: batches of columns in, their counts over a reference's bins out, in numpy alone.

Spark pickles this module by value: it may import nothing of Lakescore.

One task counts all of its batches and says so once, as a few hundred numbers; the driver adds the tasks up. Spark's own aggregates
were tried first: 20 columns of 4,000,000 doubles took 23 s and more as ``histogram_numeric``, and take 1 s so.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

# Distinct values of one column that are counted one by one while a reference is made; a column with more is no category.
MOST_VALUES = 1_000
# The column with what a task counted: null but in one row of each.
COUNTED_FIELD = "__lakescore_counted"


@dataclass(frozen=True)
class Bins:
    """Where the values of one column are counted.

    Attributes:
        edges: least, greatest and number of equal-width bins, as ``numpy.histogram(range=..., bins=...)`` has them; None: no numbers.
        values: the categories, texts or numbers; None: no categories.
        discovers: count whatever distinct values there are.
    """

    edges: tuple[float, float, int] | None = None
    values: tuple[Any, ...] | None = None
    discovers: bool = False


@dataclass
class Counts:
    """What was counted of one column.

    Attributes:
        rows: all of them; nulls, nan: nulls and NaN where they can be told apart, else both are in ``missing``.
        negative_infinite, positive_infinite: rows.
        bins: underflow, the bins, overflow; or the categories, and all others.
        total, squares: sums of the finite values, and of their squares, both less ``origin``.
        least, greatest: of the finite values; None where there are none.
        found: the distinct values with their counts, while a reference is made; None: not asked, or more than
            ``MOST_VALUES``.
    """

    origin: float = 0.0
    rows: int = 0
    nulls: int = 0
    missing: int = 0
    negative_infinite: int = 0
    positive_infinite: int = 0
    bins: list[int] = field(default_factory=list)
    total: float = 0.0
    squares: float = 0.0
    least: float | None = None
    greatest: float | None = None
    found: dict[Any, int] | None = None

    def add(self, other: Counts) -> None:
        """Add what was counted elsewhere over the same bins."""
        for name in ("rows", "nulls", "missing", "negative_infinite", "positive_infinite", "total", "squares"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.bins = [a + b for a, b in zip(self.bins, other.bins, strict=True)]
        self.least = min((v for v in (self.least, other.least) if v is not None), default=None)
        self.greatest = max((v for v in (self.greatest, other.greatest) if v is not None), default=None)


class _Numbers:
    """One column of numbers over its bins."""

    def __init__(self, low: float, high: float, size: int) -> None:
        self._low, self._high, self._size = low, high, size
        self._edges = np.linspace(low, high, size + 1)
        self._origin = _origin(low, high)

    def count(self, x: np.ndarray) -> Counts:
        """What is in one batch of doubles."""
        if not len(x):
            return Counts(bins=[0] * (self._size + 2))
        with np.errstate(all="ignore"):
            moved = x - self._origin
            squares = float(np.dot(moved, moved))
            if not np.isfinite(squares):  # NaN or infinite values, or sums that no double holds
                return self._count_apart(x)
            return self._count_finite(x, moved, squares)

    def _count_apart(self, x: np.ndarray) -> Counts:
        finite = x[np.isfinite(x)]
        moved = finite - self._origin
        counts = self._count_finite(finite, moved, float(np.dot(moved, moved))) if len(finite) else self.count(finite)
        counts.rows, counts.missing = len(x), int(np.count_nonzero(np.isnan(x)))
        counts.negative_infinite = int(np.count_nonzero(x == -np.inf))
        counts.positive_infinite = len(x) - len(finite) - counts.missing - counts.negative_infinite
        return counts

    def _count_finite(self, x: np.ndarray, moved: np.ndarray, squares: float) -> Counts:
        least, greatest, total = float(x.min()), float(x.max()), float(moved.sum())
        under = over = 0
        if least < self._low or greatest > self._high:
            below, above = x < self._low, x > self._high
            under, over = int(np.count_nonzero(below)), int(np.count_nonzero(above))
            x = x[~(below | above)]
        # As numpy.histogram does it: the bin by division, then mended by comparing with the edges themselves.
        bin_ = ((x - self._low) / (self._high - self._low) * self._size).astype(np.intp)
        bin_[bin_ == self._size] -= 1
        bin_ -= x < self._edges[bin_]
        bin_ += (x >= self._edges[bin_ + 1]) & (bin_ != self._size - 1)
        bins = [under, *np.bincount(bin_, minlength=self._size).tolist(), over]
        return Counts(rows=len(moved), bins=bins, total=total, squares=squares, least=least, greatest=greatest)


class Counter:
    """Counts columns, batch by batch."""

    def __init__(self, bins: Mapping[str, Bins]) -> None:
        self.counts = {name: _nothing(one) for name, one in bins.items()}
        self._numbers = {name: _Numbers(*one.edges) for name, one in bins.items() if one.edges is not None}
        self._tables = {name: pd.Index(one.values) for name, one in bins.items() if one.values is not None}
        self._others = [name for name, one in bins.items() if one.edges is None and one.values is None]
        self._discovers = [name for name, one in bins.items() if one.discovers]

    def update(self, columns: Mapping[str, Any], nulls: Mapping[str, int] | None = None) -> None:
        """Count one batch.

        Args:
            columns: values by name: numbers and booleans as an array or Series, texts as a Series.
            nulls: how many of the missing values are null; without it that is not known.
        """
        for name, numbers in self._numbers.items():
            self.counts[name].add(numbers.count(as_floats(columns[name])))
        for name, table in self._tables.items():
            self.counts[name].add(_in_categories(table, pd.Series(columns[name])))
        for name in self._others:
            self.counts[name].add(Counts(rows=len(columns[name]), missing=int(pd.isna(columns[name]).sum())))
        for name in self._discovers:
            self._discover(self.counts[name], pd.Series(columns[name]))
        for name, count in (nulls or {}).items():
            self.counts[name].nulls += count

    @staticmethod
    def _discover(counts: Counts, values: pd.Series) -> None:
        if counts.found is None:
            return
        for value, count in values.value_counts(dropna=True).items():
            key = value.item() if isinstance(value, np.generic) else value
            counts.found[key] = counts.found.get(key, 0) + int(count)
        if len(counts.found) > MOST_VALUES:
            counts.found = None


def _in_categories(table: pd.Index, values: pd.Series) -> Counts:
    missing = int(values.isna().sum())
    is_number = table.dtype.kind == "f"
    known = table.get_indexer(pd.Index(as_floats(values)) if is_number else pd.Index(values.astype(object)))
    found = np.bincount(known[known >= 0], minlength=len(table))
    counts = Counts(rows=len(values), missing=missing, bins=[*map(int, found), len(values) - missing - int(found.sum())])
    if is_number and missing < len(values):
        numbers = as_floats(values)
        numbers = numbers[~np.isnan(numbers)]
        counts.total, counts.squares = float(numbers.sum()), float(np.dot(numbers, numbers))
        counts.least, counts.greatest = float(numbers.min()), float(numbers.max())
    return counts


def to_bytes(counts: Mapping[str, Counts]) -> bytes:
    """All counts of one task, to be sent to the driver."""
    rows = [[name, *_as_list(one)] for name, one in counts.items()]
    return zlib.compress(json.dumps(rows).encode(), 1)


def add_up(bins: Mapping[str, Bins], parts: Iterable[bytes]) -> dict[str, Counts]:
    """What all tasks counted together.

    Args:
        bins: the same that the tasks had.
        parts: what ``to_bytes`` gave in each.
    """
    whole = {name: _nothing(one) for name, one in bins.items()}
    for part in parts:
        for name, *values in json.loads(zlib.decompress(part)):
            one = _from_list(values)
            whole[name].add(one)
            whole[name].found = _together(whole[name].found, one.found)
    return whole


def _together(first: dict[Any, int] | None, second: dict[Any, int] | None) -> dict[Any, int] | None:
    """Distinct values of two tasks; None where they are not known, or too many."""
    if first is None or second is None:
        return None
    both = {value: first.get(value, 0) + second.get(value, 0) for value in {**first, **second}}
    return both if len(both) <= MOST_VALUES else None


def as_floats(values: Any) -> np.ndarray:
    """Numbers or booleans, None among them or not, as doubles; null becomes NaN."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values.astype(np.float64, copy=False)
    series = values if isinstance(values, pd.Series) else pd.Series(values)
    if series.dtype == object:
        return np.array([np.nan if value is None else value for value in series], float)
    return np.asarray(series.to_numpy(dtype=float, na_value=np.nan))


def element(values: Iterable[Any], index: int) -> np.ndarray:
    """One element of each array; NaN where there is none."""
    return np.array([np.nan if one is None or len(one) <= index else one[index] for one in values], float)


@dataclass(frozen=True)
class Columns:
    """What is counted of Arrow batches.

    Attributes:
        bins: by name.
        aliases: what each is called in the batches.
        floats: the names of those in which NaN is not null.
    """

    bins: Mapping[str, Bins]
    aliases: Mapping[str, str]
    floats: tuple[str, ...]

    def count(self, counter: Counter, batch: pa.RecordBatch) -> None:
        """Count one batch."""
        values = {name: batch.column(alias) for name, alias in self.aliases.items()}
        counter.update({name: one.to_pandas() for name, one in values.items()}, {name: values[name].null_count for name in self.floats})


def passing(columns: Columns) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For ``mapInArrow``: the rows without the columns that are counted, and with ``COUNTED_FIELD``, last."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counter = Counter(columns.bins)
        last: pa.RecordBatch | None = None
        for batch in batches:
            if not batch.num_rows:
                continue
            columns.count(counter, batch)
            if last is not None:
                yield last.append_column(COUNTED_FIELD, pa.nulls(last.num_rows, pa.binary()))
            last = batch.drop_columns(list(columns.aliases.values()))
        if last is not None:
            counted = [None] * (last.num_rows - 1) + [to_bytes(counter.counts)]
            yield last.append_column(COUNTED_FIELD, pa.array(counted, pa.binary()))

    return run


def counter_of(columns: Columns) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """For ``mapInArrow``: one row for each task, what it counted, as ``COUNTED_FIELD``."""

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counter = Counter(columns.bins)
        for batch in batches:
            columns.count(counter, batch)
        yield pa.RecordBatch.from_pydict({COUNTED_FIELD: pa.array([to_bytes(counter.counts)], pa.binary())})

    return run


@dataclass(frozen=True)
class Watch:
    """What is counted of the rows that pass a model, and where it stands.

    Attributes:
        features: the bins by name, and the columns of the model's input.
        predictions: the bins by name, and of each the field of a struct (None: there is none) and the element of an array (None: no array).
        value, error: columns of the answer: a prediction that is no struct, and why a row has none.
    """

    features: Mapping[str, tuple[Bins, str]]
    predictions: Mapping[str, tuple[Bins, str | None, int | None]]
    value: str
    error: str


def watched(answers: Callable[[Iterator[pd.DataFrame]], Iterator[Any]], watch: Watch) -> Callable[..., Iterator[pd.DataFrame]]:
    """An iterator UDF that counts what goes into another one and what comes out of it, and says it in ``COUNTED_FIELD``.

    The batch before is held back until there is one more, so that the last one can say what all of them had.

    Args:
        answers: the other one: frames of features in, a Series or frame of predictions for each out.
        watch: what is counted.
    """

    def run(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        features = Counter({name: bins for name, (bins, _) in watch.features.items()})
        predictions = Counter({name: bins for name, (bins, _, _) in watch.predictions.items()})
        waiting: list[pd.DataFrame] = []

        def seen() -> Iterator[pd.DataFrame]:
            for batch in batches:
                if len(batch):  # spark_udf answers nothing to an empty one
                    waiting.append(batch)
                yield batch

        last: pd.DataFrame | None = None
        for answer in answers(seen()):
            batch = waiting.pop(0)
            features.update({name: batch[column] for name, (_, column) in watch.features.items()})
            answer = answer.to_frame(watch.value) if isinstance(answer, pd.Series) else answer
            predictions.update(of_answer(answer, watch))
            if last is not None:
                yield last
            last = answer.assign(**{COUNTED_FIELD: None})
        if last is not None:
            last.iloc[-1, -1] = to_bytes({**features.counts, **predictions.counts})
            yield last

    return run


def of_answer(answer: pd.DataFrame, watch: Watch) -> dict[str, Any]:
    """The watched predictions of a model's answer by name; rows without one, which failed, are left out."""
    if watch.error in answer.columns:
        error = answer[watch.error]
        answer = answer[error.isna() | (error == "")]
    found = {}
    for name, (_, field_, index) in watch.predictions.items():
        values = answer[watch.value if field_ is None else field_]
        found[name] = values if index is None else element(values, index)
    return found


def _origin(low: float, high: float) -> float:
    """Sums of squares keep their digits, if a value in the middle is taken off first."""
    return low / 2 + high / 2


def _nothing(bins: Bins) -> Counts:
    cells = len(bins.values) + 1 if bins.values is not None else bins.edges[2] + 2 if bins.edges is not None else 0
    origin = _origin(*bins.edges[:2]) if bins.edges is not None else 0.0
    return Counts(origin=origin, bins=[0] * cells, found={} if bins.discovers else None)


_FIELDS = ("rows", "nulls", "missing", "negative_infinite", "positive_infinite", "bins", "total", "squares", "least", "greatest")


def _as_list(counts: Counts) -> list[Any]:
    return [*(getattr(counts, name) for name in _FIELDS), None if counts.found is None else list(counts.found.items())]


def _from_list(values: Sequence[Any]) -> Counts:
    *plain, found = values
    return Counts(**dict(zip(_FIELDS, plain, strict=True)), found=None if found is None else dict(found))
