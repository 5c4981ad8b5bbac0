"""A failed batch is halved until exactly the bad rows are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from lakescore.engine.guard import GuardError
from lakescore.engine.isolation import ERROR_FIELD, VALUE_FIELD, describe, first_bad_row, isolate, shown


class Model:
    """Doubles x; breaks on the bad ones; remembers the sizes of its batches."""

    def __init__(self, *bad: float) -> None:
        self.bad = bad
        self.sizes: list[int] = []

    def __call__(self, frame: pd.DataFrame) -> pd.Series:
        self.sizes.append(len(frame))
        odd = frame["x"].isin(self.bad)
        if odd.any():
            raise ValueError(f"bad {frame['x'][odd].iloc[0]:g}")
        result: pd.Series = frame["x"] * 2
        return result


def frame_of(rows: int) -> pd.DataFrame:
    return pd.DataFrame({"x": np.arange(float(rows))})


def no_problems(rows: int) -> pd.Series:
    return pd.Series([None] * rows, dtype=object)


def test_a_batch_without_bad_rows_costs_one_call_and_is_passed_on_as_it_is() -> None:
    model = Model()

    result = isolate(frame_of(1000), no_problems(1000), model, "double")

    assert model.sizes == [1000]
    assert result[VALUE_FIELD].tolist() == [x * 2.0 for x in range(1000)]
    assert set(result[ERROR_FIELD]) == {""}


@pytest.mark.parametrize("bad", [(0,), (999,), (3, 4), (0, 500, 999), tuple(range(0, 1000, 7))])
def test_exactly_the_bad_rows_have_an_error_and_all_others_their_own_prediction(bad: tuple[int, ...]) -> None:
    result = isolate(frame_of(1000), no_problems(1000), Model(*bad), "double")

    good = [x for x in range(1000) if x not in bad]
    assert result[VALUE_FIELD][good].tolist() == [x * 2.0 for x in good]
    assert result[ERROR_FIELD][good].eq("").all()
    assert result[ERROR_FIELD][list(bad)].tolist() == [f"ValueError: bad {x}" for x in bad]


def test_one_bad_row_of_ten_thousand_costs_few_calls() -> None:
    model = Model(1234)

    isolate(frame_of(10_000), no_problems(10_000), model, "double")

    assert len(model.sizes) <= 30


def test_a_row_with_a_problem_is_not_given_to_the_model() -> None:
    model = Model()

    result = isolate(frame_of(3), pd.Series([None, "is odd", None]), model, "double")

    assert model.sizes == [2]
    assert result[ERROR_FIELD].tolist() == ["", "InputError: is odd", ""]
    assert result[VALUE_FIELD][[0, 2]].tolist() == [0.0, 4.0]


@pytest.mark.parametrize(
    ("declared", "dtype"), [("double", "float64"), ("long", "int64"), ("boolean", "bool"), ("float", "float32"), ("string", "object")]
)
def test_a_batch_of_bad_rows_only_still_has_the_declared_type(declared: str, dtype: str) -> None:
    result = isolate(frame_of(2), no_problems(2), Model(0, 1), declared)

    assert str(result[VALUE_FIELD].dtype) == dtype
    assert result[ERROR_FIELD].tolist() == ["ValueError: bad 0", "ValueError: bad 1"]


def test_structs_and_arrays_are_put_together_too() -> None:
    def predict(frame: pd.DataFrame) -> pd.DataFrame:
        if (frame["x"] == 1).any():
            raise ValueError("one")
        return pd.DataFrame({"a": frame["x"], "b": [[value] for value in frame["x"]]})

    array = {"type": "array", "elementType": "double", "containsNull": True}
    declared: Any = {"type": "struct", "fields": [{"name": "a", "type": "double"}, {"name": "b", "type": array}]}

    result = isolate(frame_of(3), no_problems(3), predict, declared)

    assert result["a"].tolist() == [0.0, 0.0, 2.0]
    assert result["b"].tolist() == [[0.0], [], [2.0]]


def test_the_first_bad_row_is_found_by_halving() -> None:
    model = Model(700, 900)

    found = first_bad_row(frame_of(1000), model)

    assert found is not None
    assert (found[0], str(found[1])) == (700, "bad 700")
    assert sum(model.sizes) <= 2_000


def test_a_batch_that_fails_only_as_a_whole_has_no_bad_row() -> None:
    def predict(frame: pd.DataFrame) -> None:
        if len(frame) > 1:
            raise MemoryError("too many")

    assert first_bad_row(frame_of(8), predict) is None


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\n  lines"), "ValueError: two lines"),
        (KeyError(), "KeyError: no reason given"),
        (OSError("no file caf\udce9.txt"), "OSError: no file caf\\udce9.txt"),
        (
            RuntimeError("It failed.\nTraceback of TorchScript (most recent call last):\n  <here>\nRuntimeError: odd shapes"),
            "RuntimeError: RuntimeError: odd shapes",
        ),
        (GuardError("model", "the model returned str"), "ModelError: the model returned str"),
    ],
)
def test_an_error_is_one_line_with_its_class(error: Exception, text: str) -> None:
    assert describe(error) == text


def test_a_row_is_shown_short() -> None:
    row = {"a": 1, "b": "x" * 100, "c": None, "d": 2, "e": 3, "f": 4}

    assert shown(row) == f"a=1, b={'x' * 60}, c=None, d=2, e=3, ..."
