"""Images from files through a convolutional network, equal to the network's own predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from deltalake import DeltaTable
from mlflow.models import ModelSignature, infer_signature
from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec
from PIL import Image
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from lakescore import replay, score
from lakescore.errors import ConfigError, InputError, ModelError
from lakescore.pipeline import dry_run

ROOT = Path(__file__).parents[2]
Make = Callable[..., dict[str, Any]]
PIXELS = {"size": [28, 28], "mode": "L", "scale": "1/255"}
# Written apart from the product's code: what the network is trained on, and what predictions are compared with.


def prepared(picture: Image.Image) -> np.ndarray[Any, Any]:
    """A digit as the network takes it: (1, 28, 28), between 0 and 1."""
    grey = picture.convert("L").resize((28, 28), Image.Resampling.BILINEAR)
    return (np.asarray(grey, np.float32) / np.float32(255))[np.newaxis]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's 1,797 handwritten digits as PNG files, in a folder for each class: ``digits/3/0042.png``."""
    folder = tmp_path_factory.mktemp("images") / "digits"
    data = load_digits()
    for i, (pixels, label) in enumerate(zip(data.images, data.target, strict=True)):
        file = folder / str(label) / f"{i:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels / 16 * 255).round().astype(np.uint8)).save(file)
    return folder


@pytest.fixture(scope="module")
def arrays(digits: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Each file's array, by its path."""
    return {str(file): prepared(Image.open(file)) for file in sorted(digits.glob("*/*.png"))}


@pytest.fixture(scope="module")
def network(arrays: dict[str, np.ndarray[Any, Any]]) -> torch.nn.Module:
    """A small convolutional network, trained on every other digit."""
    torch.manual_seed(0)
    x = torch.from_numpy(np.stack(list(arrays.values())))
    y = torch.tensor([int(Path(path).parent.name) for path in arrays])
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 5, stride=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(288, 10)
    )
    optimizer = torch.optim.Adam(layers.parameters(), lr=0.01)
    for _ in range(4):
        for chosen in torch.randperm(len(x) // 2).mul(2).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layers(x[chosen]), y[chosen]).backward()
            optimizer.step()
    return layers.eval()


@pytest.fixture(scope="module")
def cnn_uri(store: str, network: torch.nn.Module, arrays: dict[str, np.ndarray[Any, Any]]) -> str:
    """The network with the signature that MLflow infers: (-1, 1, 28, 28) float32 -> (-1, 10) float32, as `digits@champion`."""
    x = np.stack(list(arrays.values())[:4])
    with torch.no_grad():
        signature = infer_signature(x, network(torch.from_numpy(x)).numpy())
    with mlflow.start_run():
        mlflow.pytorch.log_model(
            network, name="model", signature=signature, serialization_format="pickle", registered_model_name="digits", pip_requirements=[]
        )
    mlflow.MlflowClient().set_registered_model_alias("digits", "champion", "1")
    return "models:/digits@champion"


@pytest.fixture(scope="module")
def mean_uri(store: str) -> str:
    """A model of a tensor whose prediction cannot depend on the batch: each channel's mean and the shape that it got."""

    class Mean(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            assert type(model_input).__name__ == "ndarray"
            assert model_input.dtype == "float32"
            rows = [[*one.reshape(3, -1).sum(axis=1).tolist(), *map(float, one.shape)] for one in model_input]
            return np.array(rows, "float64")

    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 3, -1, -1))]), outputs=Schema([TensorSpec(np.dtype("float64"), (-1, 6))])
    )
    with mlflow.start_run():
        return str(mlflow.pyfunc.log_model(name="model", python_model=Mean(), signature=signature, pip_requirements=[]).model_uri)


def written(location: str) -> pd.DataFrame:
    return DeltaTable(location).to_pandas().sort_values("path").reset_index(drop=True)


