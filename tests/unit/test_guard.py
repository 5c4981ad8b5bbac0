"""What a model returns, held against what it declares: passed on unchanged, or refused with both sides named."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeRegressor

from lakescore.engine.guard import Guard, GuardError, _load_pyfunc, conform, in_order, refuse_nulls

TEXT_NULL = (
    "null(s) among its text predictions, which mlflow.pyfunc.spark_udf would write as the text 'None'; make it return a text for every row"
)


def array_of(element: Any) -> dict[str, Any]:
    return {"type": "array", "elementType": element, "containsNull": True}


def struct_of(**fields: Any) -> dict[str, Any]:
    return {"type": "struct", "fields": [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in fields.items()]}


def map_of(value: Any) -> dict[str, Any]:
    return {"type": "map", "keyType": "string", "valueType": value, "valueContainsNull": True}


def refused(raw: Any, declared: Any, rows: int) -> str:
    """The text with which predictions are refused, without its marks."""
    with pytest.raises(GuardError) as caught:
        conform(raw, declared, rows)
    found = re.fullmatch(r"\[lakescore:model\] (.*) \[/lakescore\]", str(caught.value))
    assert found
    return found.group(1)


def mismatch(declared: str, found: str) -> str:
    hint = "log it with a signature that fits, or set model.result_type"
    return f"the model declares predictions of type {declared} and returned {found}; {hint}"


# --- as many predictions as rows


@pytest.mark.parametrize(
    ("raw", "found", "rows"),
    [
        (np.array([1.0, 2.0]), 2, 3),
        ([1.0, 2.0], 2, 1),
        ([], 0, 1),
        (pd.Series([1.0]), 1, 2),
        (pd.DataFrame({"a": [1.0]}), 1, 2),
        ({"a": [1.0]}, 1, 2),
        ({}, 0, 1),
        (5.0, 1, 2),
        (None, 1, 2),
        (np.array([[1.0, 2.0, 3.0]]), 1, 3),
    ],
)
def test_another_number_of_predictions_is_refused_with_both_counts(raw: Any, found: int, rows: int) -> None:
    message = f"the model returned {found} prediction(s) for a batch of {rows} row(s); it must return one for each"

    assert refused(raw, "double", rows) == message


# --- one scalar for each row


@pytest.mark.parametrize(
    "raw",
    [
        np.array([1.5, 2.5]),
        np.array([[1.5], [2.5]]),
        pd.Series([1.5, 2.5], index=[7, 3]),
        pd.DataFrame({"a": [1.5, 2.5]}, index=[7, 3]),
        [1.5, 2.5],
        [[1.5], [2.5]],
        (1.5, 2.5),
        {"a": [1.5, 2.5]},
    ],
)
def test_every_form_of_one_column_becomes_the_same_series(raw: Any) -> None:
    pd.testing.assert_series_equal(conform(raw, "double", 2), pd.Series([1.5, 2.5]), check_names=False)


@pytest.mark.parametrize("wrap", [lambda raw: raw, pd.Series.to_frame, lambda raw: {"a": raw}], ids=["series", "frame", "mapping"])
def test_predictions_in_another_order_go_to_the_rows_whose_labels_they_have(wrap: Any) -> None:
    raw = pd.Series([0.0, 20.0, 10.0], index=[0, 2, 1], name="a")

    found = conform(in_order(wrap(raw), pd.RangeIndex(3)), "double", 3)

    assert found.tolist() == [0.0, 10.0, 20.0]


@pytest.mark.parametrize(
    "labels", [[1, 2, 3], ["b", "a", "c"], [0, 0, 1], [2.0, 1.0, 0.0], pd.to_datetime(["2026-01-03", "2026-01-02", "2026-01-01"])]
)
def test_labels_that_are_not_the_rows_say_nothing(labels: Any) -> None:
    raw = pd.Series([1.0, 2.0, 3.0], index=labels)

    assert in_order(raw, pd.RangeIndex(3)) is raw


@pytest.mark.parametrize(
    ("values", "declared", "kind"),
    [([1.5, 2.5], "double", "float64"), ([1, 2], "long", "int64"), ([True, False], "boolean", "bool")],
)
def test_numbers_among_objects_are_what_they_are(values: list[Any], declared: str, kind: str) -> None:
    found = conform(pd.Series(values, dtype=object), declared, 2)

    assert (found.tolist(), str(found.dtype)) == (values, kind)


@pytest.mark.parametrize(
    ("values", "declared"),
    [
        (np.array([1, 2]), "double"),
        (np.array([2**53]), "double"),
        (np.array([-(2**53)]), "double"),
        (np.array([1.5], dtype="float32"), "double"),
        (np.array([1.5], dtype="float32"), "float"),
        (np.array([2**24]), "float"),
        (np.array([1], dtype="int32"), "long"),
        (np.array([1], dtype="uint32"), "long"),
        (np.array([1], dtype="int16"), "integer"),
        (np.array([True]), "boolean"),
        (np.array(["2026-01-31"], dtype="datetime64[ns]"), "timestamp"),
        (np.array([], dtype=float), "double"),
    ],
)
def test_values_that_the_declared_type_holds_exactly_pass_unchanged(values: Any, declared: str) -> None:
    assert conform(values, declared, len(values)).tolist() == pd.Series(values).tolist()


@pytest.mark.parametrize(
    ("values", "declared", "found"),
    [
        (np.array([2**53 + 1]), "double", "int64"),
        (np.array([-(2**53) - 1]), "double", "int64"),
        (np.array([2**24 + 1]), "float", "int64"),
        (np.array([1.5]), "float", "float64"),
        (np.array([1]), "integer", "int64"),
        (np.array([1], dtype="uint64"), "long", "uint64"),
        (np.array([1], dtype="uint32"), "integer", "uint32"),
        (np.array([1.0]), "long", "float64"),
        (np.array([True]), "double", "bool"),
        (np.array([True]), "long", "bool"),
        (np.array([1]), "boolean", "int64"),
        (np.array(["1.5"]), "double", "str"),
        (np.array([1]), "string", "int"),
        (np.array([b"a"]), "string", "bytes"),
        (["a"], "timestamp", "str"),
        ([1.5], "date", "float64"),
        (pd.Series([1.5, 2.5], dtype="category"), "double", "category"),
        (None, "double", "NoneType"),
    ],
)
def test_values_that_would_be_converted_are_refused_with_both_types(values: Any, declared: str, found: str) -> None:
    rows = 1 if values is None else len(values)

    assert refused(values, declared, rows) == mismatch(declared, found)


@pytest.mark.parametrize(
    ("values", "declared", "dtype"),
    [
        (np.array([1, 2], dtype="int32"), "long", "int64"),
        (np.array([1, 2], dtype="uint8"), "integer", "int32"),
        (np.array([1.5, 2.5], dtype="float16"), "double", "float64"),
        (np.array([1, 2]), "double", "float64"),
        (pd.Series([1, 2], dtype="Int64"), "long", "int64"),
        (pd.Series([1.5, 2.5], dtype="double[pyarrow]"), "double", "float64"),
        (pd.Series([True, False], dtype="boolean"), "boolean", "bool"),
        (pd.Series(["a", "b"], dtype="string[pyarrow]"), "string", "object"),
    ],
)
def test_predictions_leave_in_exactly_the_declared_type(values: Any, declared: str, dtype: str) -> None:
    made = conform(values, declared, 2)

    assert (made.dtype, made.tolist()) == (np.dtype(dtype), list(values))


@pytest.mark.parametrize(
    ("raw", "declared", "value"),
    [
        (1.5, "double", 1.5),
        (np.float64(1.5), "double", 1.5),
        (np.array(1.5), "double", 1.5),
        (7, "long", 7),
        ("a", "string", "a"),
        (b"a", "binary", b"a"),
        (True, "boolean", True),
        (pd.Timestamp("2026-01-31"), "timestamp", pd.Timestamp("2026-01-31")),
        ({"a": 1.5}, "double", 1.5),
    ],
)
def test_a_scalar_is_the_prediction_of_a_single_row(raw: Any, declared: str, value: Any) -> None:
    assert conform(raw, declared, 1).tolist() == [value]


def test_a_text_is_one_prediction_and_not_one_for_each_letter() -> None:
    assert refused("abc", "string", 3).startswith("the model returned 1 prediction(s) for a batch of 3 row(s)")


@pytest.mark.parametrize(("declared", "dtype"), [("long", "Int64"), ("boolean", "boolean")])
def test_a_null_where_the_type_has_none_is_refused(declared: str, dtype: str) -> None:
    assert refused(pd.Series([1, None], dtype=dtype), declared, 2) == (
        f"the model returned 1 null(s) among predictions of type {declared}, which cannot be null"
    )


def test_a_null_among_nullable_floats_is_nan() -> None:
    assert conform(pd.Series([1.5, None], dtype="Float64"), "double", 2).isna().tolist() == [False, True]


def test_mixed_objects_are_refused_by_all_their_types() -> None:
    assert refused(pd.Series([1.5, None, "a"], dtype=object), "double", 3) == mismatch("double", "float and NoneType and str")


@pytest.mark.parametrize("values", [["a"], [5], [1.5]])
def test_what_is_no_bytes_is_refused_as_binary(values: list[Any]) -> None:
    assert " of type binary and returned " in refused(values, "binary", 1)


def test_a_sparse_column_is_made_dense() -> None:
    assert conform(csr_matrix([[0.0], [2.5]]), "double", 2).tolist() == [0.0, 2.5]


@pytest.mark.parametrize("raw", [np.zeros((1, 2, 2)), {1.0}, object()])
def test_what_is_no_column_is_refused_by_what_it_is(raw: Any) -> None:
    assert refused(raw, "double", 1).startswith("the model declares predictions of type double and returned ")


def test_nan_among_doubles_stays_nan() -> None:
    assert conform(np.array([1.5, np.nan]), "double", 2).isna().tolist() == [False, True]


@pytest.mark.parametrize("raw", [np.array([[1.0, 2.0]]), pd.DataFrame({"0": [1.0], "1": [2.0]}), [[1.0, 2.0]]])
def test_several_columns_where_one_is_declared_are_refused(raw: Any) -> None:
    assert refused(raw, "double", 1) == (
        "the model declares one output of type double and returned 2 columns (0, 1); "
        "set model.result_type to a struct or an array to keep them all"
    )


def test_rows_of_unequal_length_are_refused_where_one_value_is_declared() -> None:
    assert "returned 2 columns (0, 1)" in refused([[1.0], [2.0, 3.0]], "double", 2)


@pytest.mark.parametrize("raw", [1.5, np.float64(1.5), np.array(1.5), {"a": 1.5}])
def test_a_single_value_is_the_prediction_of_a_single_row(raw: Any) -> None:
    assert conform(raw, "double", 1).tolist() == [1.5]


# --- text


@pytest.mark.parametrize(
    "raw",
    [
        np.array(["a", "b"]),
        np.array(["a", "b"], dtype=object),
        pd.Series(["a", "b"], dtype="string"),
        pd.Series(["a", "b"], dtype="category"),
        ["a", "b"],
    ],
)
def test_every_form_of_text_becomes_plain_strings(raw: Any) -> None:
    made = conform(raw, "string", 2)

    assert (made.tolist(), made.dtype) == (["a", "b"], np.dtype(object))


@pytest.mark.parametrize(
    "raw",
    [
        ["a", None],
        ["a", float("nan")],
        pd.Series(["a", None], dtype="string"),
        pd.Series(["a", None], dtype="category"),
    ],
)
def test_a_null_among_texts_is_refused(raw: Any) -> None:
    assert refused(raw, "string", 2) == f"the model returned 1 {TEXT_NULL}"


def test_a_number_among_texts_is_refused_by_its_type() -> None:
    assert refused(["a", None, 1], "string", 3) == mismatch("string", "int")


def test_categories_that_are_no_texts_are_refused() -> None:
    assert refused(pd.Series([1, 2], dtype="category"), "string", 2) == mismatch("string", "int")


# --- structs


@pytest.mark.parametrize(
    "raw",
    [
        pd.DataFrame({"b": [2], "a": [1.5]}, index=[9]),
        {"b": [2], "a": [1.5]},
        [{"b": 2, "a": 1.5}],
    ],
)
def test_a_structs_columns_come_in_the_declared_order(raw: Any) -> None:
    made = conform(raw, struct_of(a="double", b="long"), 1)

    pd.testing.assert_frame_equal(made, pd.DataFrame({"a": [1.5], "b": [2]}))


def test_a_matrix_gets_the_structs_names() -> None:
    made = conform(np.array([[1.0, 2.0]]), struct_of(no="double", yes="double"), 1)

    assert made.to_dict("list") == {"no": [1.0], "yes": [2.0]}


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (pd.DataFrame({"a": [1.0]}), "a"),
        (pd.DataFrame({"a": [1.0], "b": [1], "c": [1]}), "a, b, c"),
        (np.array([[1.0, 2.0, 3.0]]), "0, 1, 2"),
        (np.array([1.0]), "0"),
        (pd.DataFrame([[1.0, 1, 2.0]], columns=["a", "b", "a"]), "a, b, a"),
        ([{"a": 1.0}], "a"),
    ],
)
def test_missing_or_additional_columns_of_a_struct_are_refused(raw: Any, found: str) -> None:
    assert refused(raw, struct_of(a="double", b="long"), 1) == f"the model declares the outputs a, b and returned {found}"


def test_outputs_of_unequal_length_are_refused() -> None:
    message = "the model returned 1 prediction(s) for a batch of 2 row(s); it must return one for each"

    assert refused({"a": [1.0, 2.0], "b": [1]}, struct_of(a="double", b="long"), 2) == message


def test_named_tensors_become_arrays_in_a_struct() -> None:
    raw = {"label": np.array([[1], [2]]), "scores": np.array([[0.5, 1.5], [2.5, 3.5]]), "boxes": np.ones((2, 1, 2))}

    made = conform(raw, struct_of(label="long", scores=array_of("double"), boxes=array_of(array_of("double"))), 2)

    assert made["label"].tolist() == [1, 2]
    assert [row.tolist() for row in made["scores"]] == [[0.5, 1.5], [2.5, 3.5]]
    assert [row.tolist() for row in made["boxes"]] == [[[1.0, 1.0]], [[1.0, 1.0]]]


def test_a_mapping_of_scalars_is_the_struct_of_a_single_row() -> None:
    assert conform({"a": 1.5, "b": 2}, struct_of(a="double", b="long"), 1).to_dict("list") == {"a": [1.5], "b": [2]}


def test_a_matrix_for_one_field_of_a_struct_is_refused() -> None:
    raw = {"a": np.array([[1.0, 2.0]]), "b": [1]}

    assert "returned 2 columns (0, 1)" in refused(raw, struct_of(a="double", b="long"), 1)


def test_a_row_that_lacks_a_field_is_refused_instead_of_filled() -> None:
    raw = [{"a": 1.0, "b": 1}, {"b": 2}]

    assert refused(raw, struct_of(a="double", b="long"), 2) == "the model declares the outputs a, b and returned b"


def test_a_field_that_is_returned_twice_is_refused() -> None:
    raw = pd.DataFrame([[1.0, 1, 2.0]], columns=["a", "b", "a"])

    assert refused(raw, struct_of(a="double", b="long"), 1) == "the model declares the outputs a, b and returned a, b, a"


def test_a_null_text_in_a_struct_is_refused_by_its_field() -> None:
    assert refused({"a": [None]}, struct_of(a="string"), 1).startswith(
        "output 'a': the model returned 1 null(s) among its text predictions"
    )


def test_an_array_of_another_type_in_a_struct_is_refused_by_its_field() -> None:
    raw = {"a": [1.0], "v": [["x"]]}

    assert refused(raw, struct_of(a="double", v=array_of("double")), 1) == f"output 'v': {mismatch('double', 'str')}"


def test_a_wrong_field_of_a_struct_is_named() -> None:
    raw = pd.DataFrame({"a": [1.0], "b": ["x"]})

    assert refused(raw, struct_of(a="double", b="long"), 1) == f"output 'b': {mismatch('long', 'str')}"


# --- arrays


@pytest.mark.parametrize(
    ("raw", "rows"),
    [
        (np.array([[1.0, 2.0], [3.0, 4.0]]), [[1.0, 2.0], [3.0, 4.0]]),
        (pd.DataFrame({"x": [1.0, 3.0], "y": [2.0, 4.0]}), [[1.0, 2.0], [3.0, 4.0]]),
        (pd.DataFrame({"x": [[1.0], [2.0, 3.0]]}), [[1.0], [2.0, 3.0]]),
        (pd.Series([[1.0], [2.0, 3.0]]), [[1.0], [2.0, 3.0]]),
        ([[1.0], [2.0, 3.0]], [[1.0], [2.0, 3.0]]),
        ([[], [1.0]], [[], [1.0]]),
    ],
)
def test_arrays_keep_their_lengths_in_one_column(raw: Any, rows: list[list[float]]) -> None:
    made = conform(raw, array_of("double"), 2)

    assert [list(value) for value in made["value"]] == rows


def test_arrays_of_arrays_pass_unchanged() -> None:
    assert conform([[[1.0], [2.0]]], array_of(array_of("double")), 1)["value"].tolist() == [[[1.0], [2.0]]]


@pytest.mark.parametrize(
    ("raw", "declared", "expected", "found"),
    [
        ([1.0], array_of("double"), "array<double>", "float"),
        ([[1.0], ["a"], [2.0]], array_of("double"), "double", "str"),
        ([["a"]], array_of("double"), "double", "str"),
        ([[1.0], ["a"]], array_of("double"), "double", "str"),
        (np.array([[1, 2]]), array_of("integer"), "integer", "int64"),
        ([[2**53 + 1]], array_of("double"), "double", "int64"),
        ([[1.0]], array_of(array_of("double")), "array<double>", "float"),
        ([[[1.0]]], array_of("double"), "double", "array of list"),
        (np.array(["abc"]), array_of("string"), "array<string>", "str_"),
    ],
)
def test_arrays_of_another_type_are_refused_with_both_types(raw: Any, declared: Any, expected: str, found: str) -> None:
    assert refused(raw, declared, len(raw)) == mismatch(expected, found)


def test_a_row_without_an_array_is_null() -> None:
    assert conform([[1.0], None], array_of("double"), 2)["value"].tolist() == [[1.0], None]


@pytest.mark.parametrize(
    ("rows", "declared", "message"),
    [
        ([["a"], [1], ["b"]], array_of("string"), mismatch("string", "int")),
        ([[1], [1.5], [2]], array_of("long"), mismatch("long", "float64")),
        ([[1.0], [2**53 + 1], [2.0]], array_of("double"), mismatch("double", "int64")),
        ([[1.0, 2**53 + 1]], array_of("double"), mismatch("double", "int64")),
        (
            [np.array([1.0], dtype="float32"), np.array([1.0]), np.array([1.0], dtype="float32")],
            array_of("float"),
            mismatch("float", "float64"),
        ),
        ([[[1.0], [2.0]], [[1.0], ["x"]]], array_of(array_of("double")), mismatch("double", "str")),
        ([[[1.0]], [1.0], [[1.0]]], array_of(array_of("double")), mismatch("array<double>", "float")),
        ([[1.0], [None], [2.0]], array_of("double"), mismatch("double", "NoneType")),
    ],
)
def test_a_row_in_the_middle_is_checked_like_the_first(rows: list[Any], declared: Any, message: str) -> None:
    assert refused(rows, declared, len(rows)) == message


def test_a_column_of_a_frame_that_does_not_fit_the_array_is_refused() -> None:
    raw = pd.DataFrame({"x": [1.0], "y": [2**53 + 1]})

    assert refused(raw, array_of("double"), 1) == mismatch("double", "int64")


def test_a_sparse_matrix_becomes_dense_arrays() -> None:
    made = conform(csr_matrix([[0.0, 1.5], [2.5, 0.0]]), array_of("double"), 2)

    assert [row.tolist() for row in made["value"]] == [[0.0, 1.5], [2.5, 0.0]]


def test_the_only_output_of_a_mapping_is_the_array() -> None:
    assert [row.tolist() for row in conform({"out": np.array([[1.5, 2.5]])}, array_of("double"), 1)["value"]] == [[1.5, 2.5]]


def test_arrays_of_structs_pass_where_their_fields_fit() -> None:
    assert conform([[{"x": 1.5}]], array_of(struct_of(x="double")), 1)["value"].tolist() == [[{"x": 1.5}]]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"y": 1.5}, "the model declares the outputs x and returned y"),
        ({"x": 1.5, "y": 1}, "the model declares the outputs x and returned x, y"),
        ({"x": "1.5"}, mismatch("double", "str")),
        (1.5, mismatch("struct<x:double>", "float")),
    ],
)
def test_a_struct_inside_an_array_is_held_to_its_fields(item: Any, message: str) -> None:
    assert refused([[{"x": 0.5}, item]], array_of(struct_of(x="double")), 1) == message


def test_maps_pass_in_one_column() -> None:
    assert conform([{"a": 1.5}, {}], map_of("double"), 2)["value"].tolist() == [{"a": 1.5}, {}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"a": "x"}], mismatch("double", "str")),
        ([{1: 1.5}], mismatch("string", "int")),
        ([1.5], mismatch("map<string,double>", "float")),
    ],
)
def test_maps_of_another_type_are_refused(rows: list[Any], message: str) -> None:
    assert refused(rows, map_of("double"), len(rows)) == message


def test_a_null_text_in_an_array_is_refused() -> None:
    assert refused([["a", None]], array_of("string"), 1) == f"the model returned 1 {TEXT_NULL}"


# --- nulls in integer inputs


def test_a_null_in_an_integer_input_is_refused_by_name_and_count() -> None:
    with pytest.raises(
        GuardError, match=re.escape("[lakescore:input] column 'n': 2 null value(s) in a batch, and the model takes it as an integer")
    ):
        refuse_nulls(pd.DataFrame({"n": [1, None, None]}), ["n"])


def test_nulls_in_other_inputs_pass() -> None:
    frame = pd.DataFrame({"n": [1, 2], "x": [1.5, None]})

    refuse_nulls(frame, ["n", "not there"])

    assert frame["x"].isna().tolist() == [False, True]


# --- a real model behind the guard


def write_contract(folder: Path, **given: Any) -> None:
    contract = {"run": uuid.uuid4().hex, "result": "long", "method": None, "integers": [], "absent": [], "keys": [], "isolates": False}
    (folder / "contract.json").write_text(json.dumps({**contract, **given}), encoding="utf-8")


class Bundle:
    """A folder as the driver ships it: a saved model beside its contract."""

    def __init__(self, folder: Path, model: Any, features: pd.DataFrame) -> None:
        self.folder = folder
        mlflow.sklearn.save_model(
            model,
            folder / "model",
            signature=infer_signature(features, model.predict(features)),
            serialization_format="cloudpickle",
            pip_requirements=[],  # inferring them takes seconds
        )

    def load(self, result: Any, **contract: Any) -> Guard:
        write_contract(self.folder, result=result, **contract)
        return Guard(str(self.folder))


FEATURES = pd.DataFrame({"n": [0, 1, 2, 3], "x": [0.0, 0.5, 1.5, 2.5]})


@pytest.fixture(scope="module")
def classifier() -> LogisticRegression:
    return LogisticRegression().fit(FEATURES, [0, 0, 1, 1])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, classifier: LogisticRegression) -> Bundle:
    return Bundle(tmp_path_factory.mktemp("classifier"), classifier, FEATURES)


def test_a_loaded_model_predicts_what_the_model_predicts(bundle: Bundle, classifier: LogisticRegression) -> None:
    guard = bundle.load("long")

    assert guard.predict(FEATURES).tolist() == classifier.predict(FEATURES).tolist()


def test_another_method_of_the_model_is_called(bundle: Bundle, classifier: LogisticRegression) -> None:
    guard = bundle.load(struct_of(no="double", yes="double"), method="predict_proba")

    np.testing.assert_array_equal(guard.predict(FEATURES).to_numpy(), classifier.predict_proba(FEATURES))


def test_an_unknown_method_is_refused_with_those_there_are(bundle: Bundle) -> None:
    with pytest.raises(GuardError) as caught:
        bundle.load("long", method="predict_prob")

    assert str(caught.value) == (
        "[lakescore:model] model.predict_method: LogisticRegression has no method 'predict_prob'; it has "
        "decision_function, predict, predict_log_proba, predict_proba [/lakescore]"
    )


def test_a_wrong_declaration_of_a_real_model_is_refused(bundle: Bundle) -> None:
    guard = bundle.load("string")

    with pytest.raises(GuardError, match=re.escape(mismatch("string", "int"))):
        guard.predict(FEATURES)


def test_a_null_in_an_integer_input_is_refused_before_the_model_is_called(bundle: Bundle) -> None:
    guard = bundle.load("long", integers=("n",))

    with pytest.raises(GuardError, match=re.escape("[lakescore:input] column 'n': 1 null value(s)")):
        guard.predict(pd.DataFrame({"n": [0, None], "x": [0.0, 0.5]}))


def test_what_the_model_itself_raises_is_marked_with_its_reason(bundle: Bundle) -> None:
    guard = bundle.load("long")

    with pytest.raises(GuardError, match=re.escape("[lakescore:model] the model failed to predict: ")):
        guard.predict(FEATURES[["n"]])


class _Breaks:
    """Counts its calls, and breaks on one number."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def predict(self, features: pd.DataFrame, params: Any = None) -> Any:
        self.sizes.append(len(features))
        if (features["x"] == 1.5).any():
            raise ValueError("half past one")
        return features["x"].to_numpy()


