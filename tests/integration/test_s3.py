"""Input, output and model on S3, against a real server of its protocol in a process of its own."""

from __future__ import annotations

import itertools
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pandas as pd
import pytest
from botocore.client import BaseClient
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

import lakescore
from lakescore import object_store, score, storage
from lakescore.errors import InputError, LakescoreError, ModelError, OutputError
from lakescore.sinks import journal
from lakescore.sinks.base import AlreadyPublishedError
from publications import hidden, killed_at, open_sink, publish, shown, stage
from support.environment import without

Make = Callable[..., dict[str, Any]]
BUCKET = "lakescore-tests"
KEY, SECRET = "AKIATESTTESTTEST0001", "s3cr3t-of-the-environment-0001"
BY_DAY = "date_add(date'2026-01-01', cast(id % 3 as int))"


# It ends with the tests, also where those are killed.
_SERVER = """
import os, sys, threading
from moto.server import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(["-H", "127.0.0.1", "-p", sys.argv[1]])
"""


def _environment(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path_factory.mktemp("s3") / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", _SERVER, str(port)], stdin=subprocess.PIPE, stdout=out, stderr=out)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def client(server: str, monkeypatch: pytest.MonkeyPatch) -> BaseClient:
    """The server's bucket; the environment is as somebody has it who uses that server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in _environment(server).items():
        monkeypatch.setenv(name, value)
    made = boto3.client("s3")
    if BUCKET not in [bucket["Name"] for bucket in made.list_buckets()["Buckets"]]:
        made.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return made


@pytest.fixture
def place(client: BaseClient, request: pytest.FixtureRequest) -> str:
    """A place in the bucket for one test: ``BUCKET/NAME``."""
    return f"{BUCKET}/{re.sub(r'[^a-z0-9]+', '-', request.node.name)}"


@pytest.fixture
def s3_spark(spark: SparkSession, client: BaseClient, server: str) -> SparkSession:
    """The suite's session, which was started without the server."""
    for key, value in {"endpoint": server, "path.style.access": "true", "access.key": KEY, "secret.key": SECRET}.items():
        spark.conf.set(f"fs.s3a.{key}", value)
    return spark


@pytest.fixture
def patients(diabetes: pd.DataFrame, place: str) -> str:
    """The patients as a Parquet file on the server."""
    path = f"s3://{place}/in/patients.parquet"
    _put(path, diabetes.to_parquet(index=False))
    return path


@pytest.fixture
def model(linear_uri: str, place: str, tmp_path: Path) -> str:
    """The linear regression on the server."""
    folder = Path(mlflow.artifacts.download_artifacts(linear_uri, dst_path=str(tmp_path / "model")))
    for file in folder.rglob("*"):
        if file.is_file():
            _put(f"s3://{place}/model/{file.relative_to(folder)}", file.read_bytes())
    return f"s3://{place}/model"


def _put(path: str, content: bytes) -> None:
    bucket, _, key = path.partition("://")[2].partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=content)


def _keys(client: BaseClient, path: str) -> list[str]:
    bucket, _, prefix = path.partition("://")[2].partition("/")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return [found["Key"].removeprefix(f"{prefix}/") for page in pages for found in page.get("Contents", ())]


