"""A fitted model in, what it tells of itself out: the names of its inputs, and the types of what it takes and gives.

| model             | inputs                                                      | outputs                                     |
| ----------------- | ----------------------------------------------------------- | ------------------------------------------- |
| scikit-learn      | ``feature_names_in_`` (no types), or ``n_features_in_`` doubles | a row of zeros predicted, or ``classes_`` |
| XGBoost, LightGBM | its feature names, or as many doubles                       | a row of zeros predicted                    |
| ONNX              | its graph's; doubles for floats, which MLflow casts         | two rows of zeros predicted                 |
| PyTorch           | nothing, or floats (doubles, as its weights) of ``input_shape`` | two rows of zeros predicted, with a shape   |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec

from lakescore.errors import ModelError


@dataclass(frozen=True)
class Told:
    """What a model tells; None where it does not.

    Attributes:
        inputs, outputs: MLflow's schemas.
        names: the inputs in the model's order, where it knows their names and not their types.
    """

    inputs: Schema | None = None
    outputs: Schema | None = None
    names: tuple[str, ...] | None = None

    @property
    def signature(self) -> ModelSignature | None:
        if not self.inputs and not self.outputs:
            return None
        return ModelSignature(inputs=self.inputs, outputs=self.outputs)


def by_sklearn(model: Any) -> Told:
    """What an estimator tells, be it scikit-learn's or one that behaves like it."""
    if takes_texts(model):
        return Told(Schema([ColSpec(DataType.string)]), _outputs_of_sklearn(model, None))
    names = getattr(model, "feature_names_in_", None)
    if names is not None and not _are_made_up(list(names)):
        columns = tuple(str(name) for name in names)
        zeros: Any = pd.DataFrame(np.zeros((1, len(columns))), columns=list(columns))
        return Told(None, _outputs_of_sklearn(model, zeros), columns)
    count = getattr(model, "n_features_in_", None)
    if count is None or _takes_more_than_numbers(model):
        return Told(None, _outputs_of_sklearn(model, None))
    outputs = _tried(model.predict, np.zeros((1, int(count))))
    if outputs is None:
        return Told(None, _outputs_of_sklearn(model, None))
    return Told(_doubles(int(count)), outputs)


def takes_texts(model: Any) -> bool:
    """Whether the first step takes a sequence of texts, as the vectorizers do, and no table."""
    tags = _input_tags(model)
    return tags is not None and tags.string and not tags.two_d_array


def _takes_more_than_numbers(model: Any) -> bool:
    """Whether the first step may be for text or categories, whose type ``n_features_in_`` does not tell."""
    tags = _input_tags(model)
    first = _first_step(model)
    return hasattr(first, "transformers_") or hasattr(first, "transformer_list") or (tags is not None and (tags.string or tags.categorical))


def _first_step(model: Any) -> Any:
    while hasattr(model, "steps"):
        model = model.steps[0][1]
    return model


def _input_tags(model: Any) -> Any:
    from sklearn.utils import get_tags

    try:
        return get_tags(_first_step(model)).input_tags
    except Exception:
        return None


def _outputs_of_sklearn(model: Any, zeros: Any) -> Schema | None:
    tried = _tried(model.predict, zeros) if zeros is not None else None
    if tried is not None:
        return tried
    classes = getattr(model, "classes_", None)
    if isinstance(classes, np.ndarray):
        return output_schema(classes)
    from sklearn.base import is_regressor

    # A regressor that has several outputs after all is found out when the first row is scored.
    try:
        return Schema([ColSpec(DataType.double)]) if is_regressor(model) else None
    except Exception:
        return None


def by_xgboost(model: Any, label: str) -> Told:
    """What a booster, or one of XGBoost's scikit-learn classes around it, tells."""
    import xgboost

    booster = model if isinstance(model, xgboost.Booster) else model.get_booster()
    names, types = booster.feature_names, booster.feature_types or []
    for name, kind in zip(names or [], types, strict=False):
        if kind == "c":
            raise ModelError(
                f"{label} has the categorical input {name!r}, which MLflow's XGBoost flavor cannot pass on; encode it in the model, and "
                "log that with MLflow"
            )
    predict = model.predict if booster is not model else lambda rows: model.predict(xgboost.DMatrix(rows))
    return _by_names(names, booster.num_features(), predict)


def by_lightgbm(model: Any, label: str) -> Told:
    """What a LightGBM booster tells."""
    if model.pandas_categorical:
        raise ModelError(
            f"{label} has categorical inputs, which MLflow's LightGBM flavor cannot pass on; encode them in the model, and log that "
            "with MLflow"
        )
    names = model.feature_name()
    return _by_names(None if _are_made_up(names) else names, model.num_feature(), model.predict)


