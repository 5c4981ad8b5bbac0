"""Tensors of the model and the arrays that are made for them, on the driver and behind the guard."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models.signature import ModelSignature
from mlflow.types.schema import Schema, TensorSpec
from pyspark.sql import types as T

from lakescore import tensors
from lakescore.config import ImageConfig
from lakescore.engine.guard import GuardError, as_tensor
from lakescore.errors import ConfigError
from lakescore.models.signature import convert
from lakescore.schema import Feature, Tensor

GREY = ImageConfig(size=(28, 28), mode="L")
COLOUR = ImageConfig(size=(28, 28))


def feature(*shape: int) -> list[Feature]:
    return [Feature("image", T.ArrayType(T.FloatType()), tensor=Tensor(shape, "float32"))]


# --- the signature


@pytest.mark.parametrize(
    ("kind", "shape", "expected"),
    [
        ("float32", (-1, 1, 28, 28), Tensor((1, 28, 28), "float32")),
        ("float64", (-1, 784), Tensor((784,), "float64")),
        ("float32", (-1,), None),
    ],
)
def test_a_signature_tells_the_tensor_of_one_row(kind: str, shape: tuple[int, ...], expected: Tensor | None) -> None:
    assert convert(ModelSignature(inputs=Schema([TensorSpec(np.dtype(kind), shape)]))).tensor == expected


def test_a_tensor_of_objects_is_text() -> None:
    assert convert(ModelSignature(inputs=Schema([TensorSpec(np.dtype("O"), (-1,))]))).unnamed == (T.StringType(),)


# --- images


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (GREY, (1, 28, 28)),
        (GREY, (28, 28)),
        (GREY, (28, 28, 1)),
        (GREY, (784,)),
        (GREY, (1, -1, -1)),
        (COLOUR, (3, 28, 28)),
        (COLOUR, (-1, -1, -1)),
        (ImageConfig.model_validate({"as": "bytes"}), (1, 2, 3)),
    ],
)
def test_an_image_whose_values_stand_where_the_tensor_has_them_fits(image: ImageConfig, shape: tuple[int, ...]) -> None:
    tensors.check_image(feature(*shape), image)


@pytest.mark.parametrize(
    ("image", "shape", "message"),
    [
        (
            ImageConfig(size=(14, 14), mode="L"),
            (1, 28, 28),
            "source.image: size [14, 14], mode L and layout chw make arrays of shape (-1, 1, 14, 14), and the model takes (-1, 1, 28, 28); "
            "set source.image.size=[28, 28], mode=L, layout=chw",
        ),
        (
            COLOUR,
            (28, 28, 3),
            "source.image: size [28, 28], mode RGB and layout chw make arrays of shape (-1, 3, 28, 28), and the model takes "
            "(-1, 28, 28, 3); set source.image.size=[28, 28], mode=RGB, layout=hwc",
        ),
        (
            COLOUR,
            (1, -1, -1),
            "source.image: size [28, 28], mode RGB and layout chw make arrays of shape (-1, 3, 28, 28), and the model takes "
            "(-1, 1, -1, -1); set source.image.size=[28, 28], mode=L, layout=chw",
        ),
        (
            GREY,
            (100,),
            "source.image: size [28, 28], mode L and layout chw make arrays of shape (-1, 1, 28, 28), and the model takes (-1, 100)",
        ),
    ],
)
def test_an_image_of_another_shape_is_refused_with_both(image: ImageConfig, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        tensors.check_image(feature(*shape), image)

    assert str(caught.value) == message


def test_open_dimensions_are_the_images() -> None:
    assert tensors.for_guard(feature(-1, -1, -1), COLOUR) == Tensor((3, 28, 28), "float32")
    assert tensors.for_guard(feature(-1, -1, -1), None) is None
    assert tensors.for_guard(feature(784), None) == Tensor((784,), "float32")


def test_columns_are_no_tensor() -> None:
    assert tensors.for_guard([Feature("a", T.DoubleType())], None) is None
    assert tensors.for_guard(feature(2) * 2, None) is None


# --- the guard


@pytest.mark.parametrize("made", [np.float32, list])
def test_flat_arrays_become_the_array_that_the_model_was_trained_with(made: Any) -> None:
    images = np.random.default_rng(0).random((5, 2, 3), dtype=np.float32)
    column = [one.ravel() if made is np.float32 else one.ravel().tolist() for one in images]

    found = as_tensor(pd.DataFrame({"image": column}), [2, 3], "float32")

    np.testing.assert_array_equal(found, images)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1.0, 2.0], None], "column 'image': 1 null value(s) in a batch; the model takes an array of shape (-1, 1, 2)"),
        ([[1.0, 2.0], [1.0]], "column 'image': an array of 1 value(s), and the model takes the shape (-1, 1, 2), which is 2"),
        ([[1.0, None]], "column 'image': arrays of object, and the model takes float32; a null in an array is no number"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(values: list[Any], message: str) -> None:
    with pytest.raises(GuardError) as caught:
        as_tensor(pd.DataFrame({"image": values}), [1, 2], "float32")

    assert str(caught.value) == f"[lakescore:input] {message} [/lakescore]"


def test_a_float_is_not_cut_to_an_integer() -> None:
    with pytest.raises(GuardError, match="arrays of float64, and the model takes int64"):
        as_tensor(pd.DataFrame({"image": [[1.5, 2.0]]}), [2], "int64")


def test_mlflow_accepts_the_array() -> None:
    assert mlflow.models.utils._enforce_tensor_schema(
        as_tensor(pd.DataFrame({"image": [[1.0] * 4]}), [1, 2, 2], "float32"), Schema([TensorSpec(np.dtype("float32"), (-1, 1, 2, 2))])
    ).shape == (1, 1, 2, 2)
