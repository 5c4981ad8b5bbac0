"""The web application: routes, errors in one form, and what every answer carries."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lakescore.redact import redact
from lakescore.service import api, pages
from lakescore.service.api import Reader
from lakescore.service.center import Center
from lakescore.service.limits import App, BodyLimit
from lakescore.version import __version__

log = logging.getLogger(__name__)

MOST_BYTES = 65_536
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def make(center: Center) -> App:
    """The application; the caller begins and ends the supervisor."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        center.supervisor.begin()
        yield

    app = FastAPI(title="Lakescore", version=__version__, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.center = center
    app.include_router(api.router)
    app.include_router(pages.router)

    @app.get("/openapi.json", include_in_schema=False)
    def openapi(visitor: Reader) -> dict[str, Any]:
        return app.openapi()

    @app.middleware("http")
    async def headers(request: Request, call_next: Any) -> Response:
        answer: Response = await call_next(request)
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _wrong_value)
    app.add_exception_handler(Exception, _unexpected)
    return BodyLimit(app, MOST_BYTES)


def _problem(request: Request, status: int, detail: str, headers: Any = None) -> Response:
    title, detail = HTTPStatus(status).phrase, redact(detail)
    if request.url.path.startswith("/ui"):
        return pages.problem_page(request, status, title, detail)
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "it is handled for that"
    detail = "there is no such path" if error.status_code == 404 and error.detail == "Not Found" else str(error.detail)
    return _problem(request, error.status_code, detail, error.headers)


def _wrong_value(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "it is handled for that"
    first = error.errors()[0]
    return _problem(request, 422, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")


def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _problem(request, 500, "the service failed; its log tells more")
