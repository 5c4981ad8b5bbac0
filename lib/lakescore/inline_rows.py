"""``source.rows`` in, an Arrow table out: a list of mappings, a list of lists, or a mapping of lists.

Types come from the values (an integer among floats is a float), or from ``source.schema``, whose names must then be the rows' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lakescore import frames
from lakescore.errors import InputError, did_you_mean, listing

Rows = Sequence[Any] | Mapping[Any, Any]


def table(rows: Rows, schema: pa.Schema | None, feature_names: Sequence[str]) -> pa.Table:
    """Make the table.

    Args:
        rows: as configured.
        schema: the types of ``source.schema``; None where there is none.
        feature_names: names for rows that are plain lists, where there are as many.

    Raises:
        InputError: naming the column, or what the rows should look like.
    """
    columns = _columns(rows, list(schema.names) if schema is not None else list(feature_names))
    columns = {name: [_plain(value) for value in values] for name, values in columns.items()}
    if schema is None:
        return frames.for_spark(pa.table({name: _array(name, values, None) for name, values in columns.items()}), "source.rows")
    _refuse_other_names(list(columns), list(schema.names))
    return pa.table({field.name: _array(field.name, columns[field.name], field.type) for field in schema}, schema=schema)


def names_of(rows: Rows | None, features: Sequence[str], positions: Sequence[int | str], selected: bool) -> list[str]:
    """Names for rows that are plain lists: the features', where there are as many columns, or where as many are chosen by position.

    Args:
        rows: as configured.
        features: the model's inputs, in its order.
        positions: those of ``columns.select`` or ``columns.drop``; selected: which of the two.

    Returns:
        ``[0, 2]`` dropped of rows of five and a model of ``a``, ``b`` and ``c``: ``_c0``, ``a``, ``_c2``, ``b``, ``c``. Elsewhere the
        features' names, which ``table`` takes if they are as many as the columns.
    """
    first = rows[0] if isinstance(rows, Sequence) and rows else None
    chosen = [position for position in positions if isinstance(position, int)]
    if not isinstance(first, (list, tuple)) or not chosen or len(chosen) < len(positions):
        return list(features)
    left = chosen if selected else [i for i in range(len(first)) if i not in chosen]
    if len(left) != len(features) or any(position >= len(first) for position in left):
        return list(features)
    names = dict(zip(left, features, strict=True))
    others = [f"_c{i}" if f"_c{i}" not in features else f"_c{i}_dropped" for i in range(len(first))]
    return [names.get(i, others[i]) for i in range(len(first))]


def _columns(rows: Rows, names: list[str]) -> dict[str, list[Any]]:
    if isinstance(rows, Mapping):
        _refuse_same_names(rows)
        lengths = {str(name): len(values) for name, values in rows.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"source.rows: the columns have different lengths: {listing(f'{k} {v}' for k, v in lengths.items())}")
        return {str(name): list(values) for name, values in rows.items()}
    if not rows:
        return {name: [] for name in names}
    if all(isinstance(row, Mapping) for row in rows):
        for row in rows:
            _refuse_same_names(row)
        texts = [{str(name): value for name, value in row.items()} for row in rows]
        return {name: [row.get(name) for row in texts] for name in dict.fromkeys(name for row in texts for name in row)}
    if not all(isinstance(row, (list, tuple)) for row in rows):
        raise InputError("source.rows: expected a list of mappings, a list of lists or a mapping of lists")
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        raise InputError(f"source.rows: the rows have different lengths: {listing(widths)}")
    if len(names) != widths[0]:
        names = [f"_c{i}" for i in range(widths[0])]
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's own, and pandas' missing values as None: Arrow takes some of them for what they are not."""
    if value is pd.NaT or value is pd.NA:
        return None
    if isinstance(value, np.datetime64):
        exact = value.astype("datetime64[us]")
        return exact.item() if exact == value or np.isnat(value) else value  # finer ones are refused below
    return value.item() if isinstance(value, np.generic) else value


def _refuse_same_names(row: Mapping[Any, Any]) -> None:
    names = [str(name) for name in row]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"source.rows: the name {twice!r} is there twice, as text and as a number")


def _array(name: str, values: list[Any], kind: pa.DataType | None) -> pa.Array:
    frames.refuse_mixed_times(f"source.rows: column {name!r}", values)
    try:
        array = pa.array(values) if values or kind is not None else pa.array([], pa.string())
        return array if kind is None else array.cast(kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"source.rows: column {name!r}: {str(error).splitlines()[0]}") from error


def _refuse_other_names(found: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in found:
            raise InputError(
                f"source.schema: the rows have no column {name!r}.{did_you_mean(name, found) or f' They have {listing(found)}.'}"
            )
    for name in found:
        if name not in wanted:
            raise InputError(f"source.rows: the column {name!r} is not in source.schema.{did_you_mean(name, wanted)}")
