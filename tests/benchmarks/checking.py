"""What a contender has written in, its predictions by id out; and how far they are from another's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from benchmarks import data


class OutputError(Exception):
    """A contender wrote something else than every row, once, with a prediction that is a double."""


@dataclass(frozen=True)
class Comparison:
    """How the predictions of a run differ from the reference's.

    Attributes:
        rows: rows whose predictions differ, be it in the last bit.
        largest: the largest difference; infinite where only one of the two is a number.
        relative: the same as a part of the reference's largest prediction, sign aside.
        equal: no row differs, or, where the model has a tolerance, none by more.
    """

    rows: int
    largest: float
    relative: float
    equal: bool


def predictions(output: Path, rows: int, columns: int) -> np.ndarray:
    """The predictions of a folder of Parquet files, in the order of the ids 0 to ``rows - 1``.

    Raises:
        OutputError: columns of the source are missing, the prediction is no double or null, or an id is missing or there twice.
    """
    found = ds.dataset(output, partitioning="hive")
    strings = [f"s{i}" for i in range(len(data.STRINGS))]
    wanted = ["id", *data.feature_names(columns), *strings, "prediction", "score_date"]
    missing = [name for name in wanted if name not in found.schema.names]
    if missing:
        raise OutputError(f"columns are missing: {', '.join(missing)}")
    if found.schema.field("prediction").type != pa.float64():
        raise OutputError(f"the prediction is {found.schema.field('prediction').type}, not double")
    table = found.to_table(columns=["id", "prediction"])
    if table["prediction"].null_count:
        raise OutputError(f"{table['prediction'].null_count} predictions are null")
    ids = table["id"].to_numpy()
    order = np.argsort(ids, kind="stable")
    if not np.array_equal(ids[order], np.arange(rows)):
        raise OutputError(f"{len(ids)} rows with {len(np.unique(ids))} different ids, not those of the {rows} rows of the source")
    return table["prediction"].to_numpy()[order]  # type: ignore[no-any-return]


def compare(found: np.ndarray, reference: np.ndarray, tolerance: float) -> Comparison:
    """Compare two arrays of doubles of one length, bit for bit; any NaN is equal to any other."""
    both_nan = np.isnan(found) & np.isnan(reference)
    differs = (found.view(np.int64) != reference.view(np.int64)) & ~both_nan
    if not differs.any():
        return Comparison(0, 0.0, 0.0, equal=True)
    with np.errstate(invalid="ignore"):
        distance = np.abs(found[differs] - reference[differs])
    # infinity - infinity: two different infinities, or one and a NaN.
    largest = float(np.nan_to_num(distance, nan=np.inf, posinf=np.inf).max())
    finite = np.abs(reference[np.isfinite(reference)])
    scale = float(finite.max()) if len(finite) else 0.0
    relative = largest / scale if scale else float("inf")
    return Comparison(int(differs.sum()), largest, relative, equal=0 < tolerance >= relative)
