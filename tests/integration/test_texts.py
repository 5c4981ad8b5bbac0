"""Reviews from text files through scikit-learn's text pipelines, equal to the pipelines' own predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from mlflow.models import ModelSignature, infer_signature
from pyspark.sql import SparkSession
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from lakescore import score
from lakescore.errors import InputError

ROOT = Path(__file__).parents[2]
Make = Callable[..., dict[str, Any]]
GOOD = ["moving", "brilliant", "a joy", "warm", "funny", "superb", "touching", "clever", "grand", "delightful"]
BAD = ["dull", "a bore", "clumsy", "lifeless", "a mess", "tedious", "awful", "shallow", "noisy", "wooden"]
ABOUT = ["plot", "cast", "camera work", "score", "ending", "dialogue", "café scene", "first hour", "lead actor", "script"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 short reviews as files, ``pos/0001.txt`` and ``neg/0002.txt``."""
    folder = tmp_path_factory.mktemp("texts") / "reviews"
    random = np.random.default_rng(0)
    for i in range(400):
        name, words = ("pos", GOOD) if i % 2 else ("neg", BAD)
        sentences = [f"The {random.choice(ABOUT)} was {random.choice(words)}." for _ in range(random.integers(1, 6))]
        file = folder / name / f"{i:04}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(sentences), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def texts(reviews: Path) -> dict[str, str]:
    """Each file's text, by its path."""
    return {str(file): file.read_text(encoding="utf-8") for file in sorted(reviews.glob("*/*.txt"))}


def log(pipeline: Pipeline, signature: ModelSignature, **options: Any) -> str:
    with mlflow.start_run():
        logged = mlflow.sklearn.log_model(
            pipeline, name="model", signature=signature, serialization_format="cloudpickle", pip_requirements=[], **options
        )
    return str(logged.model_uri)


def classes(texts: dict[str, str]) -> list[str]:
    return [Path(path).parent.name for path in texts]


@pytest.fixture(scope="module")
def column_uri(store: str, texts: dict[str, str]) -> str:
    """A pipeline over a frame with the column `review`, as `sentiment@champion`."""
    frame = pd.DataFrame({"review": list(texts.values())})
    pipeline = make_pipeline(ColumnTransformer([("tfidf", TfidfVectorizer(), "review")]), LogisticRegression())
    pipeline.fit(frame[::2], classes(texts)[::2])
    log(pipeline, infer_signature(frame, pipeline.predict(frame)), registered_model_name="sentiment")
    mlflow.MlflowClient().set_registered_model_alias("sentiment", "champion", "1")
    return "models:/sentiment@champion"


def array_uri(texts: dict[str, str], kind: str) -> str:
    """A pipeline over an array of texts, without a name."""
    array = np.array(list(texts.values()), dtype=kind)
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(array[::2], classes(texts)[::2])
    return log(pipeline, infer_signature(array, pipeline.predict(array)))


def written(location: str) -> pd.DataFrame:
    return DeltaTable(location).to_pandas().sort_values("path").reset_index(drop=True)


def test_a_pipeline_gives_each_file_its_class(
    spark: SparkSession, config: Make, column_uri: str, reviews: Path, texts: dict[str, str]
) -> None:
    settings = config(model={"uri": column_uri}, source={"path": str(reviews), "format": "text_files"})

    rows = written(score(settings, spark=spark).location)

    expected = mlflow.pyfunc.load_model(column_uri).predict(pd.DataFrame({"review": list(texts.values())}))
    assert rows["path"].tolist() == list(texts)
    assert rows["prediction"].tolist() == list(expected)
    assert (rows["prediction"] == classes(texts)).mean() > 0.95


def test_predict_proba_gives_each_file_its_probabilities(
    spark: SparkSession, config: Make, column_uri: str, reviews: Path, texts: dict[str, str]
) -> None:
    settings = config(
        model={"uri": column_uri, "predict_method": "predict_proba"},
        source={"path": str(reviews), "format": "text_files"},
        columns={"rename": {"text": "review"}},
    )
    settings["output"]["columns"] = ["path", "review"]

    rows = written(score(settings, spark=spark).location)

    expected = mlflow.sklearn.load_model(column_uri).predict_proba(pd.DataFrame({"review": list(texts.values())}))
    np.testing.assert_array_equal(np.stack(rows["prediction"].tolist()), expected)
    assert rows["review"].tolist() == list(texts.values())


@pytest.mark.parametrize("kind", ["str", "object"])
def test_a_pipeline_over_plain_texts_needs_no_name(
    spark: SparkSession, config: Make, store: str, reviews: Path, texts: dict[str, str], kind: str
) -> None:
    uri = array_uri(texts, kind)
    settings = config(model={"uri": uri}, source={"path": str(reviews), "format": "text_files"})

    rows = written(score(settings, spark=spark).location)

    expected = mlflow.pyfunc.load_model(uri).predict(np.array(list(texts.values()), dtype=kind))
    assert rows["prediction"].tolist() == list(expected)


def test_a_model_with_two_inputs_that_are_not_there_is_refused(
    spark: SparkSession, config: Make, store: str, reviews: Path, texts: dict[str, str]
) -> None:
    frame = pd.DataFrame({"title": ["a", "b"], "body": ["c", "d"]})
    pipeline = make_pipeline(ColumnTransformer([("tfidf", TfidfVectorizer(token_pattern=r"\w"), "title")]), LogisticRegression())
    pipeline.fit(frame, ["neg", "pos"])
    settings = config(model={"uri": log(pipeline, infer_signature(frame, ["neg"]))}, source={"path": str(reviews), "format": "text_files"})

    with pytest.raises(InputError, match=r"the source has no column 'title' \(string\), which the model needs"):
        score(settings, spark=spark)


def test_a_file_in_another_encoding_stops_the_run_by_name_and_nothing_is_written(
    spark: SparkSession, config: Make, column_uri: str, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("The plot was warm.")
    (tmp_path / "b.txt").write_bytes("The café scene was funny.".encode("latin-1"))
    settings = config(model={"uri": column_uri}, source={"path": f"{tmp_path}/*.txt", "format": "text_files"})

    with pytest.raises(InputError) as caught:
        score(settings, spark=spark)

    assert str(caught.value) == (
        f"source.path: {tmp_path}/b.txt is no UTF-8 text (byte 0xe9 at position 7); set source.options.encoding, for example ISO-8859-1"
    )
    assert not Path(settings["output"]["path"]).exists()


def test_a_file_in_another_encoding_is_quarantined(spark: SparkSession, config: Make, column_uri: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The plot was warm.")
    (tmp_path / "b.txt").write_bytes("The café scene was funny.".encode("latin-1"))
    settings = config(
        model={"uri": column_uri},
        source={"path": f"{tmp_path}/*.txt", "format": "text_files"},
        output={"path": str(tmp_path / "out"), "columns": ["path", "text"]},
        errors={"on_row_error": "quarantine"},
    )

    result = score(settings, spark=spark)

    assert written(result.location)[["path", "text"]].to_numpy().tolist() == [[f"{tmp_path}/a.txt", "The plot was warm."]]
    (failed,) = spark.read.format("delta").load(str(result.quarantine)).collect()
    assert failed.error_message.startswith(f"source.path: {tmp_path}/b.txt is no UTF-8 text (byte 0xe9 at position 7)")
    assert json.loads(failed.payload)["path"] == f"{tmp_path}/b.txt"
