"""An output and its experiment in; what crashes, kills and hands have left in both out, and mended where no row can be lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from pyspark.sql import SparkSession

from lakescore import abandoned, own_process, runs, storage, targets, tracking
from lakescore.deletion import session_for
from lakescore.errors import ConfigError, InputError
from lakescore.redact import redact
from lakescore.runs import Runs
from lakescore.sinks import Batch, PublishedRows, open_sink
from lakescore.sinks.contents import Contents, Held, contents
from lakescore.sinks.leftovers import JOURNAL, ORPHAN, REPLACED, STAGING, Leftover, leftovers
from lakescore.targets import Config, Target

log = logging.getLogger(__name__)

DEAD_RUN = "dead run"
NO_RUN = "batch without a run"
NO_BATCH = "run without a batch"
DAMAGED = "damaged batch"
QUARANTINE = "quarantine without a batch"
# In the order in which they are mended: what became of a dead run is known when its publication is finished.
KINDS = (JOURNAL, DEAD_RUN, STAGING, REPLACED, ORPHAN, DAMAGED, NO_RUN, NO_BATCH, QUARANTINE)
_ROUNDS = 3
_GONE = {
    "deleted": ("has deleted", "mlflow runs restore --run-id {}"),
    "unknown": ("does not know", "give the tracking.tracking_uri that knows it"),
}
_FOUND, _MENDED, _LEFT = "found", "mended", "left"


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        kind: one of ``KINDS``; place: a path, a batch, a run or a table; detail: what is known of it.
        remedy: what mends it: ``--fix`` and what that does, or the command.
        state: ``found``; with ``fix``, ``mended`` or ``left``.
    """

    kind: str
    place: str
    detail: str
    remedy: str
    mendable: bool
    state: str = _FOUND


@dataclass(frozen=True)
class Checkup:
    """What was found.

    Attributes:
        location: the output.
        findings: in the order of ``KINDS``.
        notes: what could not be looked at, and why.
    """

    location: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def left(self) -> tuple[Finding, ...]:
        """What is not mended."""
        return tuple(one for one in self.findings if one.state != _MENDED)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {**asdict(self), "findings": [asdict(one) for one in self.findings], "left": len(self.left)}


@dataclass(frozen=True)
class _Case:
    """A finding, and what mends it."""

    finding: Finding
    mend: Callable[[], None] | None = None


def doctor(
    output: str | None = None,
    *,
    config: Config | None = None,
    overrides: Sequence[str] = (),
    fix: bool = False,
    older_than: timedelta = timedelta(hours=24),
    spark: SparkSession | None = None,
) -> Checkup:
    """Look for what crashed, killed or defeated runs have left in an output, its quarantine, its drift table, and in MLflow.

    Args:
        output: a path (with a slash in it, or that is there) or a table's name; None: the configuration's.
        config: as for ``score``; says where quarantine, drift table and MLflow are, where they are not where they are by default.
        overrides: ``section.key=value``.
        fix: mend what can be mended without losing a row.
        older_than: what has changed since is left alone, as a live run may need it; and a run that says RUNNING and has left no sign of
            life for as long counts as dead.
        spark: the session to use, where one is needed (tables of the catalog, deletion vectors).

    Returns:
        The findings; with ``fix``, what became of each.

    Raises:
        LakescoreError: the output is none or cannot be read, or the tracking server does not answer.
    """
    if not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise ConfigError(f"older_than: got {older_than!r}; expected a timedelta that is not negative")
    target = targets.resolve(output, config, overrides)
    with storage.scratch_folder() as scratch, tracking.quiet_mlflow():
        client = tracking.client_for_looking(target.tracking, scratch)
        examination = _Examination(target, client, session_for(target, spark), older_than)
        cases = examination.cases()
        if config is None and not cases and not examination.is_table:
            raise InputError(f"OUTPUT: there is no table {target.location}; of a table that is yet to be written, give its --config")
        first = [case.finding for case in cases]
        for _ in range(_ROUNDS if fix else 0):
            if not any(case.mend for case in cases):
                break
            _mend(cases)
            cases = examination.cases()
    left = {(case.finding.kind, case.finding.place): case.finding for case in cases}
    if fix:
        first = [replace(one, state=_LEFT if (one.kind, one.place) in left else _MENDED) for one in first]
        known = {(one.kind, one.place) for one in first}
        first += [replace(one, state=_LEFT) for key, one in left.items() if key not in known]
    findings = sorted(first, key=lambda one: KINDS.index(one.kind))
    return Checkup(redact(target.location), tuple(findings), tuple(examination.notes))