def test_a_network_scores_a_folder_of_images(
    spark: SparkSession, config: Make, cnn_uri: str, digits: Path, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    settings = config(model={"uri": cnn_uri}, source={"path": str(digits), "format": "images", "image": PIXELS})

    result = score(settings, spark=spark)

    rows = written(result.location)
    assert result.rows_written == len(rows) == 1_797
    assert rows.columns[:4].tolist() == ["path", "modified_at", "size", "prediction"]
    assert rows["path"].tolist() == list(arrays)
    scores = np.stack(rows["prediction"].tolist())
    assert scores.dtype == np.float32
    # How torch adds up depends on the batch; the last test of this kind compares bits at equal batches.
    expected = mlflow.pyfunc.load_model(cnn_uri).predict(np.stack(list(arrays.values())))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    labels = rows["path"].map(lambda path: int(Path(path).parent.name))
    assert (scores.argmax(axis=1) == labels).mean() > 0.9


def test_at_equal_batches_the_networks_predictions_are_equal_bit_for_bit(
    spark: SparkSession, config: Make, cnn_uri: str, digits: Path, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    settings = config(
        model={"uri": cnn_uri}, source={"path": str(digits / "7"), "format": "images", "image": PIXELS}, scoring={"batch_size": 1}
    )

    rows = written(score(settings, spark=spark).location)

    model = mlflow.pyfunc.load_model(cnn_uri)
    assert len(rows) == 179
    for path, prediction in zip(rows["path"], rows["prediction"], strict=True):
        np.testing.assert_array_equal(prediction, model.predict(arrays[path][np.newaxis])[0])


def test_the_array_is_the_tensor_whatever_dimensions_are_open(
    spark: SparkSession, config: Make, mean_uri: str, digits: Path, tmp_path: Path
) -> None:
    for i in range(5):
        Image.effect_noise((40, 30), 50).convert("RGB").rotate(i).save(tmp_path / f"{i}.jpg")
    settings = config(model={"uri": mean_uri}, source={"path": f"{tmp_path}/*.jpg", "format": "images", "image": {"size": [30, 40]}})

    rows = written(score(settings, spark=spark).location)

    for path, prediction in zip(rows["path"], rows["prediction"], strict=True):
        pixels = np.asarray(Image.open(path), np.float32).transpose(2, 0, 1)
        expected = [*pixels.reshape(3, -1).sum(axis=1).tolist(), 3.0, 30.0, 40.0]
        assert list(prediction) == expected


def test_a_model_of_flat_pixels_scores_images(
    spark: SparkSession, config: Make, store: str, digits: Path, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = np.stack([one.ravel() for one in arrays.values()]), [Path(path).parent.name for path in arrays]
    classifier = LogisticRegression(max_iter=200).fit(x[::4], y[::4])
    with mlflow.start_run():
        uri = mlflow.sklearn.log_model(
            classifier,
            name="model",
            signature=infer_signature(x, classifier.predict(x)),
            serialization_format="cloudpickle",
            pip_requirements=[],
        ).model_uri
    settings = config(model={"uri": uri}, source={"path": str(digits / "0"), "format": "images", "image": PIXELS})

    rows = written(score(settings, spark=spark).location)

    expected = mlflow.pyfunc.load_model(uri).predict(np.stack([arrays[path].ravel() for path in rows["path"]]))
    assert rows["prediction"].tolist() == list(expected)


def test_a_model_with_a_column_of_another_name_gets_the_bytes(spark: SparkSession, config: Make, store: str, digits: Path) -> None:
    class Sizes(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            import io

            from PIL import Image

            return [Image.open(io.BytesIO(content)).size[0] * len(content) for content in model_input["photo"]]

    signature = ModelSignature(inputs=Schema([ColSpec("binary", "photo")]), outputs=Schema([ColSpec("long")]))
    with mlflow.start_run():
        uri = mlflow.pyfunc.log_model(name="model", python_model=Sizes(), signature=signature, pip_requirements=[]).model_uri
    settings = config(model={"uri": uri}, source={"path": str(digits / "0"), "format": "images"})
    settings["output"]["columns"] = ["path", "image"]

    assert [str(one) for one in dry_run(settings, spark=spark).alignment.inputs] == ["photo: binary (column image)"]
    rows = written(score(settings, spark=spark).location)

    assert rows.columns[:3].tolist() == ["path", "image", "prediction"]
    assert all(bytes(image) == Path(path).read_bytes() for path, image in zip(rows["path"], rows["image"], strict=True))
    assert rows["prediction"].tolist() == [8 * Path(path).stat().st_size for path in rows["path"]]


def test_images_of_another_shape_are_refused_before_scoring(spark: SparkSession, config: Make, cnn_uri: str, digits: Path) -> None:
    settings = config(model={"uri": cnn_uri}, source={"path": str(digits), "format": "images", "image": {**PIXELS, "size": [14, 14]}})

    with pytest.raises(ConfigError) as caught:
        score(settings, spark=spark)

    assert str(caught.value) == (
        "source.image: size [14, 14], mode L and layout chw make arrays of shape (-1, 1, 14, 14), and the model takes (-1, 1, 28, 28); set "
        "source.image.size=[28, 28], mode=L, layout=chw"
    )
    assert not Path(settings["output"]["path"]).exists()


def test_bytes_for_a_tensor_are_refused(spark: SparkSession, config: Make, cnn_uri: str, digits: Path) -> None:
    settings = config(model={"uri": cnn_uri}, source={"path": str(digits), "format": "images"})

    with pytest.raises(InputError) as caught:
        score(settings, spark=spark)

    assert "column 'image' is binary and the model needs array<float>" in str(caught.value)


def test_a_broken_image_stops_the_run_by_name_and_nothing_is_written(
    spark: SparkSession, config: Make, cnn_uri: str, digits: Path, tmp_path: Path
) -> None:
    for i, file in enumerate(sorted((digits / "1").glob("*.png"))[:20]):
        content = file.read_bytes()
        (tmp_path / f"{i:02}.png").write_bytes(content if i != 13 else content[:-30])
    settings = config(model={"uri": cnn_uri}, source={"path": f"{tmp_path}/*.png", "format": "images", "image": PIXELS})

    with pytest.raises(InputError, match=rf"^source.path: {tmp_path}/13.png cannot be read as an image: "):
        score(settings, spark=spark)

    assert not Path(settings["output"]["path"]).exists()


@pytest.mark.parametrize("kind", [pytest.param("array", marks=pytest.mark.long), "bytes"])
def test_broken_images_are_quarantined_and_scored_by_a_replay_after_they_are_mended(
    spark: SparkSession, config: Make, cnn_uri: str, digits: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    whole = {f"{i:02}.png": file.read_bytes() for i, file in enumerate(sorted((digits / "1").glob("*.png"))[:20])}
    broken = {"03.png": b"", "07.png": b"no image", "13.png": whole["13.png"][:-30]}
    for name, content in (whole | broken).items():
        (folder / name).write_bytes(content)
    settings = config(
        run={"batch_id": "b"},
        model={"uri": cnn_uri} if kind == "array" else {"uri": _log_length(), "result_type": "long"},
        source={"path": str(folder), "format": "images", "image": PIXELS if kind == "array" else {"as": "bytes"}},
        errors={"on_row_error": "quarantine"},
    )

    first = score(settings, spark=spark)
    failed = DeltaTable(str(first.quarantine)).to_pandas()
    for name in broken:
        (folder / name).write_bytes(whole[name])
    second = replay(settings, spark=spark)

    assert (first.rows_read, first.rows_scored, first.rows_quarantined) == (20, 17, 3)
    assert set(failed["error_class"]) == {"InputError"}
    assert sorted(message.split(" cannot be read as an image")[0] for message in failed["error_message"]) == [
        f"source.path: {folder}/{name}" for name in broken
    ]
    assert (second.batch_id, second.rows_scored, second.rows_quarantined) == ("b.replay", 3, 0)
    assert written(first.location)["path"].tolist() == [f"{folder}/{name}" for name in whole]


def _log_length() -> str:
    """A model of a column of bytes: how many there are."""

    class Length(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input["image"].map(len)

    signature = ModelSignature(inputs=Schema([ColSpec(DataType.binary, "image")]), outputs=Schema([ColSpec(DataType.long)]))
    with mlflow.start_run():
        return str(mlflow.pyfunc.log_model(name="model", python_model=Length(), signature=signature, pip_requirements=[]).model_uri)


def test_a_model_without_a_signature_says_so(spark: SparkSession, config: Make, store: str, network: torch.nn.Module, digits: Path) -> None:
    with mlflow.start_run():
        uri = mlflow.pytorch.log_model(network, name="model", serialization_format="pickle", pip_requirements=[]).model_uri
    settings = config(model={"uri": uri}, source={"path": str(digits), "format": "images", "image": PIXELS})

    with pytest.raises(ModelError, match=r"model.result_type: is required, because the model's signature declares no output"):
        score(settings, spark=spark)
