"""Runs on executors: a batch of which some rows cannot be scored in, the predictions of the others and one error per bad row out.

A failed batch is halved until exactly the bad rows are known, so a batch without bad rows costs one call, and each bad row about
``log2(rows)`` more. Shipped beside ``guard.py``; imports nothing of Lakescore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

# The struct that spark_udf returns: the prediction (its fields, where it is a struct itself) and why there is none; "" means there is.
ERROR_FIELD = "__lakescore_error"
VALUE_FIELD = "value"
_SHOWN_FIELDS = 5
_SHOWN_CHARACTERS = 60

NUMPY_TYPE = {
    "byte": "int8",
    "short": "int16",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "boolean": "bool",
}

Predict = Callable[[pd.DataFrame], Any]


def isolate(frame: pd.DataFrame, problems: pd.Series, predict: Predict, declared: Any) -> pd.DataFrame:
    """Score what can be scored.

    Args:
        frame: the features.
        problems: what is wrong with a row before the model sees it, or null; such a row is not given to the model.
        predict: features to conformed predictions, one for each row; raises where it cannot.
        declared: the JSON value of the predictions' Spark type.

    Returns:
        One row per row of ``frame``: the prediction's columns (a blank where there is none) and ``ERROR_FIELD``.
    """
    errors: list[str] = ["" if pd.isna(problem) else f"InputError: {problem}" for problem in problems]
    parts: list[tuple[np.ndarray[Any, Any], pd.DataFrame]] = []
    waiting = [np.flatnonzero([not error for error in errors])]
    while waiting:
        rows = waiting.pop()
        if not len(rows):
            continue
        try:
            parts.append((rows, _as_frame(predict(_part(frame, rows)))))
        except Exception as error:
            if getattr(error, "fatal", False):
                raise
            if len(rows) == 1:
                errors[rows[0]] = describe(error)
            else:
                waiting += [rows[len(rows) // 2 :], rows[: len(rows) // 2]]
    result: pd.DataFrame = pd.DataFrame({name: _joined(parts, len(frame), name, kind) for name, kind in outputs(declared).items()})
    result[ERROR_FIELD] = errors
    return result


def first_bad_row(frame: pd.DataFrame, predict: Predict) -> tuple[int, Exception] | None:
    """The position of the first row that fails alone, and how; None where none does."""
    rows = np.arange(len(frame))
    while len(rows) > 1:
        left = rows[: len(rows) // 2]
        rows = left if _failure(frame, left, predict) else rows[len(left) :]
    error = _failure(frame, rows, predict) if len(rows) else None
    return (int(rows[0]), error) if error else None


def shown(row: Any) -> str:
    """A row as ``name=value``, cut for a message."""
    items = [f"{name}={str(value)[:_SHOWN_CHARACTERS]}" for name, value in row.items()]
    return ", ".join(items[:_SHOWN_FIELDS]) + (", ..." if len(items) > _SHOWN_FIELDS else "")


def describe(error: BaseException) -> str:
    """``Class: message``, on one line."""
    kind = getattr(error, "kind", None)
    text = getattr(error, "text", None) if kind else " ".join(reason(error))
    return f"{kind or type(error).__name__}: {text or 'no reason given'}"


def reason(error: BaseException) -> list[str]:
    """The lines of an exception's message that have a word; of TorchScript's, which has its own traceback in it, the last one."""
    # Arrow does not hold the half characters that Python makes of file names in no UTF-8.
    try:
        text = str(error).encode("utf-8", "backslashreplace").decode("utf-8")
    except Exception:
        return []  # an exception of the model's own, whose text is broken too
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[-1:] if any(line.startswith("Traceback of TorchScript") for line in lines) else lines


def _failure(frame: pd.DataFrame, rows: np.ndarray[Any, Any], predict: Predict) -> Exception | None:
    try:
        predict(_part(frame, rows))
    except Exception as error:
        return error
    return None


def _part(frame: pd.DataFrame, rows: np.ndarray[Any, Any]) -> pd.DataFrame:
    return frame if len(rows) == len(frame) else frame.iloc[rows].reset_index(drop=True)


def _as_frame(prediction: Any) -> pd.DataFrame:
    return prediction if isinstance(prediction, pd.DataFrame) else prediction.to_frame(VALUE_FIELD)


def outputs(declared: Any) -> dict[str, Any]:
    """The columns of a frame of predictions, with the JSON values of their types."""
    if isinstance(declared, dict) and declared["type"] == "struct":
        return {field["name"]: field["type"] for field in declared["fields"]}
    return {VALUE_FIELD: declared}


def _joined(parts: list[tuple[np.ndarray[Any, Any], pd.DataFrame]], length: int, name: str, declared: Any) -> pd.Series:
    if len(parts) == 1 and len(parts[0][0]) == length:
        whole: pd.Series = parts[0][1][name]
        return whole
    wanted = NUMPY_TYPE.get(declared) if isinstance(declared, str) else None
    values: Any = np.zeros(length, dtype=wanted or "O")
    if wanted is None:
        for row in range(length):
            values[row] = _blank(declared)
    for rows, part in parts:
        column = part[name].to_numpy()
        if wanted is None:
            for row, value in zip(rows, column, strict=True):
                values[row] = value
        else:
            values[rows] = column
    joined: pd.Series = pd.Series(values)
    return joined


def _blank(declared: Any) -> Any:
    """A value of the type for a row that has none; nobody sees it."""
    if isinstance(declared, str):
        return "" if declared == "string" else None
    return [] if declared["type"] == "array" else {}
