"""What crashes, kills and hands leave is found and told apart from what is in use; ``fix`` mends it and loses no row."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from mlflow import MlflowClient
from pyspark.sql import types as T

from lakescore import Finding, delete_batch, doctor, own_process, tracking
from lakescore.cli import main
from lakescore.config import OutputConfig
from lakescore.errors import InputError, OutputError
from lakescore.sinks import open_sink
from lakescore.sinks.base import Batch, FileSink, Staged, attempt_name

DAY = date(2026, 1, 31)
SCHEMA = T.StructType(
    [
        T.StructField(name, T.DoubleType() if name == "x" else T.DateType() if name == "score_date" else T.StringType())
        for name in ("x", "run_id", "batch_id", "score_date")
    ]
)
HOURS = 3_600_000
NOW = timedelta(0)
NEEDED = {"model": {"uri": "-"}, "source": {"path": "-"}}
Look = Callable[..., list[Finding]]


@pytest.fixture(params=["delta", "parquet"])
def output_format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "table"


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an experiment and no runs: making one takes a second, and copying it nothing."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{file}").create_experiment("lakescore", artifact_location=str(file.parent / "runs"))
    return file


@pytest.fixture
def client(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A store of this test's own, which is MLflow's default while it runs."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr("lakescore.mlflow_defaults.tracking_uri", lambda: uri)
    return MlflowClient(uri)


def _start(client: MlflowClient, batch_id: str, hours_ago: float = 0, output: Path | None = None, output_format: str = "") -> str:
    """A run as scoring starts it, so many hours ago; its output is known once the plan is made."""
    start = int(time.time() * 1000 - hours_ago * HOURS)
    experiment = client.get_experiment_by_name("lakescore")
    assert experiment is not None
    run_id = str(client.create_run(experiment.experiment_id, start, tags={"lakescore.batch_id": batch_id}).info.run_id)
    if output is not None:
        for key, value in {"output": output, "output.format": output_format, "batch_id": batch_id}.items():
            client.log_param(run_id, key, value)
    return run_id


def _finish(client: MlflowClient, run_id: str, rows: int) -> None:
    client.log_metric(run_id, "rows_written", rows)
    client.set_tag(run_id, "lakescore.outcome", "scored")
    client.set_terminated(run_id, "FINISHED")


def _stage(table: Path, output_format: str, batch_id: str, run_id: str, rows: int = 3) -> tuple[FileSink, Staged]:
    sink = open_sink(OutputConfig(path=str(table), format=output_format), Batch(batch_id, run_id, DAY, "replace"))
    assert isinstance(sink, FileSink)

    def write(layout: Any) -> set[str]:
        Path(layout.folder).mkdir(parents=True)
        columns = {"x": pa.array(range(rows), pa.float64()), "run_id": [run_id] * rows, "batch_id": [batch_id] * rows}
        kept = {name: values for name, values in columns.items() if name not in layout.partition}
        name = f"part-{uuid.uuid4().hex}.parquet"
        pq.write_table(pa.table(kept), Path(layout.folder, name))
        return {name}

    return sink, sink.stage_files(SCHEMA, write)


@pytest.fixture
def score(client: MlflowClient, table: Path, output_format: str) -> Callable[..., str]:
    """Publish a batch, with its run, as a scoring run does; returns the run's ID."""

    def make(batch_id: str, rows: int = 3, where: Path | None = None) -> str:
        run_id = _start(client, batch_id, 48, table, output_format)
        sink, staged = _stage(where or table, output_format, batch_id, run_id, rows)
        sink.publish(None, staged)
        _finish(client, run_id, rows)
        return run_id

    return make


@pytest.fixture
def look(table: Path) -> Look:
    """The findings; nothing is young enough to be left alone, unless ``hours`` say so."""
    return lambda fix=False, hours=0.0: list(doctor(str(table), fix=fix, older_than=timedelta(hours=hours)).findings)


def _told(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(one.kind, one.state) for one in findings]


def _published(table: Path) -> dict[str, int]:
    """Rows by batch, as a plain reader sees them."""
    if (table / "_delta_log").exists():
        found = DeltaTable(table).to_pyarrow_table().column("batch_id").to_pylist()
        return {batch: found.count(batch) for batch in sorted(set(found))}
    files = sorted(path for path in table.rglob("*.parquet") if "_lakescore" not in path.parts)
    return {path.parent.name.removeprefix("batch_id="): pq.read_metadata(path).num_rows for path in files}