def _settings(config: Make, model: str, source: str, path: str, output: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    sections = {"run": {"batch_id": "a", "date": "2026-01-31"}, **sections}
    return config(model={"uri": model}, source={"path": source}, output={"path": path, **(output or {})}, **sections)


# --- what works


def test_a_delta_table_is_written_skipped_replaced_and_read(
    s3_spark: SparkSession, client: BaseClient, config: Make, model: str, patients: str, place: str
) -> None:
    out = f"s3a://{place}/out"
    settings = _settings(config, model, patients, out)

    first = score(settings, spark=s3_spark)
    score(settings, overrides=["run.batch_id=b", "source.limit=5"], spark=s3_spark)
    again = score(settings, spark=s3_spark)
    score(settings, overrides=["run.batch_id=b", "run.on_rerun=replace", "source.limit=7"], spark=s3_spark)

    assert (first.outcome, first.version, again.outcome) == ("scored", 0, "skipped")
    rows = lakescore.read(out)
    assert rows.groupby("batch_id").size().to_dict() == {"a": 442, "b": 7}
    assert set(rows["model_uri"]) == {model}
    assert s3_spark.read.format("delta").load(out).count() == 449
    assert lakescore.read(first, tracking_uri=settings["tracking"]["tracking_uri"], spark=s3_spark).count() == 442


def test_a_delta_table_is_a_source(s3_spark: SparkSession, client: BaseClient, config: Make, model: str, patients: str, place: str) -> None:
    s3_spark.read.parquet(patients).limit(20).write.format("delta").save(f"s3a://{place}/table")

    result = score(_settings(config, model, f"s3a://{place}/table", f"s3a://{place}/out"), spark=s3_spark)

    assert (result.rows_written, len(lakescore.read(result.location))) == (20, 20)


def test_a_parquet_table_is_written_skipped_replaced_and_read(
    s3_spark: SparkSession, client: BaseClient, config: Make, model: str, patients: str, place: str
) -> None:
    out = f"s3a://{place}/out"
    settings = _settings(config, model, patients, out, {"format": "parquet", "partition_by": BY_DAY})

    score(settings, spark=s3_spark)
    score(settings, overrides=["run.batch_id=b", "source.limit=5"], spark=s3_spark)
    again = score(settings, spark=s3_spark)
    score(settings, overrides=["run.batch_id=b", "run.on_rerun=replace", "source.limit=7"], spark=s3_spark)

    assert again.outcome == "skipped"
    assert lakescore.read(out).groupby("batch_id").size().to_dict() == {"a": 442, "b": 7}
    assert lakescore.read(out, spark=s3_spark).groupBy("score_date").count().count() == 3
    assert s3_spark.read.parquet(out).count() == 449
    assert all(key.startswith("score_date=") and key.endswith(".parquet") for key in _keys(client, out))


def test_csv_goes_in_and_one_file_of_rows_comes_out(
    s3_spark: SparkSession, client: BaseClient, config: Make, model: str, diabetes: pd.DataFrame, place: str
) -> None:
    _put(f"s3://{place}/in/a.csv", diabetes.head(9).to_csv(index=False).encode())
    output = {"format": "jsonl", "columns": ["id"]}
    schema = ", ".join(f"{name} {'bigint' if name == 'id' else 'double'}" for name in diabetes.columns)
    settings = _settings(config, model, f"s3a://{place}/in", f"s3a://{place}/out", output)
    settings["source"] |= {"schema": schema, "options": {"header": "true"}}

    score(settings, spark=s3_spark)
    again = score(settings, spark=s3_spark)

    assert again.outcome == "skipped"
    assert lakescore.read(f"s3a://{place}/out")["id"].tolist() == list(range(9))
    record, rows = _keys(client, f"s3a://{place}/out")
    assert (record.startswith(".batch-infer-res.jsonl."), rows) == (True, "batch-infer-res.jsonl")
    with pytest.raises(OutputError, match="holds the batch a"):
        score(settings, overrides=["run.batch_id=b"], spark=s3_spark)


def test_rows_that_cannot_be_scored_and_drift_files_lie_beside_the_output(
    s3_spark: SparkSession, client: BaseClient, config: Make, model: str, diabetes: pd.DataFrame, place: str
) -> None:
    _put(f"s3://{place}/reference.parquet", diabetes.to_parquet(index=False))
    patients = diabetes.head(20).assign(bmi=diabetes["bmi"].where(diabetes["id"] > 2))  # scikit-learn refuses NaN
    _put(f"s3://{place}/in/a.parquet", patients.to_parquet(index=False))
    sections = {"errors": {"on_row_error": "quarantine"}, "drift": {"reference": f"s3a://{place}/reference.parquet"}}

    for output_format in ("delta", "parquet"):
        out = f"s3a://{place}/{output_format}"
        result = score(_settings(config, model, f"s3a://{place}/in", out, {"format": output_format}, **sections), spark=s3_spark)

        assert (result.rows_written, result.rows_quarantined, result.quarantine) == (17, 3, f"{out}_quarantine")
        assert lakescore.read(f"{out}_quarantine")["error_class"].tolist() == ["ValueError"] * 3
        assert "a/drift_results.json" in _keys(client, f"{out}_drift")


def test_a_run_of_its_own_takes_server_and_keys_from_the_environment_and_shows_them_nowhere(
    client: BaseClient, server: str, store: str, model: str, patients: str, place: str, tmp_path: Path
) -> None:
    configured = "s3cr3t-of-the-configuration-0002"
    (tmp_path / "score.yaml").write_text(
        f"""
model: {{uri: "{model}"}}
source: {{path: "{patients}"}}
output: {{path: "s3://{place}/out", format: parquet, partition_by: "{BY_DAY}"}}
run: {{batch_id: a}}
tracking: {{tracking_uri: "sqlite:///{tmp_path}/own.db"}}
spark:
  master: local[2]
  conf: {{spark.hadoop.fs.s3a.bucket.another.secret.key: {configured}, spark.ui.enabled: "false"}}
""",
        encoding="utf-8",
    )
    # The key comes from a profile, which all four libraries know.
    (tmp_path / "credentials").write_text(f"[work]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n")
    environment = without("PYSPARK", "SPARK", "MLFLOW_TRACKING", "AWS_")
    given = {k: v for k, v in _environment(server).items() if "KEY" not in k}
    environment |= {**given, "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_PROFILE": "work"}
    code = "import sys; from lakescore.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "score", "--config", "score.yaml", "--verbose"]

    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seen: list[str] = []
    watcher = threading.Thread(target=lambda: seen.extend(_command_lines(process)))
    watcher.start()
    said, _ = process.communicate(timeout=300)
    watcher.join()

    assert process.returncode == 0, said
    assert lakescore.read(f"s3a://{place}/out").groupby("score_date").size().tolist() == [148, 147, 147]
    assert any("org.apache.spark.deploy.SparkSubmit" in line for line in seen)
    kept = [path.read_bytes() for folder in ("own.db", "mlruns", "mlartifacts") for path in _below(tmp_path / folder)]
    assert kept
    for secret in (KEY, SECRET, configured):
        assert secret not in said
        assert not [line for line in seen if secret in line]
        assert not [content for content in kept if secret.encode() in content]


def _below(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _command_lines(process: subprocess.Popen[str]) -> set[str]:
    """The command lines of all processes, while one runs."""
    found = set()
    while process.poll() is None:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found.add(entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:
                continue
        time.sleep(0.1)
    return found


# --- a batch is there once and whole


ONE = {"2026-01-31": [1.0]}
OTHER = {"2026-02-01": [1.0]}
TWO = {"2026-01-30": [1.0], "2026-01-31": [1.0]}


def test_wherever_a_publication_ends_the_next_run_has_it_once_and_whole(
    client: BaseClient, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = False
    for step in range(100):
        table = f"s3a://{place}/{step}"
        with killed_at(step, monkeypatch, object_store) as done:
            publish(table, "b", TWO)
        assert shown(table, "b") in ([], [1.0] * 4)
        partial = partial or len([key for key in _keys(client, table) if key.startswith("score_date") and "=b/" in key]) in (1, 2, 3)

        publish(table, "b", TWO)

        assert shown(table, "b") == [1.0] * 4
        assert hidden(table) == []
        if len(done) < step:
            break
    assert partial


@pytest.mark.long
def test_wherever_a_replacement_ends_there_are_the_old_rows_or_the_new_ones(
    client: BaseClient, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for step in range(100):
        table = f"s3a://{place}/{step}"
        publish(table, "b", {"2026-01-29": [0.0], "2026-01-31": [0.0]}, files=1)
        with killed_at(step, monkeypatch, object_store) as done:
            publish(table, "b", TWO, "replace", files=1)
        seen.append(tuple(shown(table, "b")))

        publish(table, "b", {"2026-01-31": [2.0]}, "replace", files=1)

        assert shown(table, "b") == [2.0]
        assert len(_keys(client, table)) == 1
        if len(done) < step:
            break
    assert set(seen) == {(0.0,) * 2, (1.0,) * 2}


@pytest.mark.parametrize("values", [(ONE, OTHER), (TWO, TWO)])
def test_two_runs_of_a_batch_at_once_publish_it_once(client: BaseClient, place: str, values: tuple[dict[str, list[float]], ...]) -> None:
    for turn in range(5):
        table = f"s3a://{place}/{turn}"
        barrier, outcomes = threading.Barrier(2), []

        def run(
            values: dict[str, list[float]], table: str = table, barrier: threading.Barrier = barrier, outcomes: list[int] = outcomes
        ) -> None:
            sink = open_sink(table, "b")
            staged = stage(sink, values)
            barrier.wait()
            try:
                sink.publish(None, staged)
                outcomes.append(len(values))
            except AlreadyPublishedError:
                sink.discard(staged)

        threads = [threading.Thread(target=run, args=(one,)) for one in values]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1
        assert shown(table, "b") == [1.0] * 2 * outcomes[0]
        assert len(_keys(client, table)) == 2 * outcomes[0]


def _interrupted(table: str) -> tuple[storage.Location, journal.Journal]:
    """A publication that ended when its journal and one of four copies were there."""
    with pytest.MonkeyPatch.context() as patch, killed_at(2, patch, object_store):
        publish(table, "b", TWO)
    root = open_sink(table, "b")._root
    found = journal.read(root, "b")
    assert found is not None
    return root, found


def _at(step: int, real: Callable[..., Any], tries: Iterator[int], then: Callable[[], Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if next(tries) == step:
            then()
        return real(*args, **kwargs)

    return call


@pytest.mark.long
@pytest.mark.parametrize("replaced", [False, True])
def test_a_helper_that_is_overtaken_at_any_step_takes_nothing_away(
    client: BaseClient, place: str, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """Before the step-th look or change of who finishes a publication, the run that began it goes on to its end."""

    def overtake(table: str, root: storage.Location, found: journal.Journal) -> None:
        journal.finish(root, found)
        if replaced:
            publish(table, "b", {"2026-01-31": [2.0]}, "replace")

    for step in range(0, 100, 3 if replaced else 1):
        table = f"s3a://{place}/{step}"
        root, found = _interrupted(table)
        tries = itertools.count()
        steps = ((storage.Location, "_listed"), (storage.Location, "read_text"), (object_store, "copy"), (object_store, "remove"))

        with monkeypatch.context() as patch:
            for where, name in steps:
                patch.setattr(where, name, _at(step, getattr(where, name), tries, partial(overtake, table, root, found)))
            assert journal.finish(root, found) or replaced

        overtaken = next(tries) > step
        assert shown(table, "b") == ([2.0] * 2 if replaced and overtaken else [1.0] * 4)
        assert len(_keys(client, table)) == (2 if replaced and overtaken else 4)
        if not overtaken:
            break
    assert step > 10


def test_a_copy_that_ends_after_the_batch_was_replaced_is_removed(client: BaseClient, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = f"s3a://{place}"
    root, found = _interrupted(table)

    def copy_slowly(source: str, target: str) -> None:
        monkeypatch.setattr(object_store, "copy", real)
        content = client.get_object(**object_store._named(source))["Body"].read()
        journal.finish(root, found)
        publish(table, "b", {"2026-01-31": [2.0]}, "replace")
        assert shown(table, "b") == [2.0] * 2
        _put(f"s3://{target}", content)

    real = object_store.copy
    monkeypatch.setattr(journal, "ThreadPoolExecutor", lambda max_workers: ThreadPoolExecutor(1))
    monkeypatch.setattr(object_store, "copy", copy_slowly)
    journal.finish(root, found)

    assert shown(table, "b") == [2.0] * 2
    assert len(_keys(client, table)) == 2


def test_an_interrupted_run_is_finished_by_the_next_one(
    s3_spark: SparkSession, client: BaseClient, config: Make, model: str, patients: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = f"s3a://{place}/out"
    settings = _settings(config, model, patients, out, {"format": "parquet", "partition_by": BY_DAY})
    real, tries = object_store.copy, itertools.count()

    def stop_at_the_second(source: str, target: str) -> None:
        if next(tries):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(object_store, "copy", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        score(settings, spark=s3_spark)
    monkeypatch.setattr(object_store, "copy", real)
    with pytest.raises(InputError, match="there is no batch that is complete"):
        lakescore.read(out)
    before = s3_spark.read.parquet(out).count()  # a plain reader sees a part, as the README says

    result = score(settings, spark=s3_spark)

    assert result.outcome == "skipped"
    assert 0 < before < 442 == s3_spark.read.parquet(out).agg(F.count_distinct("id")).collect()[0][0]
    assert all(key.startswith("score_date=") for key in _keys(client, out))


def test_two_runs_that_make_a_delta_table_at_once(client: BaseClient, place: str) -> None:
    from datetime import date

    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyspark.sql import types as T

    from lakescore.config import OutputConfig
    from lakescore.sinks.base import Batch
    from lakescore.sinks.delta import DeltaSink
    from lakescore.storage import Location

    schema = T.StructType([T.StructField("x", T.DoubleType()), T.StructField("score_date", T.DateType())])
    table, barrier, outcomes = f"s3a://{place}/out", threading.Barrier(4), []

    def fill(folder: Location) -> None:
        with folder.fs.open_output_stream((folder / "score_date=2026-01-31/part-0.parquet").path) as stream:
            pq.write_table(pa.table({"x": [1.0]}), stream)

    def run(batch_id: str, run_id: str) -> None:
        sink = DeltaSink(OutputConfig(path=table), Batch(batch_id, run_id, date(2026, 1, 31), "skip"))
        staged = sink._stage(schema, fill)
        barrier.wait()
        try:
            sink.publish(None, staged)
            outcomes.append(batch_id)
        except AlreadyPublishedError:
            sink.discard(staged)

    threads = [threading.Thread(target=run, args=(batch, f"run-{i}")) for i, batch in enumerate("aabb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["a", "b"]
    assert len(lakescore.read(table)) == 2


@pytest.mark.parametrize("content", [b"first", b""])
def test_a_file_takes_its_name_only_once(client: BaseClient, place: str, content: bytes) -> None:
    object_store.put(f"{place}/a", content)
    object_store.put(f"{place}/b", b"second")

    object_store.copy_new(f"{place}/a", f"{place}/c")
    for other in "ab":
        with pytest.raises(FileExistsError):
            object_store.copy_new(f"{place}/{other}", f"{place}/c")
    with pytest.raises(FileNotFoundError):
        object_store.copy(f"{place}/nothing", f"{place}/c")

    assert client.get_object(Bucket=BUCKET, Key=f"{place}/c".partition("/")[2])["Body"].read() == content
    assert not client.list_multipart_uploads(Bucket=BUCKET).get("Uploads")


# --- what does not work is said in one line, and soon


def test_a_bucket_that_is_not_there_is_named(s3_spark: SparkSession, config: Make, linear_uri: str, server: str) -> None:
    where = server.removeprefix("http://")

    for bad, error, key in (
        ({"source": {"path": "s3a://nowhere-1/in"}}, InputError, "source.path"),
        ({"output": {"path": "s3a://nowhere-1/out"}}, OutputError, "output.path"),
        ({"output": {"path": "s3a://nowhere-1/out", "format": "parquet"}}, OutputError, "output.path"),
        ({"output": {"path": "s3a://nowhere-1/out", "format": "jsonl"}}, OutputError, "output.path"),
        ({"model": {"uri": "s3://nowhere-1/model"}}, ModelError, "model.uri"),
    ):
        sections = {"model": {"uri": linear_uri}, "source": {"path": "s3a://nowhere-1/in"}, **bad}
        with pytest.raises(error, match=rf"^{key}: .*there is no bucket 'nowhere-1' at {re.escape(where)}; create it, or give another$"):
            score(config(**sections), spark=s3_spark)
    with pytest.raises(InputError, match="there is no bucket 'nowhere-1'"):
        lakescore.read("s3a://nowhere-1/out")


def test_what_is_not_in_the_bucket_is_named(s3_spark: SparkSession, config: Make, linear_uri: str, place: str) -> None:
    nothing, out = f"s3://{BUCKET}/nothing", {"path": f"s3a://{place}/out"}
    with pytest.raises(InputError, match=rf"source.path: {nothing} does not exist"):
        score(config(model={"uri": linear_uri}, source={"path": nothing}, output=out), spark=s3_spark)
    with pytest.raises(ModelError, match=rf"model.uri: {nothing} does not exist"):
        score(config(model={"uri": nothing}, source={"path": "x"}, output=out), spark=s3_spark)


def test_keys_that_are_refused_are_said_and_not_shown(
    s3_spark: SparkSession, server: str, config: Make, linear_uri: str, place: str
) -> None:
    def set_authorised(requests: bytes) -> None:
        asked = urllib.request.Request(f"{server}/moto-api/reset-auth", requests, {"Content-Type": "text/plain"})
        urllib.request.urlopen(asked, timeout=10).close()

    set_authorised(b"0")
    try:
        for sections, error in (
            ({"output": {"path": f"s3a://{place}/out"}}, OutputError),
            ({"output": {"path": f"s3a://{place}/out", "format": "parquet"}}, OutputError),
            ({"source": {"path": f"s3a://{place}/in"}}, InputError),
            ({"model": {"uri": f"s3a://{place}/model"}}, ModelError),
        ):
            with pytest.raises(error) as caught:
                score(config(**{"model": {"uri": linear_uri}, "source": {"path": "x"}, **sections}), spark=s3_spark)
            assert "S3 refuses the credentials, or what is asked for with them (403); they come from AWS_ACCESS_KEY_ID" in str(caught.value)
            assert KEY not in str(caught.value)
            assert SECRET not in str(caught.value)
    finally:
        set_authorised(b"inf")


def test_a_server_that_does_not_answer_is_named_in_bounded_time(
    s3_spark: SparkSession, config: Make, linear_uri: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        start = time.monotonic()
        for sections in (
            {"output": {"path": f"s3a://{place}/out"}},
            {"source": {"path": f"s3a://{place}/in"}},
            {"model": {"uri": f"s3://{place}/m"}},
        ):
            with pytest.raises(LakescoreError, match=r"S3 does not answer at 127.0.0.1:\d+; check AWS_ENDPOINT_URL"):
                score(config(**{"model": {"uri": linear_uri}, "source": {"path": "x"}, **sections}), spark=s3_spark)
    assert time.monotonic() - start < 30


def test_keys_in_a_path_are_refused_and_not_shown(s3_spark: SparkSession, config: Make, linear_uri: str) -> None:
    with pytest.raises(LakescoreError, match="keys do not belong into a path") as caught:
        score(config(model={"uri": linear_uri}, source={"path": f"s3a://{KEY}:{SECRET}@{BUCKET}/in"}), spark=s3_spark)
    assert SECRET not in str(caught.value)