def _mend(cases: Iterable[_Case]) -> None:
    for case in sorted(cases, key=lambda case: KINDS.index(case.finding.kind)):
        if case.mend is not None:
            try:
                case.mend()
                log.info("doctor: %s %s: mended", case.finding.kind, case.finding.place)
            except Exception as error:
                log.warning("doctor: %s %s could not be mended: %s", case.finding.kind, case.finding.place, redact(str(error)))


class _Examination:
    """One look at an output; ``cases`` looks anew each time."""

    def __init__(self, target: Target, client: MlflowClient, spark: Callable[[], SparkSession], older_than: timedelta) -> None:
        self._target, self._client, self._spark = target, client, spark
        self._silence_ms = older_than / timedelta(milliseconds=1)
        self.notes: list[str] = []
        self.is_table = True

    def cases(self) -> list[_Case]:
        self.notes = []
        target = self._target
        known = runs.of_output(self._client, target.tracking.experiment, target.has)
        tables = {"output": target.output, **target.beside}
        left = {name: leftovers(one, self._spark) for name, one in tables.items()}
        self._now_ms = time.time() * 1000
        dead = [run for run in known.running if self._is_dead(run, [one for found in left.values() for one in found])]
        live = {str(run.data.tags[runs.BATCH_TAG]) for run in known.running if run not in dead}
        held = contents(target.output, self._spark)
        self.is_table = held.is_table
        cases = [self._dead_run(run) for run in dead]
        for name, found in left.items():
            holds = held if name == "output" else None
            # Tables of a catalog share their schema, and their staged ones lie there side by side.
            seen = {case.finding.place for case in cases}
            at_work = live if tables[name].table is None else live | known.elsewhere
            cases += [self._leftover(one, known, holds, name) for one in found if one.place not in seen and self._is_stale(one, at_work)]
        # Whether the batch of a journal is there can be said when it is finished.
        live |= {one.batch_id for one in left["output"] if one.kind == JOURNAL and one.batch_id}
        cases += self._damaged(held, known, target.location, live)
        for name, one in target.beside.items():
            inside = contents(one, self._spark)
            where = str(one.table or storage.absolute(one.path or ""))
            cases += self._broken(inside, where, live)
            if name == "quarantine":
                cases += self._quarantined(inside, held, known, where, live)
        if known.experiment_id is None:
            server = redact(tracking.server_of(target.tracking))
            self.notes.append(
                f"runs were not looked at: there is no experiment {target.tracking.experiment!r} in {server} "
                "(tracking.experiment, tracking.tracking_uri)"
            )
        else:
            cases += [*self._without_run(held, known, live), *self._without_batch(held, known, live)]
        return cases

    def _is_silent(self, modified_ms: float) -> bool:
        return self._now_ms - modified_ms >= self._silence_ms

    def _is_dead(self, run: Run, left: Iterable[Leftover]) -> bool:
        """Whether its process is gone or, where that cannot be told, nothing was heard of it for long: its start, what it stages."""
        if own_process.is_gone(run.data.tags):
            return True
        if own_process.is_alive(run.data.tags):
            return False
        batch_id = str(run.data.tags[runs.BATCH_TAG])
        signs = [run.info.start_time, *(one.extent.modified_ms for one in left if one.is_of(batch_id))]
        return self._is_silent(max(signs))

    def _dead_run(self, run: Run) -> _Case:
        batch_id, since = str(run.data.tags[runs.BATCH_TAG]), _time(run.info.start_time)

        def end() -> None:
            silent = f"it said RUNNING since {since} and left no sign of life; ended by lakescore doctor"
            why = None if own_process.is_gone(run.data.tags) else silent
            abandoned.end(self._client, run, self._published_by(run.info.run_id, batch_id), why)

        return _Case(Finding(DEAD_RUN, run.info.run_id, f"RUNNING since {since}, batch {batch_id}", "--fix ends it", True), end)

    def _published_by(self, run_id: str, batch_id: str) -> PublishedRows | None:
        output = self._target.output
        if output.is_row_file:  # which of a folder's files it wrote is in none of its tags
            there = contents(output, self._spark, batch_id).batches.get(batch_id)
            return PublishedRows(there.rows[run_id]) if there is not None and run_id in there.rows else None
        spark = None if output.table is None else self._spark()
        sink = open_sink(output, Batch(batch_id, "", date.min, "skip"))
        sink.recover(spark)  # what it has decided, and not come to the end of
        return sink.rows_of(spark, run_id)

    def _is_stale(self, one: Leftover, live: set[str]) -> bool:
        # A file that nothing names tells of no batch: it may be of any that is written.
        is_used = bool(live) if one.kind == ORPHAN else any(one.is_of(batch_id) for batch_id in live)
        return self._is_silent(one.extent.modified_ms) and not is_used

    def _leftover(self, one: Leftover, known: Runs, held: Contents | None, where: str) -> _Case:
        batch_id = one.batch_id or next((batch for batch in known.scored if one.is_of(batch)), None)
        detail = [*([where] if where != "output" else []), _extent(one), *([f"batch {batch_id}"] if batch_id else [])]
        finding = Finding(one.kind, one.place, ", ".join(detail), "--fix removes it", True)
        if one.kind == JOURNAL:
            return _Case(replace(finding, remedy="--fix finishes it"), one.mend)
        may_be_all = one.kind == REPLACED or (one.kind == STAGING and _was_published(known, batch_id))
        if may_be_all and held is not None and not (batch_id and held.is_published(batch_id)):
            # What is not in the table any more may be nowhere else: of a Delta table without its log, all rows look like that.
            again = f"score it again (run.batch_id={batch_id}), then --fix removes it" if batch_id else "look at it, and remove it"
            return _Case(replace(finding, detail=f"{finding.detail}, which is not published", remedy=again, mendable=False))
        return _Case(finding, one.mend)

    def _broken(self, inside: Contents, where: str, live: set[str]) -> list[_Case]:
        """Files that are named and gone, or that cannot be read; those of a batch that is being replaced come and go."""
        broken = [(batch_id, one.broken) for batch_id, one in inside.batches.items() if one.broken and batch_id not in live]
        found = [(f"{where} ({batch_id})", batch_id, files) for batch_id, files in broken]
        cases = [self._broken_batch(place, where, batch_id, files) for place, batch_id, files in found]
        for file in inside.broken:
            remedy = "put it back, or restore the table to a version before it (RESTORE TABLE)"
            cases.append(_Case(Finding(DAMAGED, file, "gone, changed or unreadable", remedy, False)))
        return cases

    def _broken_batch(self, place: str, where: str, batch_id: str, files: list[str]) -> _Case:
        detail = f"{len(files)} of its files gone or unreadable: {files[0]}"
        return _Case(Finding(DAMAGED, place, detail, f"put them back, or {_make_anew(where, batch_id)}", False))

    def _damaged(self, held: Contents, known: Runs, where: str, live: set[str]) -> list[_Case]:
        """Batches that are not as their runs left them."""
        cases = self._broken(held, where, live)
        for batch_id, one in held.batches.items():
            if one.broken or batch_id in live:
                continue
            if (detail := _recount(one, known.scored.get(batch_id, []))) is not None:
                cases.append(_Case(Finding(DAMAGED, f"{where} ({batch_id})", detail, _make_anew(where, batch_id), False)))
        return cases

    def _without_run(self, held: Contents, known: Runs, live: set[str]) -> list[_Case]:
        cases = []
        seen = {run.info.run_id for of_batch in known.scored.values() for run in of_batch}
        for batch_id, one in held.batches.items():
            for run_id in set(one.rows) - seen - {""} if batch_id not in live else ():
                state = runs.state_of(self._client, run_id)
                if state in ("unknown", "deleted"):
                    what, mends = _GONE[state]
                    detail = f"{one.rows[run_id]:,} rows name the run {run_id}, which MLflow {what}"
                    remedy = f"{mends.format(run_id)}, or {_make_anew(self._target.location, batch_id)}"
                    cases.append(_Case(Finding(NO_RUN, batch_id, detail, remedy, False)))
        return cases

    def _without_batch(self, held: Contents, known: Runs, live: set[str]) -> list[_Case]:
        cases = []
        for batch_id, (newest, *_) in known.scored.items():
            rows = int(newest.data.metrics.get("rows_written", 0))
            there = held.batches.get(batch_id)
            has_rows = there is not None and bool(there.rows or there.broken)
            is_there = held.is_published(batch_id) and (has_rows or not rows or not held.is_counted)
            if is_there or batch_id in live or runs.DELETED_TAG in newest.data.tags:
                continue
            detail = f"batch {batch_id}: {rows:,} rows were published {_time(newest.info.end_time)}, and are not there"
            again = f"run.batch_id={batch_id}" + (" run.on_rerun=replace" if held.is_published(batch_id) else "")
            remedy = f"score it again ({again}); if it was removed on purpose, tag the run {runs.DELETED_TAG}"
            cases.append(_Case(Finding(NO_BATCH, newest.info.run_id, detail, remedy, False)))
        return cases

    def _quarantined(self, inside: Contents, held: Contents, known: Runs, where: str, live: set[str]) -> list[_Case]:
        """A quarantine is published just before its batch; one that stands alone is of a run that died in between."""
        cases = []
        for batch_id, one in inside.batches.items():
            if batch_id in live or held.is_published(batch_id) or self._target.output.format == "summary_only":
                continue
            deleted = any(runs.DELETED_TAG in run.data.tags for run in known.scored.get(batch_id, []))
            why = "which was deleted" if deleted else "which is not published"
            detail = f"{sum(one.rows.values()):,} rows of the batch {batch_id}, {why}"
            remedy = f"score it again (run.batch_id={batch_id}), or lakescore delete-batch {where} {batch_id}"
            cases.append(_Case(Finding(QUARANTINE, f"{where} ({batch_id})", detail, remedy, False)))
        return cases


