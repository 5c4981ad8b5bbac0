"""What a batch's counts come to: its drift from the reference, whether it may be published, and what is left for people to read.

| left           | where                                                                                     |
| -------------- | ----------------------------------------------------------------------------------------- |
| three files    | artifacts of the MLflow run; and beside the output (``drift.folder``) of a published batch |
| metrics        | ``drift_metric``, ``drift_status`` (0 none, 1 possible, 2 detected), ``drift.COLUMN``      |
| rows           | in the drift table (``drift.table``), where one is configured; of refused batches too      |
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import from_arrow_schema

from lakescore import monitoring, planning, storage
from lakescore.config import OutputConfig
from lakescore.drift import analysis, table
from lakescore.drift.analysis import STATUSES, Analysis, Thresholds
from lakescore.drift.files import PLOT, files_of
from lakescore.drift.statistics import Statistics
from lakescore.errors import DriftError, LakescoreError, OutputError
from lakescore.job import Work
from lakescore.lineage import Lineage, lineage_columns
from lakescore.monitoring import Monitor
from lakescore.planning import Plan
from lakescore.redact import redact
from lakescore.schema import PARTITION
from lakescore.sinks import Sink, Staged, open_sink, quarantine
from lakescore.storage import Location
from lakescore.tracking import Record

log = logging.getLogger(__name__)

PUBLISHED, REFUSED = "published", "refused"
# MLflow takes no other characters in a metric's name.
_NOT_IN_METRICS = re.compile(r"[^\w\-. :/]", re.ASCII)


@dataclass(frozen=True)
class Drift:
    """Of a batch from its reference.

    Attributes:
        status: ``none``, ``possible`` or ``detected``; None: not analysed.
        value: of the batch, in [0, 1]; worst: the column with the highest of its own.
        text: all of it in one line.
    """

    status: str | None
    value: float | None
    worst: str | None
    text: str


@dataclass(frozen=True)
class Verdict:
    """A batch, judged.

    Attributes:
        batch: its statistics; analysis: what they come to; reference: what it was compared with, for people.
    """

    batch: Statistics
    analysis: Analysis
    reference: str

    @property
    def metrics(self) -> dict[str, float]:
        """What the MLflow run gets; see the module."""
        found = {f"drift.{_NOT_IN_METRICS.sub('_', one.name)}": one.drift for one in self.analysis.columns if one.drift is not None}
        if self.analysis.drift is None or self.analysis.status is None:
            return found
        return {**found, "drift_metric": self.analysis.drift, "drift_status": STATUSES.index(self.analysis.status)}


def judge(plan: Plan, monitor: Monitor, work: Work) -> Verdict:
    """Compare what was counted with the reference.

    Raises:
        LakescoreError: the counts do not reconcile, and drift is to stop a run.
    """
    config = plan.config.drift
    thresholds = Thresholds(config.possible_threshold, config.detected_threshold)
    batch = monitoring.statistics_of(monitor, work.observed, f"batch {plan.config.run.batch_id} of {plan.source.description}", work.read)
    found = analysis.analyse(batch, monitor.reference, thresholds)
    if (odd := _odd_counts(batch, work.read)) is not None:
        # Never seen: it would mean that Spark counted a task twice, or one not at all.
        if config.on_drift == "fail":
            raise LakescoreError(f"drift.on_drift: fail, and drift cannot be told: {odd}; nothing was published. Run it again")
        found = replace(found, drift=None, status=None, worst=None, not_analysed=odd)
    verdict = Verdict(batch, found, monitor.described)
    (log.warning if found.status == "detected" else log.info)("drift: %s, against %s", found, monitor.described)
    for one in found.unanalysed:
        # What the reference has and the batch has lost counts for no drift, and is worth a look all the more.
        if batch.rows and one.batch is not None and one.reference is not None and one.reference.not_analysed is None:
            log.warning("drift: the column %r is not analysed: %s", one.name, one.not_analysed)
    return verdict


def _odd_counts(batch: Statistics, rows: int) -> str | None:
    """What does not reconcile: each column but predictions, which rows that failed have not, was counted once for each row."""
    for name, column in batch.columns.items():
        if column.role != "prediction" and column.rows not in (0, rows):
            return f"{column.rows} values of {name!r} were counted, and {rows} rows read"
    return None


class DriftTable:
    """``drift.table``: rows of each batch, published like the batch itself."""

    def __init__(self, plan: Plan, run_id: str, name: str) -> None:
        """Check that the table can take the rows.

        Raises:
            OutputError: it cannot.
            ConfigError: it is the output, the quarantine or the source.
        """
        self._plan = plan
        self.place = table_of(plan.config.output, name)
        quarantine.refuse_overlap("drift.table", self.place, plan.config.output, plan.config.source)
        with _as_drift_table():
            self._sink: Sink = open_sink(self.place, quarantine.batch_of(planning.batch_of(plan.config, run_id)))
            self._sink.recover(plan.spark)
            empty = table.SCHEMA.empty_table()
            self._sink.check(plan.spark, self._stamped(empty, plan.lineage("", datetime.now(timezone.utc))).schema)

    @property
    def has_batch(self) -> bool:
        """Whether an earlier run has left rows of the batch."""
        return bool(self._sink.find(self._plan.spark))

    def publish(self, verdict: Verdict, lineage: Lineage, decision: str) -> None:
        """Put the batch's rows there, in place of those that an earlier run of it left."""
        staged: Staged | None = None
        with _as_drift_table():
            try:
                rows = table.rows(verdict.analysis, self._plan.config.drift.measures, decision)
                staged = self._sink.stage(self._stamped(rows, lineage).coalesce(1))
                self._sink.publish(self._plan.spark, staged)
            except BaseException:
                self._sink.discard(staged)
                raise

    def _stamped(self, rows: pa.Table, lineage: Lineage) -> DataFrame:
        """The rows with the run's columns, in the partition of the run's date."""
        # By its schema: Spark Connect takes no empty table without one.
        found = self._plan.spark.createDataFrame(rows, from_arrow_schema(table.SCHEMA))
        return found.select("*", *lineage_columns(replace(lineage, partition_by=PARTITION)))


