"""Runs on executors: small pandas frames in, larger ones with the same rows in the same order out.

Spark hands a Python worker some 4,000 to 10,000 rows at a time; many models cost more for each call than for each row. Imports
nothing of Lakescore, because it is shipped beside ``guard.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

# Values of a column of objects that are measured for the size of all.
_SAMPLE = 64


def gathered(frames: Iterator[pd.DataFrame], rows: int, size: int) -> Iterator[pd.DataFrame]:
    """Join neighbours, as long as neither limit is passed and the types stay the same.

    A column's type depends on the nulls that a batch happens to have (integers with a null are doubles, and lose their digits), so
    frames of other types are not joined: no model sees a type that it would not have seen without joining.

    Args:
        frames: of the same columns; empty ones are left out.
        rows: at most in one frame, unless one comes that is larger.
        size: bytes, likewise; columns of objects are estimated.
    """
    waiting: list[pd.DataFrame] = []
    waiting_rows = waiting_size = 0
    for frame in frames:
        if not len(frame):
            continue
        frame_size = _size(frame)
        if waiting and (
            waiting_rows + len(frame) > rows or waiting_size + frame_size > size or not frame.dtypes.equals(waiting[-1].dtypes)
        ):
            yield _joined(waiting)
            waiting, waiting_rows, waiting_size = [], 0, 0
        waiting.append(frame)
        waiting_rows, waiting_size = waiting_rows + len(frame), waiting_size + frame_size
    if waiting:
        yield _joined(waiting)


def _joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def _size(frame: pd.DataFrame) -> int:
    """Bytes that a frame holds."""
    step = max(len(frame) // _SAMPLE, 1)
    size = 0.0
    for position, kind in enumerate(frame.dtypes):
        values = frame.iloc[:, position]
        if kind.kind == "O":
            sample = [_size_of(value) for value in values.iloc[::step]]
            size += sum(sample) / len(sample) * len(frame)
        else:
            size += values.memory_usage(index=False)
    return int(size)


def _size_of(value: Any) -> int:
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.nbytes
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if isinstance(value, dict):
        return sum(_size_of(item) for item in value.values())
    return sum(_size_of(item) for item in value) if isinstance(value, (list, tuple, np.ndarray)) else 8
