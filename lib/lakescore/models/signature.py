"""An MLflow signature in, the same in Spark's types out: the features by name, and what one row's prediction is.

| MLflow input                        | here                                                            |
| ----------------------------------- | --------------------------------------------------------------- |
| named columns                       | one feature each                                                |
| columns without names               | as many features, named by ``columns.select`` or the remaining columns |
| named tensors ``(-1,)``, ``(-1, 1)``| one feature each: a scalar                                      |
| named tensors ``(-1, n)``, ...      | one feature each: an array (flattened, C order)                 |
| one tensor ``(-1, n)``              | n features of the tensor's type, in the order of ``columns.select`` |
| one tensor ``(-1, a, b, ...)``      | one array feature (flattened, C order)                          |
| a tensor ``(-1,)`` of objects       | one text                                                        |

| MLflow output                       | one row's prediction                                            |
| ----------------------------------- | --------------------------------------------------------------- |
| one column                          | that type                                                       |
| several columns or tensors          | a struct with a field for each                                  |
| a tensor ``(-1,)``                  | a scalar (``mlflow.pyfunc.spark_udf`` alone would give an array of one) |
| a tensor ``(-1, n)``, ``(-1, a, b)``| an array, an array of arrays                                    |
| a tensor of objects                 | text                                                            |
"""

from __future__ import annotations

from typing import Any

from mlflow.models.signature import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Map, Object, Schema, TensorSpec
from pyspark.sql import types as T

from lakescore.errors import ModelError
from lakescore.schema import Feature, Signature, Tensor

# Of outputs: MLflow has columns of 32 and 64 bits alone, and so have its predictions on Spark.
_WIDER: dict[str, T.DataType] = {
    **dict.fromkeys(("int8", "uint8", "int16", "uint16"), T.IntegerType()),
    "uint32": T.LongType(),
    "float16": T.FloatType(),
}


def convert(signature: ModelSignature | None) -> Signature:
    """Convert MLflow's signature.

    Raises:
        ModelError: it holds a type that Spark has not.
    """
    if signature is None:
        return Signature()
    features, unnamed = _inputs(signature.inputs)
    params = tuple(param.name for param in signature.params.params) if signature.params else ()
    tensor = _tensor(signature.inputs.inputs[0]) if unnamed and signature.inputs else None
    return Signature(features, unnamed, _result(signature.outputs), params, tensor)


def _inputs(schema: Schema | None) -> tuple[tuple[Feature, ...] | None, tuple[T.DataType, ...] | None]:
    if schema is None or not schema.inputs:
        return None, None
    if schema.has_input_names():
        return tuple(Feature(str(s.name), _input_type(s), bool(getattr(s, "required", True)), _tensor(s)) for s in schema.inputs), None
    if not schema.is_tensor_spec():
        return None, tuple(_input_type(spec) for spec in schema.inputs)
    spec: TensorSpec = schema.inputs[0]  # type: ignore[assignment]
    if len(spec.shape) == 2 and spec.shape[1] > 0:
        return None, (_element(spec),) * int(spec.shape[1])
    return None, (_input_type(spec),)


def _input_type(spec: ColSpec | TensorSpec) -> T.DataType:
    if isinstance(spec, ColSpec):
        return _column_type(spec.type)
    # Texts leave numpy as an array of objects, and come back so.
    if spec.type.kind == "O" and len(spec.shape) == 1:
        return T.StringType()
    # Arrays are flat here; the guard, or MLflow, gives them the tensor's shape, and a scalar one of one.
    return _element(spec) if len(spec.shape) == 1 or tuple(spec.shape[1:]) == (1,) else T.ArrayType(_element(spec))


def _tensor(spec: ColSpec | TensorSpec) -> Tensor | None:
    """One row's part; None where it is a scalar."""
    if isinstance(spec, ColSpec) or len(spec.shape) < 2 or spec.shape[0] != -1:
        return None
    return Tensor(tuple(map(int, spec.shape[1:])), spec.type.name)


def _result(schema: Schema | None) -> T.DataType | None:
    if schema is None or not schema.inputs:
        return None
    if len(schema.inputs) == 1:
        return _output_type(schema.inputs[0])
    names = [i if s.name is None else s.name for i, s in enumerate(schema.inputs)]
    return T.StructType([T.StructField(str(name), _output_type(s)) for name, s in zip(names, schema.inputs, strict=True)])


def _output_type(spec: ColSpec | TensorSpec) -> T.DataType:
    if isinstance(spec, ColSpec):
        return _column_type(spec.type)
    # Labels of text leave scikit-learn as an array of objects; the guard holds them to being text.
    result = T.StringType() if spec.type.kind == "O" else _WIDER.get(spec.type.name) or _element(spec)
    for _ in spec.shape[1:]:
        result = T.ArrayType(result)
    return result


def _element(spec: TensorSpec) -> T.DataType:
    try:
        element: T.DataType | None = DataType.from_numpy_type(spec.type).to_spark()  # type: ignore[no-untyped-call]
    except Exception:
        element = None
    if element is None:
        raise ModelError(f"model.uri: the signature's tensor type {spec.type} has no counterpart in Spark; log the model with another")
    return element


def _column_type(type_: Any) -> T.DataType:
    if isinstance(type_, DataType):
        spark_type: T.DataType = type_.to_spark()  # type: ignore[no-untyped-call]
        return spark_type
    if isinstance(type_, Array):
        return T.ArrayType(_column_type(type_.dtype))
    if isinstance(type_, Object):
        return T.StructType([T.StructField(p.name, _column_type(p.dtype)) for p in type_.properties])
    if isinstance(type_, Map):
        return T.MapType(T.StringType(), _column_type(type_.value_type))
    raise ModelError(f"model.uri: the signature's type {type_} has no counterpart in Spark; log the model with another")