def _was_published(known: Runs, batch_id: str | None) -> bool:
    """Whether a run says so of a batch, and nobody has deleted it."""
    return any(runs.DELETED_TAG not in run.data.tags for run in known.scored.get(batch_id or "", []))


def _recount(one: Held, scored: Iterable[Run]) -> str | None:
    """How a batch's rows differ from what its run has counted; None where they do not, or no run tells."""
    if len([run_id for run_id in one.rows if run_id]) > 1:
        return f"has rows of {len(one.rows)} runs: {', '.join(sorted(one.rows))}"
    for run in scored:
        rows, wrote = one.rows.get(run.info.run_id), run.data.metrics.get("rows_written")
        if rows is not None and wrote is not None and rows != int(wrote):
            return f"{rows:,} rows, and its run {run.info.run_id} wrote {int(wrote):,}"
    return None


def _make_anew(where: str, batch_id: str) -> str:
    return f"lakescore delete-batch {where} {batch_id}, then score it again"


def _extent(one: Leftover) -> str:
    files = f"{one.extent.files} file{'' if one.extent.files == 1 else 's'}, {_bytes(one.extent.size)}" if one.extent.files else "no files"
    return f"{files}, last changed {_time(one.extent.modified_ms)}"


def _bytes(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1_000:
            return f"{count:,.0f} {unit}"
        count = round(count / 1_000)
    return f"{count:,} TB"


def _time(ms: float | None) -> str:
    return datetime.fromtimestamp((ms or 0) / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