def _expect_mended(look: Look, kind: str) -> None:
    """Listed; mended with ``fix``; nothing the second time."""
    assert _told(look()) == [(kind, "found")]
    assert _told(look(fix=True)) == [(kind, "mended")]
    assert look() == []


def test_where_all_went_well_nothing_is_found(score: Callable[..., str], look: Look, table: Path) -> None:
    score("a")
    score("b", 5)
    score("b", 6)  # replaced
    score("c", 0)

    assert look() == []
    assert look(fix=True) == []
    assert _published(table) == {"a": 3, "b": 6} | ({} if (table / "_delta_log").exists() else {"c": 0})


def test_half_a_commit_is_removed_by_the_next_run_of_its_batch_or_by_the_doctor(
    score: Callable[..., str], look: Look, table: Path, output_format: str
) -> None:
    if output_format == "parquet":
        return  # which has no log
    score("a")
    score("b")
    halves = {name: table / "_delta_log" / f"{number:020}.json#1" for number, name in enumerate("ab")}
    for number, half in enumerate(halves.values()):
        shutil.copyfile(half.with_suffix(".json"), half)
        _age(half, number)
    delete_batch(str(table), "b")
    (table / "_delta_log" / f"{2:020}.json#1").write_text("")

    score("c")
    assert all(half.exists() for half in halves.values())
    assert _told(look()) == [("stale staging", "found")] * 3
    assert _told(look(hours=0.5)) == [("stale staging", "found")]
    _expect_all_mended(look)


def _expect_all_mended(look: Look) -> None:
    assert {one.state for one in look(fix=True)} == {"mended"}
    assert look() == []


def test_the_next_run_of_a_batch_removes_half_a_commit_of_it(score: Callable[..., str], table: Path, output_format: str) -> None:
    if output_format == "parquet":
        return
    score("a")
    halves = [table / "_delta_log" / f"{1:020}.json#{number}" for number in (1, 2, 3)]
    for half, batch_id, hours in zip(halves, "bcb", (1, 1, 0), strict=True):
        half.write_text(json.dumps({"txn": {"appId": f"lakescore:{batch_id}", "version": 1}}))
        _age(half, hours)

    empty = table / "_delta_log" / f"{9:020}.json#1"
    empty.touch()
    _age(empty, 1)

    score("b")

    assert not empty.exists()
    assert [half.exists() for half in halves] == [False, True, True]  # its own, another batch's, and one that may be at work


def test_staging_that_no_run_owns_is_removed(score: Callable[..., str], look: Look, table: Path, output_format: str) -> None:
    score("a")
    _stage(table, output_format, "b", "run")

    assert look(hours=1) == []  # too young
    _expect_mended(look, "stale staging")
    assert _published(table) == {"a": 3}
    assert not any("b-" in path.name for path in table.rglob("*"))


def test_what_a_killed_process_staged_is_removed(client: MlflowClient, look: Look, table: Path, output_format: str) -> None:
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import test_checkup
test_checkup._stage(Path({str(table)!r}), {output_format!r}, "b", "run")
os.kill(os.getpid(), signal.SIGKILL)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert answer.returncode == -signal.SIGKILL, answer.stderr

    _expect_mended_in_turn(look, table)


def _expect_mended_in_turn(look: Look, table: Path) -> None:
    assert _told(look()) == [("stale staging", "found")]
    assert _told(look(fix=True)) == [("stale staging", "mended")]
    # The table's folder was made for it.
    assert not table.exists()


def test_the_staging_of_a_live_run_is_left_alone(client: MlflowClient, table: Path, output_format: str) -> None:
    """A run that began days ago is alive as long as it stages."""
    run_id = _start(client, "b", 48)
    _, staged = _stage(table, output_format, "b", run_id)

    assert doctor(str(table), fix=True, older_than=timedelta(hours=1)).findings == ()
    assert staged.handle.folder.exists()
    assert client.get_run(run_id).info.status == "RUNNING"