def test_the_row_that_breaks_a_model_is_named_by_its_keys_and_the_model_is_not_called_again(bundle: Bundle, tmp_path: Path) -> None:
    bundle.load("double", keys=("id", "day"))
    message = "[lakescore:model] the model failed to predict: ValueError: half past one (row id=c, day=2) [/lakescore]"
    batch = FEATURES.assign(__lakescore_key_id=list("abcd"), __lakescore_key_day=2)
    first, again = Guard(str(bundle.folder)), Guard(str(bundle.folder))
    first._model, again._model = _Breaks(), _Breaks()
    first._failure = again._failure = str(tmp_path / "failed")

    for guard in (first, again):
        with pytest.raises(GuardError, match=re.escape(message)):
            guard.predict(batch)

    assert first._model.sizes == [4, 2, 1, 1]
    assert again._model.sizes == []


def test_a_model_that_wants_to_end_the_process_fails_like_any_other(bundle: Bundle) -> None:
    class Exits:
        def predict(self, features: pd.DataFrame, params: Any = None) -> Any:
            raise SystemExit(3)

    guard = bundle.load("double")
    guard._model = Exits()

    with pytest.raises(GuardError, match=re.escape("the model failed to predict: RuntimeError: it raised SystemExit(3) (row n=0, x=0.0)")):
        guard.predict(FEATURES)


