"""Names for inline rows that are plain lists."""

from __future__ import annotations

from typing import Any

import pytest

from lakescore.inline_rows import names_of

ROW = [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("features", "positions", "selected", "expected"),
    [
        (["a", "b", "c"], (0, 2), False, ["_c0", "a", "_c2", "b", "c"]),
        (["a", "b"], (4, 1), True, ["_c0", "b", "_c2", "_c3", "a"]),
        (["_c0", "b", "c"], (0, 2), False, ["_c0_dropped", "_c0", "_c2", "b", "c"]),
        (["a", "b"], (0, 2), False, ["a", "b"]),
        (["a", "b", "c", "d", "e"], (), False, ["a", "b", "c", "d", "e"]),
        (["a", "b", "c"], (0, "x"), False, ["a", "b", "c"]),
        (["a"], (7,), True, ["a"]),
    ],
)
def test_lists_take_the_features_names_where_as_many_are_chosen_by_position(
    features: list[str], positions: tuple[Any, ...], selected: bool, expected: list[str]
) -> None:
    assert names_of([ROW, ROW], features, positions, selected) == expected


@pytest.mark.parametrize("rows", [None, [], [{"x": 1.0}], {"x": [1.0], "y": [2.0]}])
def test_other_rows_have_names_of_their_own(rows: Any) -> None:
    assert names_of(rows, ["a"], (0,), False) == ["a"]
