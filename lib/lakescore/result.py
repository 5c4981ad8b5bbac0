"""What a run answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
