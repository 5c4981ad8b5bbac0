"""The REST interface: pipelines, runs, cancel; errors are ``application/problem+json`` with one line."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field

from lakescore.service import logs, processes
from lakescore.service.access import Visitor
from lakescore.service.center import Center
from lakescore.service.store import MOST_SEQ, Status
from lakescore.service.views import PipelineView, RunPage, RunView

_MOST_RUNS = 200


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class RunRequest(BaseModel):
    """What a run is asked for with."""

    overrides: dict[str, Any] = Field(default={}, examples=[{"run.date": "2026-01-31"}])


def center_of(request: Request) -> Center:
    """The service behind a request."""
    center = request.app.state.center
    assert isinstance(center, Center)
    return center


def reader(request: Request) -> Visitor:
    """Who may read."""
    return center_of(request).access.visitor(request, "read")


def runner(request: Request) -> Visitor:
    """Who may run pipelines, too."""
    return center_of(request).access.visitor(request, "run")


async def body(request: Request) -> bytes:
    """The body of a request, whose size is limited already."""
    return await request.body()


def _told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem} for status in (401, 429, *statuses)}


CenterOf = Annotated[Center, Depends(center_of)]
Reader = Annotated[Visitor, Depends(reader)]
Runner = Annotated[Visitor, Depends(runner)]
Body = Annotated[bytes, Depends(body)]
router = APIRouter()
_REQUEST = {"requestBody": {"content": {"application/json": {"schema": RunRequest.model_json_schema()}}}}


@router.get("/pipelines", responses=_told(), summary="All pipelines, each with its newest run")
def pipelines(center: CenterOf, visitor: Reader) -> list[PipelineView]:
    """All pipelines."""
    return center.pipeline_views()


@router.get("/pipelines/{name}", responses=_told(404), summary="One pipeline")
def pipeline(name: str, center: CenterOf, visitor: Reader) -> PipelineView:
    """One pipeline."""
    return center.pipeline_view(center.pipeline(name))


@router.post(
    "/pipelines/{name}/runs",
    status_code=202,
    responses=_told(403, 404, 413, 415, 422),
    openapi_extra=_REQUEST,
    summary="Queue a run; its ID is answered at once",
)
def run_pipeline(
    name: str,
    request: Request,
    response: Response,
    center: CenterOf,
    visitor: Runner,
    raw: Body,
    idempotency_key: Annotated[str | None, Header(description="with the same key and body: the same run")] = None,
) -> RunView:
    """Queue a run."""
    overrides = _overrides(request, raw)
    run, is_new = center.queue(center.pipeline(name), overrides, "api", visitor.caller.name, idempotency_key)
    response.headers["Location"] = f"/runs/{run.id}"
    if not is_new:
        response.headers["Idempotency-Replayed"] = "true"
    return center.view(run)


@router.get("/runs", responses=_told(422), summary="Runs, the newest first")
def runs(
    center: CenterOf,
    visitor: Reader,
    pipeline: str | None = None,
    status: Annotated[list[Status] | None, Query(description="may be repeated")] = None,
    since: Annotated[str | None, Query(description="made at this time or later")] = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_RUNS)] = 50,
    before: Annotated[int | None, Query(ge=1, le=MOST_SEQ, description="where an earlier answer said that the older ones are")] = None,
) -> RunPage:
    """Runs."""
    found, rest = center.runs(limit, pipeline, status or (), since, before)
    query = [("pipeline", pipeline), *(("status", one) for one in status or ()), ("since", since), ("limit", limit), ("before", rest)]
    following = "/runs?" + urlencode([(name, value) for name, value in query if value is not None])
    return RunPage(runs=[center.view(run) for run in found], next=None if rest is None else following)


@router.get("/runs/{run_id}", responses=_told(404), summary="One run")
def run(run_id: str, center: CenterOf, visitor: Reader) -> RunView:
    """One run."""
    return center.view(center.run(run_id))


@router.get("/runs/{run_id}/log", responses=_told(404), response_class=PlainTextResponse, summary="The end of a run's log")
def log(run_id: str, center: CenterOf, visitor: Reader) -> PlainTextResponse:
    """The end of a run's log."""
    return PlainTextResponse(logs.tail(center.file_of(center.run(run_id), processes.LOG)))


@router.post("/runs/{run_id}/cancel", status_code=202, responses=_told(403, 404, 409), summary="Cancel a run that has not ended")
def cancel(run_id: str, center: CenterOf, visitor: Runner) -> RunView:
    """Cancel a run."""
    center.run(run_id)
    return center.view(center.cancel(run_id, visitor.caller.name))


@router.get("/health", summary="Whether the service is up; needs no token")
def health() -> dict[str, str]:
    """Whether the service is up."""
    return {"status": "ok"}


def _overrides(request: Request, raw: bytes) -> dict[str, Any]:
    """The overrides of a request's body.

    Raises:
        HTTPException: 415 it is not sent as JSON, 422 it is none or holds something else.
    """
    if not raw.strip():
        return {}
    # Other sites' forms cannot send this type.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "expected Content-Type: application/json")
    try:
        given = json.loads(raw, parse_constant=_refuse_constant, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"the body is no JSON: {error}") from None
    overrides = given.get("overrides", {}) if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(overrides, dict) or set(given) - {"overrides"}:
        raise HTTPException(422, 'the body must be {"overrides": {"section.key": value}}')
    return overrides


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is given twice")
    return found