def table_of(output: OutputConfig, name: str) -> OutputConfig:
    """``drift.table`` as an output: a path, of the format of the output's own files, or a table's name."""
    if "/" in name:
        return OutputConfig(path=name, format="parquet" if output.format == "parquet" else "delta", merge_schema=True)
    return OutputConfig(table=name, merge_schema=True)


def open_table(plan: Plan, run_id: str) -> DriftTable | None:
    """``drift.table``, checked; None where there is none."""
    return DriftTable(plan, run_id, plan.config.drift.table) if plan.config.drift.table is not None else None


@contextmanager
def _as_drift_table() -> Iterator[None]:
    """The sinks speak of the output; here it is another table."""
    try:
        yield
    except OutputError as error:
        raise OutputError(re.sub(r"^output\.(path|table|format)", "drift.table", str(error))) from error


def refuse(plan: Plan, verdict: Verdict, drift_table: DriftTable | None, record: Record, lineage: Lineage) -> None:
    """Stop where drift was detected and is not to be published; what was found is kept all the same.

    Raises:
        DriftError: in one line with the batch's drift and the worst column; or that no column could be compared.
    """
    if plan.config.drift.on_drift != "fail":
        return
    if verdict.analysis.status is None and verdict.batch.rows:
        raise DriftError(f"drift.on_drift: fail, and drift cannot be told: {verdict.analysis}; nothing was published")
    if verdict.analysis.status != "detected":
        return
    with _warned("the run's metrics could not be recorded"):
        record.metrics(verdict.metrics)
    leave(plan, verdict, drift_table, record, lineage, REFUSED)
    raise DriftError(
        f"drift.on_drift: fail, and the batch has drifted from {verdict.reference}: {verdict.analysis}, detected from "
        f"{plan.config.drift.detected_threshold:g}; nothing was published. {PLOT} of the MLflow run {record.run_id} shows each column"
    )


def leave(
    plan: Plan, verdict: Verdict, drift_table: DriftTable | None, record: Record, lineage: Lineage, decision: str = PUBLISHED
) -> None:
    """Write the drift table's rows and the three files; what fails here is only warned of, because the batch is decided already.

    Not before: of two runs of one batch, the one that is not published must leave no rows.
    """
    # A batch that stays as it was keeps its rows there.
    if drift_table is not None and not (decision == REFUSED and plan.published):
        with _warned("the drift table could not be written"):
            drift_table.publish(verdict, lineage, decision)
    files = _files(plan, verdict)
    for name, text in files.items():
        with _warned(f"{name} could not be kept with the run {record.run_id}"):
            record.client.log_text(record.run_id, text, name)
    folder = _folder(plan)
    if folder is None or decision != PUBLISHED:
        return
    with _warned(f"the files could not be written to {folder}"):
        place = Location.of(folder)
        assert place is not None, "the output is there too"
        for name, text in files.items():
            (place / name).write_text(text)


def _files(plan: Plan, verdict: Verdict) -> dict[str, str]:
    run = plan.config.run
    facts = {
        "model": f"{plan.model.uri} (version {plan.model.version})",
        "batch": str(run.batch_id),
        "date": str(run.date),
        "rows": f"{verdict.batch.rows:,}",
        "source": plan.source.description,
        "compared with": verdict.reference,
    }
    return files_of(verdict.analysis, verdict.batch, f"Drift of {run.batch_id}", facts)


def _folder(plan: Plan) -> str | None:
    """Where the batch's files go beside the output; None where the output is a table of the catalog, or nothing."""
    output, folder = plan.config.output, plan.config.drift.folder
    if folder is None and output.is_own_folder:
        return output.path
    folder = folder_of(output, folder)
    return None if folder is None else storage.absolute(f"{folder}/{plan.config.run.batch_id}")


def folder_of(output: OutputConfig, given: str | None) -> str | None:
    """``drift.folder``, or where it is by default: beside the output; None where that is a table of the catalog, or nothing."""
    if given is not None:
        return given.rstrip("/")
    return None if output.path is None else f"{output.path.rstrip('/')}_drift"


@contextmanager
def _warned(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("drift: %s: %s", what, redact(str(error)))


def as_result(verdict: Verdict | None) -> Drift | None:
    """What a run's result tells of it."""
    if verdict is None:
        return None
    found = verdict.analysis
    return Drift(found.status, found.drift, found.worst.name if found.worst else None, str(found))