def test_the_old_staging_of_a_run_that_has_just_begun_is_left_alone(client: MlflowClient, table: Path, output_format: str) -> None:
    run_id = _start(client, "b")
    _, staged = _stage(table, output_format, "b", run_id)
    _age(Path(staged.handle.folder.path), 48)

    assert doctor(str(table), fix=True, older_than=timedelta(hours=1)).findings == ()
    assert staged.handle.folder.exists()


def _age(place: Path, hours: float) -> None:
    then = time.time() - hours * 3_600
    for path in [*place.rglob("*"), place]:
        os.utime(path, (then, then))


def test_a_run_without_a_sign_of_life_is_ended_and_its_staging_removed(
    score: Callable[..., str], client: MlflowClient, table: Path, output_format: str
) -> None:
    score("a")
    run_id = _start(client, "b", 48, table, output_format)
    _, staged = _stage(table, output_format, "b", run_id)
    _age(Path(staged.handle.folder.path), 30)
    other = _start(client, "c", 48, table.parent / "elsewhere", output_format)
    begun = _start(client, "d", 48)  # has no plan yet
    client.set_tag(begun, tracking.OUTPUT_TAG, str(table.parent / "elsewhere"))

    found = doctor(str(table), fix=True)

    assert _told(list(found.findings)) == [("dead run", "mended"), ("stale staging", "mended")]
    ended = client.get_run(run_id)
    assert ended.info.status == "KILLED"
    assert ended.data.tags["lakescore.error"].endswith(" and left no sign of life; ended by lakescore doctor; nothing was published")
    assert {client.get_run(run).info.status for run in (other, begun)} == {"RUNNING"}
    assert doctor(str(table)).findings == ()


def test_of_a_batch_whose_rows_were_deleted_by_hand_the_run_is_named(
    score: Callable[..., str], client: MlflowClient, look: Look, table: Path, output_format: str
) -> None:
    score("a")
    run_id = score("b")
    if output_format == "delta":
        DeltaTable(table).delete("batch_id = 'b'")
    else:
        shutil.rmtree(table / "score_date=2026-01-31" / "batch_id=b")

    (found,) = look(fix=True)

    assert (found.kind, found.place, found.state) == ("run without a batch", run_id, "left")
    assert found.detail.startswith("batch b: 3 rows were published ")
    # A Delta table's log still tells of the batch, which would be skipped.
    again = "run.batch_id=b run.on_rerun=replace" if output_format == "delta" else "run.batch_id=b"
    assert found.remedy == f"score it again ({again}); if it was removed on purpose, tag the run lakescore.deleted"
    score("b", 4)
    assert look() == []


def test_a_batch_that_delete_batch_removed_is_not_missed(score: Callable[..., str], look: Look, table: Path) -> None:
    score("a")
    score("b", 4)
    score("b", 5)
    delete_batch(str(table), "b")

    assert look() == []


@pytest.mark.parametrize("is_known", [True, False])
def test_a_batch_whose_run_is_gone_is_named(
    score: Callable[..., str], client: MlflowClient, look: Look, table: Path, output_format: str, is_known: bool
) -> None:
    score("a")
    if is_known:
        run_id = score("b")
        client.delete_run(run_id)
    else:
        run_id = "0123456789abcdef0123456789abcdef"
        sink, staged = _stage(table, output_format, "b", run_id)
        sink.publish(None, staged)

    (found,) = look(fix=True)

    assert (found.kind, found.place, found.state) == ("batch without a run", "b", "left")
    assert found.detail == f"3 rows name the run {run_id}, which MLflow {'has deleted' if is_known else 'does not know'}"
    mends = f"mlflow runs restore --run-id {run_id}" if is_known else "give the tracking.tracking_uri that knows it"
    assert found.remedy == f"{mends}, or lakescore delete-batch {table} b, then score it again"
    if is_known:
        client.restore_run(run_id)
        assert look() == []


def test_a_file_that_was_removed_by_hand_is_named(score: Callable[..., str], look: Look, table: Path, output_format: str) -> None:
    score("a")
    score("b")
    named = DeltaTable(table).file_uris() if output_format == "delta" else list(map(str, table.rglob("*.parquet")))
    (file,) = [Path(path) for path in named if "/b-" in path or "batch_id=b" in path]
    file.unlink()

    (found,) = look(fix=True)

    assert (found.kind, found.place, found.state) == ("damaged batch", f"{table} (b)", "left")
    gone = file if output_format == "delta" else file.parent
    assert found.detail == f"1 of its files gone or unreadable: {gone}"
    delete_batch(str(table), "b")
    score("b")
    assert look() == []
    assert _published(table) == {"a": 3, "b": 3}