class Scaled(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        return model_input["x"].to_numpy()

    def scaled(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        return model_input["x"].to_numpy() * params["by"]

    def plain(self, context: Any, model_input: pd.DataFrame) -> Any:
        return model_input["x"].to_numpy()


def test_another_method_gets_the_params_or_says_that_it_takes_none(tmp_path: Path) -> None:
    signature = infer_signature(FEATURES, [1.0], params={"by": 1.0})
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=Scaled(), signature=signature, pip_requirements=[])
    write_contract(tmp_path, result="double", method="scaled")

    assert Guard(str(tmp_path)).predict(FEATURES, {"by": 3.0}).tolist() == [0.0, 1.5, 4.5, 7.5]

    write_contract(tmp_path, result="double", method="plain")
    with pytest.raises(GuardError, match=re.escape("model.params: the method plain takes no params")):
        Guard(str(tmp_path)).predict(FEATURES, {"by": 3.0})


def test_an_absent_optional_input_is_not_given_to_the_model(tmp_path: Path) -> None:
    known = FEATURES[["x"]]
    guard = Bundle(tmp_path, DecisionTreeRegressor().fit(known, [1.0, 2.0, 3.0, 4.0]), known).load("double", absent=("extra",))

    assert guard.predict(known.assign(extra=None)).tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_model_that_cannot_be_loaded_is_named_by_its_key(tmp_path: Path) -> None:
    write_contract(tmp_path)

    with pytest.raises(GuardError, match=re.escape("[lakescore:model] model.uri: the model cannot be loaded on a worker: ")):
        Guard(str(tmp_path))


def test_a_module_that_the_model_imports_and_the_worker_lacks_is_named_whatever_mlflow_makes_of_it(tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text(
        "import mlflow\n\nclass Plain(mlflow.pyfunc.PythonModel):\n    def predict(self, context, model_input):\n        return [1]\n\n"
        "mlflow.models.set_model(Plain())\n"
    )
    mlflow.pyfunc.save_model(tmp_path / "model", python_model=str(code), pip_requirements=[])
    (tmp_path / "model" / "code.py").write_text("import no_such_module\n")
    write_contract(tmp_path)

    with pytest.raises(GuardError, match=re.escape("(ModuleNotFoundError: No module named 'no_such_module')")):
        Guard(str(tmp_path))


def test_a_worker_loads_a_model_once(bundle: Bundle) -> None:
    bundle.load("long")

    assert _load_pyfunc(str(bundle.folder)) is _load_pyfunc(str(bundle.folder))
