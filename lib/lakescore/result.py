"""What a run answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lakescore.redact import redact
from lakescore.verdict import Drift


@dataclass(frozen=True)
class ScoreResult:
    """What a run did.

    Attributes:
        outcome: ``scored``; ``skipped`` where the batch was published already; ``reused`` (``scoring.allow_reuse``): the rest then
            describes the earlier run whose output it is; ``nothing_new`` (``source.incremental``).
        run_id: the MLflow run; experiment_id: the experiment it is in; both empty where nothing was new.
        batch_id, score_date: the batch, and the run's date (ISO); of the last batch where nothing was new.
        model_uri, model_version: the pinned model; empty when skipped.
        location: the output path or table; version: its Delta version after the commit.
        output_format: ``delta``, ``parquet``, ``jsonl``, ``append_row`` or ``summary_only``.
        rows_read, rows_scored, rows_written: rows; rows read = rows scored + rows quarantined, and all that are scored are written, but
            that ``summary_only`` writes none.
        rows_quarantined: rows that could not be scored; quarantine: the path or table that they are in, None where there are none.
        counts: null, NaN and infinite predictions.
        seconds: by stage; total_seconds: in all. worker_seconds: of all workers together by what they did (load, read, predict, write),
            where they tell.
        engine: what scored: ``direct`` (workers that read and write the files on their own), ``fast``, ``spark_udf`` or
            ``entry_script``; backend: what ran it, ``spark`` or ``embedded``; both empty where nothing was scored.
        drift: of the batch from its reference; None where it was not watched.
    """

    outcome: str
    run_id: str
    experiment_id: str
    batch_id: str
    score_date: str
    location: str
    output_format: str
    model_uri: str = ""
    model_version: str = ""
    version: int | None = None
    rows_read: int = 0
    rows_scored: int = 0
    rows_written: int = 0
    rows_quarantined: int = 0
    quarantine: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    drift: Drift | None = None
    worker_seconds: Mapping[str, float] = field(default_factory=dict)
    engine: str = ""
    backend: str = ""

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())

    def __str__(self) -> str:
        """The closing summary of a run."""
        if self.outcome == "skipped":
            return f"batch {self.batch_id} is in {self.location} already; nothing to do (run.on_rerun=skip)"
        if self.outcome == "nothing_new":
            since = f" since the batch {self.batch_id} in {self.location}" if self.batch_id else ""
            return redact(f"nothing new{since}; nothing to do (source.incremental)")
        if self.outcome == "reused":
            return redact(
                f"the same input, model and settings gave batch {self.batch_id} in {self.location} already (run {self.run_id}); nothing "
                "to do (scoring.allow_reuse)"
            )
        odd = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count)
        scoring = self.seconds.get("score")
        rate = f" ({self.rows_scored / scoring:,.0f} rows/s while scoring)" if self.rows_scored and scoring else ""
        version = "" if self.version is None else f" (version {self.version})"
        rows: list[tuple[str, Any]] = [
            ("model", self.model_uri),
            ("rows", f"{self.rows_written:,}" + (f" (predictions: {odd})" if odd else "")),
            *([("quarantined", f"{self.rows_quarantined:,} in {self.quarantine}")] if self.rows_quarantined else []),
            *([("drift", self.drift.text)] if self.drift is not None else []),
            ("seconds", f"{self.total_seconds:.1f}{rate}"),
            ("batch", f"{self.batch_id}, date {self.score_date}"),
            ("written to", f"{self.location}{version}"),
            ("read them", self._how_to_read()),
            ("run", f"{self.run_id} (mlflow ui, experiment {self.experiment_id})"),
        ]
        return redact("\n".join(f"{name + ':':<13}{value}" for name, value in rows))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """What a notebook shows (IPython asks for it)."""
        printer.text(str(self))

    def _how_to_read(self) -> str:
        if self.output_format not in ("delta", "parquet"):
            return f"lakescore read {self.run_id}" if self.rows_written else "no rows were written"
        is_table = "/" not in self.location
        load = f'spark.read.table("{self.location}")' if is_table else f'spark.read.format("{self.output_format}").load("{self.location}")'
        return f"{load}.where(\"batch_id = '{self.batch_id}'\")"