def test_a_batch_with_another_number_of_rows_than_its_run_wrote_is_named(
    score: Callable[..., str], client: MlflowClient, look: Look, table: Path, output_format: str
) -> None:
    score("a")
    run_id = score("b", 5)
    if output_format == "delta":
        DeltaTable(table).delete("batch_id = 'b' and x < 2")
    else:
        (file,) = (table / "score_date=2026-01-31" / "batch_id=b").glob("*.parquet")
        pq.write_table(pq.ParquetFile(file).read().slice(2), file)

    (found,) = look()

    assert (found.kind, found.place) == ("damaged batch", f"{table} (b)")
    assert found.detail == f"3 rows, and its run {run_id} wrote 5"
    assert found.remedy == f"lakescore delete-batch {table} b, then score it again"


def test_a_quarantine_without_its_batch_is_named(
    score: Callable[..., str], client: MlflowClient, look: Look, table: Path, output_format: str
) -> None:
    score("a")
    beside = Path(f"{table}_quarantine")
    for batch_id in ("a", "b"):
        sink, staged = _stage(beside, output_format, batch_id, "run", 2)
        sink.publish(None, staged)

    (found,) = look(fix=True)

    assert (found.kind, found.place, found.state) == ("quarantine without a batch", f"{beside} (b)", "left")
    assert found.detail == "2 rows of the batch b, which is not published"
    assert found.remedy == f"score it again (run.batch_id=b), or lakescore delete-batch {beside} b"
    _start(client, "b")  # it is being published
    assert look(hours=1) == []
    delete_batch(str(beside), "b")
    assert _published(beside) == {"a": 2}


def test_deleting_from_a_quarantine_says_nothing_of_the_runs(
    score: Callable[..., str], client: MlflowClient, table: Path, output_format: str
) -> None:
    run_id = score("a")
    beside = Path(f"{table}_quarantine")
    sink, staged = _stage(beside, output_format, "a", run_id, 2)
    sink.publish(None, staged)

    assert delete_batch(str(beside), "a").run_ids == ()
    assert "lakescore.deleted" not in client.get_run(run_id).data.tags


def test_a_batch_and_its_quarantine_go_together(score: Callable[..., str], table: Path, output_format: str, look: Look) -> None:
    score("a")
    score("b")
    beside = Path(f"{table}_quarantine")
    for batch_id in ("a", "b"):
        sink, staged = _stage(beside, output_format, batch_id, "run", 2)
        sink.publish(None, staged)

    done = delete_batch(str(table), "b", quarantined=True)

    assert done.beside == ("quarantine",)
    assert _published(beside) == {"a": 2}
    assert _published(table) == {"a": 3}
    assert look() == []


