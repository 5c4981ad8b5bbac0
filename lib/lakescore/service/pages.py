"""The pages: pipelines, runs, a run with its time line, log, rows and drift report, and forms to run and cancel.

They are made here, need nothing from elsewhere and work without script; with it, what changes is fetched again while it changes.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from importlib import resources
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from lakescore import answer
from lakescore.errors import ConfigError
from lakescore.redact import is_secret_key, redact, redact_tree
from lakescore.service import logs, processes
from lakescore.service.access import COOKIE, Visitor, set_cookie
from lakescore.service.api import CenterOf, Reader, Runner, body
from lakescore.service.center import Center
from lakescore.service.pipelines import Pipeline, parse_overrides
from lakescore.service.store import MOST_SEQ, STATUSES, Run, moment_of, text_of
from lakescore.service.views import RunView, view_of_run

_ON_A_PAGE = 25
_ON_FIRST_PAGE = 10
_NEXT_TICKS = 5
# The report brings its own style and script; in a sandbox they can reach nothing of this site.
_REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
router = APIRouter(include_in_schema=False)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _time(text: str | None) -> str:
    return "–" if text is None else f"{moment_of(text):%Y-%m-%d %H:%M:%S}"


_TEMPLATES = Environment(
    loader=PackageLoader("lakescore.service", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.filters |= {"duration": _duration, "time": _time}


def render(template: str, visitor: Visitor | None = None, code: int = 200, **values: Any) -> HTMLResponse:
    """A page.

    Args:
        template: file name.
        visitor: who looks; None: nobody who is known.
        code: of the answer.
        values: what the template names.
    """
    page = _TEMPLATES.get_template(template).render(visitor=visitor, **values)
    return HTMLResponse(page, code)


def problem_page(request: Request, status: int, title: str, detail: str) -> Response:
    """An error for people; who is not known is asked to log in."""
    if status == 401 and request.method == "GET":
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/ui/login?{urlencode({'next': path})}", 303)
    return render("problem.jinja", code=status, title=title, detail=detail)


@router.get("/")
def root() -> RedirectResponse:
    """The first page."""
    return RedirectResponse("/ui", 303)


@router.get("/ui")
def home(center: CenterOf, visitor: Reader) -> HTMLResponse:
    """Pipelines, and the newest runs."""
    return render("home.jinja", visitor, **_home(center), is_open=center.access.is_open)


@router.get("/ui/live")
def home_live(center: CenterOf, visitor: Reader) -> HTMLResponse:
    """The same, without the frame."""
    return render("home_live.jinja", visitor, **_home(center))


def _home(center: Center) -> dict[str, Any]:
    found, _ = center.runs(_ON_FIRST_PAGE)
    return {"pipelines": center.pipeline_views(), "runs": _views(center, found), "counts": center.store.counts()}


def _views(center: Center, runs: list[Run]) -> list[RunView]:
    return [view_of_run(run, None, center.clock()) for run in runs]


@router.get("/ui/runs")
def runs(
    center: CenterOf, visitor: Reader, pipeline: str = "", status: str = "", before: Annotated[int | None, Query(ge=1, le=MOST_SEQ)] = None
) -> HTMLResponse:
    """All runs, by pipeline and status."""
    chosen = (status,) if status in STATUSES else ()
    found, rest = center.runs(_ON_A_PAGE, pipeline or None, chosen, None, before)
    query = {"pipeline": pipeline, "status": status, "before": rest}
    return render(
        "runs.jinja",
        visitor,
        runs=_views(center, found),
        names=list(center.pipelines.all()),
        pipeline=pipeline,
        status=status,
        statuses=STATUSES,
        older=None if rest is None else "/ui/runs?" + urlencode({name: value for name, value in query.items() if value}),
        is_open=center.access.is_open,
    )


@router.get("/ui/pipelines/{name}")
def pipeline(name: str, center: CenterOf, visitor: Reader) -> HTMLResponse:
    """A pipeline: when it runs, its runs, and the form that runs it."""
    return _pipeline_page(center, visitor, center.pipeline(name))


def _pipeline_page(
    center: Center, visitor: Visitor, pipeline: Pipeline, given: dict[str, str] | None = None, error: HTTPException | None = None
) -> HTMLResponse:
    recurrence, moment = pipeline.recurrence, center.clock()
    ticks: list[tuple[str, str]] = []
    while recurrence is not None and len(ticks) < _NEXT_TICKS and (following := recurrence.next(moment)) is not None:
        ticks.append((text_of(following), following.astimezone(recurrence.zone).strftime("%a %Y-%m-%d %H:%M:%S %Z")))
        moment = following
    config = pipeline.config
    values = config.to_dict(rows=None) if config is not None else {}
    found, _ = center.runs(_ON_FIRST_PAGE, pipeline.name)
    keys = [key for key in pipeline.allow if not isinstance(_at(values, key), dict)]
    return render(
        "pipeline.jinja",
        visitor,
        error.status_code if error is not None else 200,
        pipeline=center.pipeline_view(pipeline),
        ticks=ticks,
        described=_facts(pipeline, values),
        fields=[(key, _placeholder(key, _at(values, key)), (given or {}).get(f"set:{key}", "")) for key in keys],
        sections=[key for key in pipeline.allow if key not in keys],
        more=(given or {}).get("more", ""),
        error=None if error is None else error.detail,
        once=secrets.token_urlsafe(16),
        runs=_views(center, found),
        is_open=center.access.is_open,
    )


def _at(values: dict[str, Any], key: str) -> Any:
    found: Any = values
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _placeholder(key: str, value: Any) -> str:
    # What is new with each run is not what the file says.
    if value is None or key in ("run.batch_id", "run.date"):
        return ""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return "***" if is_secret_key(key) else redact(str(redact_tree(value, key)))[:80]


def _facts(pipeline: Pipeline, values: dict[str, Any]) -> dict[str, str]:
    if pipeline.config is None:
        return {}
    source, output, model = values["source"], values["output"], values["model"]
    found = {
        "model": model["uri"] or model["entry_script"],
        "source": next((source[key] for key in ("path", "table", "query") if source[key]), None),
        "output": output["path"] or output["table"],
        "schedule": pipeline.schedule,
    }
    texts = {name: ", ".join(value) if isinstance(value, list) else value for name, value in found.items()}
    return {name: redact(str(value)) for name, value in texts.items() if value}


@router.post("/ui/pipelines/{name}/runs")
def run_pipeline(name: str, request: Request, center: CenterOf, visitor: Runner, raw: Annotated[bytes, Depends(body)]) -> Response:
    """Queue a run as the form says."""
    form = _form(raw)
    center.access.check_form(request, visitor, form.get("form_key", ""))
    pipeline = center.pipeline(name)
    pairs = [f"{key.removeprefix('set:')}={value}" for key, value in form.items() if key.startswith("set:") and value.strip()]
    pairs += [line for line in form.get("more", "").splitlines() if line.strip()]
    try:
        run, _ = center.queue(pipeline, parse_overrides(pairs), "page", visitor.caller.name, form.get("once") or None)
    except ConfigError as error:
        return _pipeline_page(center, visitor, pipeline, form, HTTPException(422, str(error)))
    except HTTPException as error:
        return _pipeline_page(center, visitor, pipeline, form, error)
    return RedirectResponse(f"/ui/runs/{run.id}", 303)


def _form(raw: bytes) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(raw.decode("utf-8", "replace"), keep_blank_values=True).items()}


@router.get("/ui/runs/{run_id}")
def run(run_id: str, center: CenterOf, visitor: Reader) -> HTMLResponse:
    """A run."""
    return render("run.jinja", visitor, **_run(center, center.run(run_id)), is_open=center.access.is_open)


@router.get("/ui/runs/{run_id}/live")
def run_live(run_id: str, center: CenterOf, visitor: Reader) -> HTMLResponse:
    """What changes of it."""
    return render("run_live.jinja", visitor, **_run(center, center.run(run_id)))


def _run(center: Center, run: Run) -> dict[str, Any]:
    log_file = center.file_of(run, processes.LOG)
    view = center.view(run)
    rows = processes.read_json(center.file_of(run, answer.FIRST_ROWS)) if run.is_ended else None
    return {
        "run": view,
        "log": logs.tail(log_file),
        "timeline": timeline(view, logs.stages(log_file) if not view.stages else {}, center.clock()),
        "has_report": center.file_of(run, answer.REPORT).is_file(),
        "first_rows": rows,
    }


def timeline(run: RunView, done: dict[str, str], now: datetime) -> list[dict[str, Any]]:
    """The stages of a run: where they are known, where each lies and how long it is, in percent; else which are done.

    Args:
        run: the run.
        done: what the log says of the stages that are done.
        now: the time.
    """
    begun = moment_of(run.started_at) if run.started_at else moment_of(run.ended_at) if run.ended_at else now
    waited = max((begun - moment_of(run.created_at)).total_seconds(), 0.0)
    return _bars(run, waited) if run.stages else _steps(run, done, waited)


def _steps(run: RunView, done: dict[str, str], waited: float) -> list[dict[str, Any]]:
    is_started = run.started_at is not None
    state = "done" if is_started else "now" if run.ended_at is None else "stopped"
    queue = {"name": "queue", "text": "waits" if state == "now" else "waited", "state": state, "seconds": waited}
    reached = [{"name": name, "text": text, "state": "done", "seconds": None} for name, text in done.items()]
    rest = [{"name": name, "text": "", "state": "", "seconds": None} for name in logs.STAGES if name not in done]
    if is_started and rest and run.status != "skipped":
        rest[0]["state"] = "now" if run.ended_at is None else "stopped"
    return [queue, *reached, *rest]


def _bars(run: RunView, waited: float) -> list[dict[str, Any]]:
    rest = max((run.seconds or 0.0) - sum(run.stages.values()), 0.0)
    stages = {"queue": waited, **run.stages, "end": rest}
    total, at, found = max(sum(stages.values()), 1e-9), 0.0, []
    for name, seconds in stages.items():
        found.append({"name": name, "seconds": seconds, "left": 100 * at / total, "width": 100 * seconds / total, "state": "done"})
        at += seconds
    return found


@router.get("/ui/runs/{run_id}/drift")
def drift(run_id: str, center: CenterOf, visitor: Reader) -> Response:
    """The drift report as the run has left it."""
    file = center.file_of(center.run(run_id), answer.REPORT)
    if not file.is_file():
        raise HTTPException(404, f"the run {run_id} has no drift report")
    return HTMLResponse(file.read_text(encoding="utf-8"), headers={"Content-Security-Policy": _REPORT_POLICY})


@router.post("/ui/runs/{run_id}/cancel")
def cancel(run_id: str, request: Request, center: CenterOf, visitor: Runner, raw: Annotated[bytes, Depends(body)]) -> Response:
    """Cancel a run."""
    center.access.check_form(request, visitor, _form(raw).get("form_key", ""))
    center.run(run_id)
    center.cancel(run_id, visitor.caller.name)
    return RedirectResponse(f"/ui/runs/{run_id}", 303)


@router.get("/ui/login")
def login(next: str = "/ui") -> HTMLResponse:
    """The form that opens a session."""
    return render("login.jinja", next=_own_path(next), error=None)


@router.post("/ui/login")
def log_in(request: Request, center: CenterOf, raw: Annotated[bytes, Depends(body)]) -> Response:
    """Open a session with a token."""
    form = _form(raw)
    center.access.check_form(request, None, "")
    following = _own_path(form.get("next", ""))
    session = center.access.log_in(request, form.get("token", ""))
    if session is None:
        return render("login.jinja", code=401, next=following, error="This token is not known.")
    answered = RedirectResponse(following, 303)
    set_cookie(request, answered, session)
    return answered


def _own_path(path: str) -> str:
    """Only pages of this site are gone to."""
    return path if (path == "/ui" or path.startswith(("/ui/", "/ui?"))) and "\\" not in path else "/ui"


@router.post("/ui/logout")
def log_out(request: Request, center: CenterOf, visitor: Reader, raw: Annotated[bytes, Depends(body)]) -> Response:
    """End the session."""
    center.access.check_form(request, visitor, _form(raw).get("form_key", ""))
    center.access.log_out(request)
    answered = RedirectResponse("/ui/login", 303)
    answered.delete_cookie(COOKIE, path="/")
    return answered


@router.get("/ui/api")
def api(request: Request, center: CenterOf, visitor: Reader) -> HTMLResponse:
    """The REST interface, from its OpenAPI document."""
    document = request.app.openapi()
    entries = [
        {"method": method.upper(), "path": path, **entry}
        for path, methods in document["paths"].items()
        for method, entry in methods.items()
    ]
    return render("api.jinja", visitor, entries=entries, version=document["info"]["version"], is_open=center.access.is_open)


@router.get("/ui/{name}.{kind}")
def static(name: str, kind: str) -> Response:
    """The style and the script."""
    kinds = {"css": "text/css", "js": "text/javascript"}
    file = resources.files("lakescore.service") / "static" / f"{name}.{kind}"
    if name not in ("style", "script") or kind not in kinds or not file.is_file():
        raise HTTPException(404, "there is no such page")
    return Response(file.read_text(encoding="utf-8"), media_type=kinds[kind], headers={"Cache-Control": "max-age=300"})