def _by_names(names: Sequence[str] | None, count: int, predict: Callable[[Any], Any]) -> Told:
    """Boosters hold numbers only, so each input is a double, and a missing value is NaN."""
    if not names:
        return Told(_doubles(count), _tried(predict, np.zeros((1, count))))
    columns = [str(name) for name in names]
    inputs = Schema([ColSpec(DataType.double, name) for name in columns])
    return Told(inputs, _tried(predict, pd.DataFrame(np.zeros((1, count)), columns=columns)))


def _are_made_up(names: Sequence[str]) -> bool:
    """LightGBM names the columns of an array itself."""
    return [str(name) for name in names] == [f"Column_{i}" for i in range(len(names))]


def _doubles(count: int) -> Schema:
    return Schema([TensorSpec(np.dtype("float64"), (-1, count))])


def by_torch(model: Any, shape: Sequence[int] | None) -> Told:
    """A module tells nothing by itself; with the shape of one row's input its output is tried.

    Raises:
        Exception: the module's own, where it does not take that shape.
    """
    if shape is None:
        return Told()
    import torch

    model.eval()
    kind = "float64" if any(weights.dtype == torch.float64 for weights in model.parameters()) else "float32"
    with torch.no_grad():
        result = model(torch.zeros((2, *shape), dtype=getattr(torch, kind)))
    outputs = tensor_schema({"": result.numpy()}, rows=2) if isinstance(result, torch.Tensor) else None
    return Told(Schema([TensorSpec(np.dtype(kind), (-1, *shape))]), outputs)


_ONNX_TYPES = {
    # MLflow casts doubles to the floats that a graph wants.
    "tensor(float)": "float64",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
    "tensor(string)": "str",
}
_ONNX_EXACT = {**_ONNX_TYPES, "tensor(float)": "float32"}


def by_onnx(session: Any, label: str) -> Told:
    """What the graph of an ``onnxruntime.InferenceSession`` tells.

    Raises:
        ModelError: its first dimension, which must be the rows', is fixed; or an output is a mapping for each row.
    """
    inputs = session.get_inputs()
    for one in session.get_outputs():
        if one.type.startswith("seq(map("):
            raise ModelError(
                f"{label} gives a mapping of classes to probabilities for each row (output {one.name!r}), which mlflow.pyfunc.spark_udf "
                "cannot return; export it with them as an array: skl2onnx's to_onnx(..., options={'zipmap': False})"
            )
    for one in inputs:
        if one.shape and isinstance(one.shape[0], int) and one.shape[0] > 0:
            raise ModelError(
                f"{label} takes batches of exactly {one.shape[0]} row(s) (input {one.name!r} is {one.shape}); export it with a dynamic "
                "first axis"
            )
    known = all(one.type in _ONNX_TYPES and one.shape and all(isinstance(n, int) and n > 0 for n in one.shape[1:]) for one in inputs)
    if not known:
        return Told()
    feed = {one.name: np.zeros((2, *one.shape[1:]), dtype=_ONNX_EXACT[one.type]) for one in inputs}
    if len(inputs) == 1:
        shape = (-1, *(inputs[0].shape[1:] or (1,)))
        schema = Schema([TensorSpec(np.dtype(_ONNX_TYPES[inputs[0].type]), shape)])
    else:
        schema = Schema([TensorSpec(np.dtype(_ONNX_TYPES[i.type]), (-1, *i.shape[1:]), i.name) for i in inputs])
    try:
        results = session.run(None, feed)
    except Exception:
        return Told(schema)
    named = {output.name: result for output, result in zip(session.get_outputs(), results, strict=True)}
    return Told(schema, tensor_schema(named, rows=2))


def tensor_schema(outputs: dict[str, Any], rows: int) -> Schema | None:
    """The schema of named tensors; a last axis of one is a scalar's. None where one is no tensor of as many rows."""
    specs: list[ColSpec | TensorSpec] = []
    for name, value in outputs.items():
        if not isinstance(value, np.ndarray) or value.ndim == 0 or len(value) != rows:
            return None
        shape = value.shape[1:] if value.shape[1:] != (1,) else ()
        kind = np.dtype("O") if value.dtype.kind in "OUS" else value.dtype
        specs.append(TensorSpec(kind, (-1, *shape), name if len(outputs) > 1 else None))
    return Schema(specs)


def _tried(predict: Callable[[Any], Any], zeros: Any) -> Schema | None:
    """The schema of what a model gives for a row of zeros; None where it does not take such a row."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return output_schema(predict(zeros))
    except Exception:
        return None


def output_schema(result: Any) -> Schema | None:
    """The schema of predictions: one column, or a tensor with as many values for each row. None where it is neither."""
    values = np.asarray(result)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values.ravel()
    if values.ndim > 1:
        return tensor_schema({"": values}, rows=len(values))
    if values.dtype.kind in "OUS":
        return Schema([ColSpec(DataType.string)]) if all(isinstance(value, str) for value in values) else None
    try:
        return Schema([ColSpec(DataType.from_numpy_type(values.dtype))])  # type: ignore[no-untyped-call]
    except Exception:
        return None
