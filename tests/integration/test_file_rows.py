"""Files as rows: what they are called, what is in them, what is refused, and how many tasks read them."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow.models import ModelSignature
from mlflow.types.schema import ColSpec, Schema
from PIL import Image
from pyspark.sql import DataFrame, SparkSession

from lakescore import score, session, source
from lakescore.config import SourceConfig
from lakescore.errors import InputError, LakescoreError
from lakescore.failures import translated

Make = Callable[..., dict[str, Any]]
ODD_NAMES = [
    "a b.txt", "p%41.txt", "h#x.txt", "ü☃.txt", "br[1]{2}.txt", "co:lon.txt", "star*.txt", "q?.txt", "plus+&=.txt", "back\\slash.txt",
    "a:b/x.txt", "deep/er/x.txt",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder ``in`` of the current directory, with three texts."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("one.txt", "sub/two.txt", "sub/three.txt")):
        file = tmp_path / "in" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
        os.utime(file, (1_700_000_000 + i, 1_700_000_000 + i))
    return tmp_path / "in"


def opened(spark: SparkSession, **keys: Any) -> DataFrame:
    config = SourceConfig.model_validate(keys)
    return source.read(spark, config, source.inspect(config), []).df


def refusal(spark: SparkSession, **keys: Any) -> str:
    with pytest.raises(InputError) as caught, translated("scoring failed", LakescoreError):
        opened(spark, **keys).collect()
    return str(caught.value)


# --- columns


def test_a_text_file_is_a_row(spark: SparkSession, folder: Path) -> None:
    df = opened(spark, path="in", format="text_files")

    assert df.dtypes == [("path", "string"), ("modified_at", "timestamp"), ("size", "bigint"), ("text", "string")]
    row = df.where("path = 'in/one.txt'").first()
    assert row is not None
    assert (row.size, row.text) == (7, "one.txt")
    assert row.modified_at.astimezone(dt.timezone.utc) == dt.datetime(2023, 11, 14, 22, 13, 20, tzinfo=dt.timezone.utc)


@pytest.mark.parametrize("options", [{}, {"modifiedAfter": "2023-11-14T00:00:00"}, {"modifiedBefore": "2023-11-15T00:00:00"}])
def test_a_file_of_no_bytes_is_a_row_too(spark: SparkSession, folder: Path, options: dict[str, str]) -> None:
    (folder / "a b%20.txt").touch()
    os.utime(folder / "a b%20.txt", (1_700_000_000, 1_700_000_000))

    found = {row.path: (row.size, row.text) for row in opened(spark, path="in", format="text_files", options=options).collect()}

    assert found["in/a b%20.txt"] == (0, "")
    assert len(found) == 4


@pytest.mark.parametrize("options", [{"modifiedAfter": "2023-11-15T00:00:00"}, {"modifiedBefore": "2023-11-14T00:00:00"}])
def test_a_file_of_no_bytes_keeps_to_the_times_that_are_asked_for(spark: SparkSession, folder: Path, options: dict[str, str]) -> None:
    (folder / "empty.txt").touch()
    os.utime(folder / "empty.txt", (1_700_000_000, 1_700_000_000))

    assert opened(spark, path="in", format="text_files", options=options).isEmpty()


def test_a_binary_file_is_a_row_of_its_bytes(spark: SparkSession, folder: Path) -> None:
    df = opened(spark, path="in", format="binary")

    assert df.dtypes[-1] == ("content", "binary")
    assert {bytes(row.content) for row in df.collect()} == {b"one.txt", b"sub/two.txt", b"sub/three.txt"}


@pytest.mark.parametrize("image", [None, {"as": "bytes"}, {"size": [2, 3], "mode": "L"}])
def test_an_image_is_a_row_of_its_bytes_or_its_pixels(spark: SparkSession, tmp_path: Path, image: dict[str, Any] | None) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    df = opened(spark, path=str(tmp_path), format="images", **({"image": image} if image else {}))

    (row,) = df.collect()
    if image and "size" in image:
        assert df.dtypes[-1] == ("image", "array<float>")
        assert row.image == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    else:
        assert df.dtypes[-1] == ("image", "binary")
        assert bytes(row.image) == (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize(("encoding", "content"), [("UTF-8", b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe"), ("ISO-8859-1", b"Gr\xfc\xdfe")])
def test_texts_are_read_in_the_configured_encoding(spark: SparkSession, tmp_path: Path, encoding: str, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)

    (row,) = opened(spark, path=str(tmp_path), format="text_files", options={"encoding": encoding}).collect()

    assert row.text == "Grüße"


# --- paths


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("in", ["in/one.txt", "in/sub/three.txt", "in/sub/two.txt"]),
        ("./in/", ["./in/one.txt", "./in/sub/three.txt", "./in/sub/two.txt"]),
        (".", ["./in/one.txt", "./in/sub/three.txt", "./in/sub/two.txt"]),
        ("{tmp}/in", ["{tmp}/in/one.txt", "{tmp}/in/sub/three.txt", "{tmp}/in/sub/two.txt"]),
        ("file://{tmp}/in/sub", ["file://{tmp}/in/sub/three.txt", "file://{tmp}/in/sub/two.txt"]),
        ("in/../in/sub", ["in/../in/sub/three.txt", "in/../in/sub/two.txt"]),
        ("in/one.txt", ["in/one.txt"]),
        ("in/*/t*.txt", ["in/sub/three.txt", "in/sub/two.txt"]),
        ("*/sub", ["in/sub/three.txt", "in/sub/two.txt"]),
        ("in/{{one,sub/two}}.txt", ["in/one.txt", "in/sub/two.txt"]),
        (["in/one.txt", "in/sub"], ["in/one.txt", "in/sub/three.txt", "in/sub/two.txt"]),
        (["in/one.txt", "{tmp}/in/sub"], ["in/one.txt", "{tmp}/in/sub/three.txt", "{tmp}/in/sub/two.txt"]),
    ],
)
def test_a_path_stays_as_it_was_given(spark: SparkSession, folder: Path, given: Any, expected: list[str]) -> None:
    tmp = str(folder.parent)
    path = [one.format(tmp=tmp) for one in given] if isinstance(given, list) else given.format(tmp=tmp)

    rows = opened(spark, path=path, format="text_files").collect()

    assert sorted(row.path for row in rows) == sorted(one.format(tmp=tmp) for one in expected)
    assert all(row.path.replace(tmp + "/", "").endswith(row.text) for row in rows)


@pytest.mark.parametrize(("folder_name", "below"), [("odd [x] %20#", ""), ("odd %20#", "/*")])
def test_odd_names_come_back_unchanged(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder_name: str, below: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ODD_NAMES:
        file = tmp_path / folder_name / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)

    rows = opened(spark, path=folder_name + below, format="text_files").collect()

    assert sorted(row.path for row in rows) == sorted(f"{folder_name}/{name}" for name in ODD_NAMES)
    assert all(row.path == f"{folder_name}/{row.text}" for row in rows)


# --- choosing


def test_filter_and_limit_choose_files(spark: SparkSession, folder: Path) -> None:
    assert [row.path for row in opened(spark, path="in", format="text_files", filter="size > 11").collect()] == ["in/sub/three.txt"]
    assert [row.path for row in opened(spark, path="in", format="text_files", filter="path LIKE '%/two.txt'").collect()] == [
        "in/sub/two.txt"
    ]
    assert [row.path for row in opened(spark, path="in", format="text_files", filter="text = 'one.txt'").collect()] == ["in/one.txt"]
    assert opened(spark, path="in", format="text_files", limit=2).count() == 2
    assert opened(spark, path="in", format="text_files", options={"pathGlobFilter": "t*.{md,txt}"}).count() == 2


def test_a_file_that_the_filter_leaves_out_is_not_decoded(spark: SparkSession, folder: Path) -> None:
    (folder / "notes.bin").write_bytes(b"\xff")

    rows = opened(spark, path="in", format="text_files", filter="path LIKE '%.txt'").collect()

    assert len(rows) == 3


# --- what is refused


def test_a_broken_image_is_named_by_the_task_that_reads_it(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((64, 64), 50).save(tmp_path / "odd name.jpg")
    (tmp_path / "odd name.jpg").write_bytes((tmp_path / "odd name.jpg").read_bytes()[:900])

    message = refusal(spark, path="*.jpg", format="images", image={"size": [8, 8]})

    assert message.startswith("source.path: odd name.jpg cannot be read as an image: image file is truncated (")


def test_a_broken_image_that_stays_bytes_is_named(spark: SparkSession, tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])

    assert refusal(spark, path=str(tmp_path), format="images").startswith(f"source.path: {tmp_path}/a.png cannot be read as an image: ")


def test_a_decompression_bomb_is_named_with_pillows_limit(spark: SparkSession, tmp_path: Path) -> None:
    Image.new("1", (20_000, 9_000)).save(tmp_path / "bomb.png")

    assert refusal(spark, path=str(tmp_path), format="images", filter="size > 0", image={"size": [8, 8]}) == (
        f"source.path: {tmp_path}/bomb.png cannot be read as an image: Image size (180000000 pixels) exceeds limit of 178956970 pixels, "
        "could be decompression bomb DOS attack."
    )


def test_a_text_in_another_encoding_is_named_by_the_task_that_reads_it(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Gr\xfc\xdfe")

    assert refusal(spark, path=str(tmp_path), format="text_files", filter="size > 0") == (
        f"source.path: {tmp_path}/a.txt is no UTF-8 text (byte 0xfc at position 2); set source.options.encoding, for example ISO-8859-1"
    )


def test_a_file_that_disappears_is_named(spark: SparkSession, folder: Path) -> None:
    df = opened(spark, path="in", format="binary")
    (folder / "one.txt").unlink()

    with pytest.raises(InputError, match=r"in/one.txt: cannot be read: .*does not exist"), translated("scoring failed", LakescoreError):
        df.collect()


def test_a_glob_that_only_spark_knows_must_match(spark: SparkSession, folder: Path) -> None:
    assert refusal(spark, path="in/{a,b}/*.txt", format="binary").startswith("source.path: in/{a,b}/*.txt: ")


def test_an_empty_folder_that_only_spark_knows_is_refused(spark: SparkSession, folder: Path) -> None:
    (folder / "empty").mkdir()

    assert refusal(spark, path="in/{empty,none}", format="binary") == "source.path: there is no file in in/{empty,none}"


# --- many small files


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 small texts in two folders."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(5_000):
        file = folder / f"{i % 2}" / f"{i:04}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{i} is {'even' if i % 2 == 0 else 'odd'}")
    return folder


@pytest.fixture(scope="module")
def length_uri(store: str) -> str:
    """A model that gives a text's length."""

    class Length(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            return model_input["review"].str.len().astype("int64")

    signature = ModelSignature(inputs=Schema([ColSpec("string", "review")]), outputs=Schema([ColSpec("long")]))
    with mlflow.start_run():
        return str(mlflow.pyfunc.log_model(name="model", python_model=Length(), signature=signature, pip_requirements=[]).model_uri)


@pytest.fixture
def tasks(spark: SparkSession) -> Iterator[Callable[[], int]]:
    """How many tasks the largest stage had since the fixture was made."""
    tracker, group = spark.sparkContext.statusTracker(), "tasks-of-test"
    spark.sparkContext.setJobGroup(group, "")

    def most() -> int:
        stages = [stage for job in tracker.getJobIdsForGroup(group) for stage in getattr(tracker.getJobInfo(job), "stageIds", ())]
        return max(int(found.numTasks) for stage in stages if (found := tracker.getStageInfo(stage)))

    yield most
    spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("below", ["", "/*/*.txt"])
def test_thousands_of_small_files_take_few_tasks_and_make_few_files(
    spark: SparkSession, config: Make, many: Path, length_uri: str, tasks: Callable[[], int], below: str
) -> None:
    settings = config(model={"uri": length_uri}, source={"path": f"{many}{below}", "format": "text_files"})

    result = score(settings, spark=spark)

    written = spark.read.format("delta").load(result.location)
    assert result.rows_written == written.count() == 5_000
    assert len(written.inputFiles()) <= 12
    assert tasks() <= 32
    assert written.where("prediction <> size").count() == 0
    assert written.columns[:4] == ["path", "modified_at", "size", "prediction"]


def test_the_sessions_own_settings_are_put_back(spark: SparkSession, config: Make, many: Path, length_uri: str) -> None:
    key = "spark.sql.files.openCostInBytes"
    before = spark.conf.get(key)
    settings = config(model={"uri": length_uri}, source={"path": str(many / "0"), "format": "text_files", "limit": 3})

    assert score(settings, spark=spark).rows_written == 3

    assert spark.conf.get(key) == before
    with session.runtime_conf(spark, **source.runtime_conf(SourceConfig(path=("a",)))):
        assert spark.conf.get(key) == before
