"""Results of run() find their items, and exceptions their place in the script."""

from __future__ import annotations

import enum
import json
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lakescore.engine.script_process import WrongResultError, failure, matched

FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y z"]})


def values(result: Any, count: int, shape: str = "text", paths: list[str] | None = None) -> dict[int, Any]:
    answer = matched(result, count, paths, shape)
    return dict(zip(answer["positions"], answer["values"], strict=True))


@pytest.mark.parametrize("result", [["1", "2"], ("1", "2"), [1, 2], np.array([1, 2]), pd.Series([1, 2])])
def test_as_many_results_as_items_go_by_position_and_become_text(result: Any) -> None:
    assert values(result, 2) == {0: "1", 1: "2"}


def test_none_is_a_result_which_is_null() -> None:
    assert values(["a", None], 2) == {0: "a", 1: None}


@pytest.mark.parametrize(
    ("shape", "rows"),
    [("text", ["1 x", '2 "y z"']), ("struct", [{"a": 1, "b": "x"}, {"a": 2, "b": "y z"}]), ("array", [[1, "x"], [2, "y z"]])],
)
def test_a_frames_rows_are_what_a_result_is_to_be(shape: str, rows: list[Any]) -> None:
    assert list(values(FRAME, 2, shape).values()) == rows


def test_a_frame_with_one_column_has_plain_values() -> None:
    assert values(FRAME[["a"]], 2, "scalar") == {0: 1, 1: 2}


def test_a_frame_with_two_columns_is_no_plain_value() -> None:
    with pytest.raises(WrongResultError, match=r"a DataFrame with 2 columns, and model\.result_type is one value"):
        values(FRAME, 2, "scalar")


def test_rows_that_kept_their_labels_go_by_them() -> None:
    batch = pd.DataFrame({"x": [3, 1, 2]})

    assert values(batch.sort_values("x")["x"], 3, "scalar") == {0: 3, 1: 1, 2: 2}
    assert values(batch[batch["x"] > 1]["x"], 3, "scalar") == {0: 3, 2: 2}


def test_labels_of_another_kind_count_for_nothing() -> None:
    assert values(pd.Series([5, 6], index=["b", "a"]), 2, "scalar") == {0: 5, 1: 6}
    assert values(pd.Series([5, 6], index=[7, 8]), 2, "scalar") == {0: 5, 1: 6}


def test_fewer_results_take_the_first_items_and_are_called_unsure() -> None:
    assert values(["a", "b", "c"], 5) == {0: "a", 1: "b", 2: "c"}
    batch = pd.DataFrame({"x": [3, 1, 2]})
    kept = batch[batch["x"] < 3]
    some = [["a"], kept, kept.reset_index(drop=True), batch[batch["x"] != 2], batch.iloc[1:], batch]

    assert [matched(one, 3, None, "text")["unsure"] for one in some] == [True, False, True, False, False, False]


def test_results_that_name_their_files_in_another_order_go_by_the_names() -> None:
    assert values(["b.png: cat", "a.png: dog"], 2, paths=["/in/a.png", "/in/b.png"]) == {1: "b.png: cat", 0: "a.png: dog"}
    assert values(["b.png: cat", "b.png: dog"], 2, paths=["/in/a.png", "/in/b.png"]) == {0: "b.png: cat", 1: "b.png: dog"}
    assert values(["2", "1"], 2, paths=["/in/1", "/in/2"]) == {0: "2", 1: "1"}


class _Level(enum.IntEnum):
    HIGH = 3


class _Color(enum.Enum):
    RED = "red"


@pytest.mark.parametrize(("value", "plain"), [(_Level.HIGH, 3), (_Color.RED, "red"), (np.float64(0.1), 0.1), (np.str_("a"), "a")])
def test_no_value_needs_the_scripts_classes(value: Any, plain: Any) -> None:
    (left,) = matched([value], 1, None, "scalar")["values"]

    assert (type(left), left) == (type(plain), plain)


def test_an_array_as_text_has_all_its_digits_and_elements() -> None:
    row = np.random.default_rng(0).random(1_536)

    (line,) = matched(np.array([row]), 1, None, "text")["values"]

    assert json.loads(line) == row.tolist()
    assert matched([array("d", [0.1, 2.0]), np.float64(0.5)], 2, None, "text")["values"] == ["[0.1, 2.0]", "0.5"]


def test_fewer_results_that_name_their_files_go_by_the_name() -> None:
    paths = ["/in/a.csv", "/in/b.csv", "/in/b.csv.gz"]

    assert values(["b.csv.gz: 5", "a.csv: 4"], 3, paths=paths) == {2: "b.csv.gz: 5", 0: "a.csv: 4"}
    assert values(["b.csv: 5"], 3, paths=paths) == {1: "b.csv: 5"}


def test_names_that_two_files_have_are_not_taken_for_one_of_them() -> None:
    assert values(["a.csv: 5"], 2, paths=["/x/b.csv", "/y/b.csv"]) == {0: "a.csv: 5"}
    assert values(["b.csv: 5"], 3, paths=["/w/a.csv", "/x/b.csv", "/y/b.csv"]) == {0: "b.csv: 5"}


def test_more_results_than_items_are_only_counted() -> None:
    assert matched([1, 2, 3], 2, None, "text") == {"returned": 3, "positions": [], "values": [], "unsure": False}


@pytest.mark.parametrize("result", [None, "text", {"a": 1}, 5, iter([1])])
def test_what_is_no_list_is_refused_by_its_type(result: Any) -> None:
    with pytest.raises(WrongResultError, match=f"run returned {type(result).__name__}; it must return a list"):
        matched(result, 1, None, "text")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.array([1, 2]), [1, 2]),
        ({"a": np.int64(1)}, {"a": 1}),
        ((1, [np.bool_(True)]), [1, [True]]),
        (pd.Timestamp("2026-01-31"), pd.Timestamp("2026-01-31").to_pydatetime()),
        (np.datetime64("2026-01-31", "ns"), pd.Timestamp("2026-01-31").to_pydatetime()),
        (pd.NA, None),
    ],
)
def test_values_leave_without_the_libraries_that_made_them(value: Any, plain: Any) -> None:
    (left,) = matched([value], 1, None, "scalar")["values"]

    assert left == plain
    assert type(left) is type(plain)


def test_an_object_of_the_scripts_own_is_refused() -> None:
    with pytest.raises(WrongResultError, match="a result of type Path"):
        matched([type("Path", (), {})()], 1, None, "scalar")


def test_an_exceptions_place_is_the_innermost_one_in_the_scripts_folder(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("import json\ndef run(x):\n    return json.loads(x)\n")
    space: dict[str, Any] = {}
    exec(compile((tmp_path / "score.py").read_text(), str(tmp_path / "score.py"), "exec"), space)

    try:
        space["run"]("{")
    except ValueError as error:
        reply = failure(error, str(tmp_path))

    assert (reply["class"], reply["file"], reply["line"]) == ("json.decoder.JSONDecodeError", "score.py", 3)
    assert reply["trace"].rstrip().endswith("JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)")
    assert str(tmp_path) not in reply["trace"]