class TestDelta:
    @pytest.fixture
    def output_format(self) -> str:
        return "delta"

    def test_a_file_that_the_log_never_named_is_removed_and_what_time_travel_needs_is_kept(
        self, score: Callable[..., str], client: MlflowClient, look: Look, table: Path
    ) -> None:
        score("a")
        score("b", 4)
        score("b", 5)
        kept = {path for path in table.rglob("*.parquet") if "_delta_log" not in path.parts}
        orphan = table / "score_date=2026-01-31" / "part-00000-crashed.parquet"
        orphan.parent.mkdir()
        pq.write_table(pa.table({"x": [1.0]}), orphan)

        assert look(hours=1) == []
        _age(orphan, 5)
        at_work = _start(client, "d", 0, table, "delta")
        assert look(hours=1, fix=True) == []  # a file that Spark's own writer has written, and not committed yet, looks the same
        client.set_terminated(at_work, "FAILED")
        _expect_mended(look, "orphaned file")
        assert {path for path in table.rglob("*.parquet") if "_delta_log" not in path.parts} == kept
        assert DeltaTable(table, version=1).to_pyarrow_table().num_rows == 7

    def test_files_of_others_and_tables_inside_are_left_alone(self, score: Callable[..., str], look: Look, table: Path) -> None:
        score("a")
        write_deltalake(table / "inside", pa.table({"x": [1]}))
        pq.write_table(pa.table({"x": [1.0]}), table / "customers.parquet")

        assert look(fix=True) == []
        assert (table / "customers.parquet").exists()
        assert DeltaTable(table / "inside").to_pyarrow_table().num_rows == 1

    def test_rows_whose_log_is_lost_are_no_staging(self, score: Callable[..., str], look: Look, table: Path) -> None:
        score("a")
        kept = set(table.rglob("*.parquet"))
        for log in (table / "_delta_log").iterdir():
            log.unlink()

        with pytest.raises(OutputError, match=r"table has Parquet files \(.*\.parquet\) and no Delta log that names any; put the log back"):
            look(fix=True)
        (table / "_delta_log").rmdir()
        assert _told(look(fix=True)) == [("stale staging", "left"), ("run without a batch", "left")]
        assert set(table.rglob("*.parquet")) == kept

    def test_files_without_a_log_are_no_orphans(self, client: MlflowClient, table: Path) -> None:
        write_deltalake(table, pa.table({"x": [1]}))
        shutil.rmtree(table / "_delta_log")

        with pytest.raises(OutputError, match=r"table has Parquet files \(.*\.parquet\) and no Delta log that names any; put the log back"):
            doctor(config={"output": {"path": str(table)}, **NEEDED}, fix=True, older_than=NOW)
        assert len(list(table.glob("*.parquet"))) == 1

    def test_what_a_dead_run_has_published_is_counted_after_compaction(
        self, score: Callable[..., str], client: MlflowClient, look: Look, table: Path
    ) -> None:
        score("a")
        run_id = _start(client, "b", 48, table, "delta")
        sink, staged = _stage(table, "delta", "b", run_id, 5)
        sink.publish(None, staged)
        DeltaTable(table).optimize.compact()

        assert _told(look(fix=True)) == [("dead run", "mended")]
        ended = client.get_run(run_id)
        assert (ended.info.status, ended.data.metrics["rows_written"], ended.data.metrics["output_version"]) == ("FINISHED", 5, 1)
        assert look() == []

    def test_a_damaged_log_is_named(self, score: Callable[..., str], look: Look, table: Path) -> None:
        score("a")
        log = table / "_delta_log" / f"{0:020d}.json"
        log.write_text("{nope")

        with pytest.raises(OutputError, match=rf"output\.path: {log} of the Delta log is damaged \(JSONDecodeError: .*\); put it back"):
            look(fix=True)

    def test_batch_ids_of_others_that_are_no_text_are_no_batches_to_delete(self, client: MlflowClient, table: Path) -> None:
        write_deltalake(table, pa.table({"batch_id": [7, 7], "run_id": [1, 1]}))

        with pytest.raises(OutputError):
            delete_batch(str(table), "7")
        assert DeltaTable(table).version() == 0

    def test_what_only_a_checkpoint_names_is_kept(self, score: Callable[..., str], look: Look, table: Path) -> None:
        score("a")
        score("b", 4)
        score("b", 5)
        DeltaTable(table).create_checkpoint()
        for log in (table / "_delta_log").glob("*.json"):
            log.unlink()

        assert look(fix=True) == []
        assert _published(table) == {"a": 3, "b": 5}


