"""Small frames become larger ones, within limits, in order, and of the types that they had."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lakescore.engine.gathering import gathered

LARGE = 1 << 30


def _frames(*lengths: int) -> list[pd.DataFrame]:
    ends = np.cumsum(lengths)
    return [pd.DataFrame({"x": np.arange(end - length, end)}) for end, length in zip(ends, lengths, strict=True)]


def _lengths(frames: list[pd.DataFrame], rows: int = LARGE, size: int = LARGE) -> list[int]:
    return [len(frame) for frame in gathered(iter(frames), rows, size)]


def test_neighbours_are_joined_up_to_the_limit_in_order_and_with_a_fresh_index() -> None:
    found = list(gathered(iter(_frames(4, 4, 4, 3)), 8, LARGE))

    assert [frame["x"].tolist() for frame in found] == [list(range(8)), list(range(8, 15))]
    assert all(frame.index.equals(pd.RangeIndex(len(frame))) for frame in found)


def test_a_frame_that_is_larger_than_the_limit_stays_as_it_is() -> None:
    assert _lengths(_frames(2, 9, 2, 2), rows=5) == [2, 9, 4]


def test_empty_frames_are_left_out() -> None:
    assert _lengths(_frames(0, 3, 0, 2, 0)) == [5]
    assert _lengths(_frames(0)) == []


def test_bytes_limit_wide_rows_whatever_their_type() -> None:
    texts = [pd.DataFrame({"t": ["x" * 1000] * 10}) for _ in range(4)]
    arrays = [pd.DataFrame({"a": [np.zeros(125) for _ in range(10)]}) for _ in range(4)]
    numbers = [pd.DataFrame(np.zeros((10, 125))) for _ in range(4)]

    for frames in (texts, arrays, numbers):
        assert _lengths(frames, size=20_000) == [20, 20]


def test_frames_of_other_types_are_not_joined() -> None:
    """An integer beyond 2**53 would lose its last digit beside a null."""
    whole = pd.DataFrame({"x": [2**53 + 1]})
    with_null = pd.DataFrame({"x": [1.0, np.nan]})

    found = list(gathered(iter([whole, whole, with_null, whole]), LARGE, LARGE))

    assert [frame["x"].tolist()[0] for frame in found] == [2**53 + 1, 1.0, 2**53 + 1]
    assert [frame["x"].dtype.kind for frame in found] == ["i", "f", "i"]


def test_columns_of_one_name_stay_apart() -> None:
    frames = [pd.DataFrame([[1, "a"]], columns=["x", "x"]), pd.DataFrame([[2, "b"]], columns=["x", "x"])]

    (found,) = gathered(iter(frames), LARGE, LARGE)

    assert found.to_numpy().tolist() == [[1, "a"], [2, "b"]]
