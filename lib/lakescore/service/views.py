"""A run or a pipeline as it is answered: without secrets, and with what the log tells while it runs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from lakescore.redact import redact, redact_tree
from lakescore.service import logs, processes
from lakescore.service.pipelines import Pipeline
from lakescore.service.store import Run, Status, Trigger, moment_of, text_of


class Rows(BaseModel):
    """Rows of a run; those read are those scored and those quarantined."""

    read: int
    scored: int
    written: int
    quarantined: int


class DriftView(BaseModel):
    """Of the batch from its reference."""

    status: str | None = Field(default=None, description="none, possible, detected; null: not analysed")
    value: float | None = Field(default=None, description="0 to 1")
    worst: str | None = Field(default=None, description="the column with the highest drift of its own")
    text: str = ""


class RunView(BaseModel):
    """One run."""

    id: str
    pipeline: str
    status: Status
    trigger: Trigger
    caller: str = Field(description="name of the token")
    overrides: dict[str, Any]
    batch_id: str
    score_date: str
    created_at: str
    scheduled_at: str | None = Field(description="the tick that it was made by")
    not_before: str | None = Field(description="when it is tried again")
    started_at: str | None
    ended_at: str | None
    seconds: float | None = Field(description="since it was started, until it ended")
    attempt: int
    exit_code: int | None = Field(description="as of lakescore score; null: it has not ended, or nothing tells")
    error: str | None
    rows: Rows | None
    counts: dict[str, int] = Field(description="null, NaN and infinite predictions")
    model_uri: str | None
    model_version: str | None
    output: str | None
    output_version: int | None
    stages: dict[str, float] = Field(description="seconds by stage")
    drift: DriftView | None
    mlflow_run_id: str | None
    mlflow_url: str | None
    links: dict[str, str]


class RunPage(BaseModel):
    """Runs, the newest first."""

    runs: list[RunView]
    next: str | None = Field(description="where the older ones are")


class PipelineView(BaseModel):
    """One pipeline."""

    name: str
    allow: list[str] = Field(description="keys, and sections of keys, that a caller may set")
    schedule: str | None
    next_run: str | None
    error: str | None = Field(description="why it cannot be run")
    last_run: RunView | None
    links: dict[str, str]


def view_of_run(run: Run, folder: Path | None, now: datetime) -> RunView:
    """A run as it is answered.

    Args:
        run: the row.
        folder: of its latest try, to look into its log; None: do not look.
        now: the time.
    """
    result = redact_tree(run.result or {})
    if not run.is_ended and folder is not None:
        result = {**logs.mlflow_run(folder / processes.LOG), **result}
    has_rows = "rows_read" in result
    drift = result.get("drift")
    begun = moment_of(run.started_at) if run.started_at else None
    return RunView(
        id=run.id,
        pipeline=run.pipeline,
        status=run.status,
        trigger=run.trigger,
        caller=run.caller,
        overrides=redact_tree(run.overrides),
        batch_id=result.get("batch_id") or run.batch_id,
        score_date=run.score_date,
        created_at=run.created_at,
        scheduled_at=run.scheduled_at,
        not_before=run.not_before,
        started_at=run.started_at,
        ended_at=run.ended_at,
        seconds=None if begun is None else round(((moment_of(run.ended_at) if run.ended_at else now) - begun).total_seconds(), 3),
        attempt=run.attempt,
        exit_code=run.exit_code,
        error=None if run.error is None else redact(run.error),
        rows=Rows(**{name: result.get(f"rows_{name}", 0) for name in Rows.model_fields}) if has_rows else None,
        counts=result.get("counts", {}),
        model_uri=result.get("model_uri") or None,
        model_version=result.get("model_version") or None,
        output=result.get("location") or None,
        output_version=result.get("version"),
        stages=result.get("seconds", {}),
        drift=None if drift is None else DriftView(**drift),
        mlflow_run_id=result.get("run_id"),
        mlflow_url=run.mlflow_url,
        links={"self": f"/runs/{run.id}", "log": f"/runs/{run.id}/log", "cancel": f"/runs/{run.id}/cancel", "page": f"/ui/runs/{run.id}"},
    )


def view_of_pipeline(pipeline: Pipeline, last: Run | None, now: datetime) -> PipelineView:
    """A pipeline as it is answered.

    Args:
        pipeline: the file.
        last: its newest run.
        now: the time.
    """
    recurrence = pipeline.recurrence
    tick = recurrence.next(now) if recurrence is not None else None
    return PipelineView(
        name=pipeline.name,
        allow=list(pipeline.allow),
        schedule=pipeline.schedule,
        next_run=None if tick is None else text_of(tick),
        error=pipeline.error,
        last_run=None if last is None else view_of_run(last, None, now),
        links={
            "runs": f"/runs?pipeline={pipeline.name}",
            "run": f"/pipelines/{pipeline.name}/runs",
            "page": f"/ui/pipelines/{pipeline.name}",
        },
    )