def _ended_process() -> str:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return str(process.pid)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class TestParquet:
    @pytest.fixture
    def output_format(self) -> str:
        return "parquet"

    def test_a_file_that_was_cut_is_named(self, score: Callable[..., str], look: Look, table: Path) -> None:
        score("a")
        (file,) = table.rglob("*.parquet")
        file.write_bytes(file.read_bytes()[:20])

        (found,) = look()

        assert (found.kind, found.detail) == ("damaged batch", f"1 of its files gone or unreadable: {file}")

    def test_an_interrupted_replacement_is_finished(
        self, score: Callable[..., str], client: MlflowClient, look: Look, table: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        score("a")
        score("b", 4)
        from lakescore.storage import Location

        run_id = _start(client, "b", 0, table, "parquet")
        sink, staged = _stage(table, "parquet", "b", run_id, 9)
        real = Location.move_to

        def crash(self: Location, target: Location) -> None:
            if "/replaced/" not in target.path and "score_date=" in target.path:
                raise KeyboardInterrupt
            real(self, target)

        monkeypatch.setattr(Location, "move_to", crash)
        with pytest.raises(KeyboardInterrupt):
            sink.publish(None, staged)
        monkeypatch.setattr(Location, "move_to", real)
        assert _published(table) == {"a": 3}

        assert look(hours=1) == []
        assert _told(look(fix=True)) == [("unfinished publication", "mended"), ("dead run", "mended")]
        assert look() == []
        assert _published(table) == {"a": 3, "b": 9}
        ended = client.get_run(run_id)
        assert (ended.info.status, ended.data.metrics["rows_written"], ended.data.tags["lakescore.outcome"]) == ("FINISHED", 9, "scored")
        assert not (table / "_lakescore").exists()

    def test_what_a_dead_run_has_decided_is_carried_out_before_the_run_is_ended(
        self, score: Callable[..., str], client: MlflowClient, look: Look, table: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        score("a")
        run_id = _start(client, "b", 0, table, "parquet")
        for key, value in {**own_process.tags(), own_process.PID: _ended_process()}.items():
            client.set_tag(run_id, key, value)
        sink, staged = _stage(table, "parquet", "b", run_id, 9)
        with monkeypatch.context() as patched:
            patched.setattr("lakescore.storage.Location.move_to", _interrupt)
            with pytest.raises(KeyboardInterrupt):
                sink.publish(None, staged)
        assert _published(table) == {"a": 3}

        assert _told(look(fix=True, hours=24)) == [("dead run", "mended")]

        assert _published(table) == {"a": 3, "b": 9}
        ended = client.get_run(run_id)
        assert (ended.info.status, ended.data.metrics["rows_written"]) == ("FINISHED", 9)
        assert look() == []

    def test_what_was_replaced_goes_only_where_the_batch_is_there(self, score: Callable[..., str], look: Look, table: Path) -> None:
        score("a")
        score("b")
        for batch_id in ("b", "c"):
            aside = table / "_lakescore" / "replaced" / attempt_name(batch_id) / "score_date=2026-01-31" / f"batch_id={batch_id}"
            aside.mkdir(parents=True)
            pq.write_table(pa.table({"x": [1.0]}), aside / "part-0.parquet")

        found = look(fix=True)

        assert _told(found) == [("replaced leftover", "mended"), ("replaced leftover", "left")]
        assert "batch c, which is not published" in found[1].detail
        assert found[1].remedy == "score it again (run.batch_id=c), then --fix removes it"
        score("c")
        assert look() == []  # the publication has removed it


def test_a_dead_run_that_has_published_a_batch_without_rows_has_finished(
    score: Callable[..., str], client: MlflowClient, look: Look, table: Path, output_format: str
) -> None:
    if output_format == "parquet":
        pytest.skip("Parquet files without rows do not say whose they are")
    score("a")
    run_id = _start(client, "b", 48, table, output_format)
    sink, staged = _stage(table, output_format, "b", run_id, 0)
    sink.publish(None, staged)

    assert _told(look(fix=True)) == [("dead run", "mended")]

    ended = client.get_run(run_id)
    assert (ended.info.status, ended.data.metrics["rows_written"], ended.data.metrics["output_version"]) == ("FINISHED", 0, 1)


def test_without_an_experiment_the_files_are_looked_at_all_the_same(score: Callable[..., str], table: Path, output_format: str) -> None:
    score("a")
    _stage(table, output_format, "b", "run")

    found = doctor(str(table), overrides=["tracking.experiment=elsewhere"], older_than=NOW)

    assert [one.kind for one in found.findings] == ["stale staging"]
    assert found.notes[0].startswith("runs were not looked at: there is no experiment 'elsewhere' in sqlite:///")


@pytest.mark.parametrize("name", ["table", "empty"])
def test_where_no_output_is_there_is_one_line(client: MlflowClient, tmp_path: Path, name: str) -> None:
    (tmp_path / "tabel").mkdir()
    (tmp_path / "empty").mkdir()

    with pytest.raises(InputError) as error:
        doctor(str(tmp_path / name))

    expected = {
        "table": f"OUTPUT: there is nothing at {tmp_path / 'table'}. Did you mean 'tabel'?",
        "empty": f"OUTPUT: {tmp_path / 'empty'} holds nothing that Lakescore wrote",
    }
    assert str(error.value) == expected[name]


def test_a_table_of_parquet_is_safe_from_a_configuration_that_says_delta(
    score: Callable[..., str], table: Path, output_format: str
) -> None:
    score("a")
    wrong = {"delta": "parquet", "parquet": "delta"}[output_format]
    kept = set(table.rglob("*"))

    with contextlib.suppress(OutputError):
        doctor(config={"output": {"path": str(table), "format": wrong}, **NEEDED}, fix=True, older_than=NOW)
    assert set(table.rglob("*")) == kept


# --- the commands


def test_a_time_beyond_all_times_is_a_usage_error(score: Callable[..., str], table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    score("a")
    assert main(["doctor", str(table), "--older-than", "99999999999999d"]) == 2
    assert capsys.readouterr().err == "lakescore: --older-than: got '99999999999999d'; expected at most 36500d\n"


@pytest.mark.parametrize("damage", ["file", "folder"])
def test_reading_a_damaged_output_is_an_input_error(
    score: Callable[..., str], table: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    score("a")
    (file,) = table.rglob("*.parquet")
    if damage == "file":
        file.write_text("junk")
    else:
        shutil.move(file.parent, table / "score_date=never")

    assert main(["read", str(table)]) == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"lakescore: read: {table}: ")


def test_the_command_lists_mends_and_tells_by_its_exit_code(
    score: Callable[..., str], table: Path, output_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    score("a")
    _, staged = _stage(table, output_format, "b", "run")
    place = str(Path(staged.handle.folder.path).relative_to(table))
    arguments = ["doctor", str(table), "--older-than", "0s"]

    assert main(arguments) == 5
    head, line, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["finding", "where", "what", "to", "mend"]
    assert line.startswith(f"stale staging  {place}  1 file, ")
    assert line.endswith("UTC, batch b  --fix removes it" if output_format == "parquet" else "UTC  --fix removes it")
    assert last == f"{table}: 1 found, 0 mended, 1 left"

    assert main([*arguments, "--json"]) == 5
    told = json.loads(capsys.readouterr().out)
    assert (told["location"], told["left"], told["findings"][0]["kind"]) == (str(table), 1, "stale staging")

    assert main([*arguments, "--fix"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{table}: 1 found, 1 mended, 0 left"
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{table}: nothing found\n"


def test_a_batch_is_deleted_by_command_only_when_that_is_said(
    score: Callable[..., str], table: Path, output_format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    score("a")
    score("b", 5)
    monkeypatch.setattr("sys.stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115  nobody can be asked

    assert main(["delete-batch", str(table), "b"]) == 2
    what = f"the batch b (5 rows, 2026-01-31) of {table}"
    assert capsys.readouterr().err == f"lakescore: --yes: is required where nobody can be asked; it would delete {what}\n"
    assert _published(table) == {"a": 3, "b": 5}

    assert main(["delete-batch", str(table), "b", "--yes"]) == 0
    version = " (version 2; older versions show it until VACUUM)" if output_format == "delta" else ""
    assert capsys.readouterr().out == f"deleted {what}{version}\n"
    assert _published(table) == {"a": 3}

    assert main(["delete-batch", str(table), "b", "--yes"]) == 5
    assert capsys.readouterr().err == f"lakescore: BATCH_ID: the batch 'b' is not in {table}. There are a.\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["doctor"], "OUTPUT: is required without --config: a path (with a / in it, or that is there) or a table's name"),
        (["doctor", "a", "b"], "OUTPUT: got 'a', 'b'; give one"),
        (["doctor", "a", "--older-than", "soon"], "--older-than: got 'soon'; expected a number and s, m, h or d, for example 24h"),
        (["delete-batch"], "delete-batch: give OUTPUT and BATCH_ID, or --config and BATCH_ID; see lakescore delete-batch --help"),
        (["delete-batch", "b"], "OUTPUT: is required without --config: a path (with a / in it, or that is there) or a table's name"),
        (["delete-batch", "a", "b", "c"], "OUTPUT: got 'a', 'b'; give one"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(arguments), capsys.readouterr().err) == (2, f"lakescore: {line}\n")
