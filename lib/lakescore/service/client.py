"""The client of the service: ``lakescore trigger``. Standard library alone."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from lakescore.errors import ConfigError, PlatformError
from lakescore.redact import redact
from lakescore.service.pipelines import parse_overrides

_TRIES = 6
_TIMEOUT_SECONDS = 30
_LONGEST_WAIT = 30.0
_POLL_SECONDS = (0.3, 5.0)
_PLAIN = re.compile(r"[!-~]+")
# What is read of a run.
_OF_RUN = {"id", "status", "rows", "drift", "seconds", "batch_id", "score_date", "output", "mlflow_run_id", "model_uri", "exit_code"}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is for the service that it was given to."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True)
class Client:
    """A service and the token to ask it with."""

    url: str
    token: str | None = None
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not (parts.username or parts.query)
        except ValueError:
            good = False
        if not good or not _PLAIN.fullmatch(self.url):
            raise ConfigError(f"URL: got {redact(self.url)!r}; expected the service's address, as http://127.0.0.1:8080")
        if self.token is not None and not _PLAIN.fullmatch(self.token):
            raise ConfigError(
                "the token has blanks, line breaks or letters in it that no token has; the file or the variable is to hold one"
            )

    def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> dict[str, Any]:
        """Ask, and ask again where there is no answer or it is said to come later.

        Raises:
            ConfigError: the service refuses; its own line.
            PlatformError: it does not answer.
        """
        reason = ""
        for attempt in range(_TRIES):
            wait = min(2.0**attempt / 4, _LONGEST_WAIT)
            try:
                with self._open(method, path, body, key) as answer:
                    return self._run_in(json.load(answer))
            except urllib.error.HTTPError as error:
                reason = _detail(error)
                if error.code < 500 and error.code != 429:
                    raise ConfigError(f"the service refuses with {error.code}: {reason}") from None
                after = error.headers.get("Retry-After", "")
                wait = min(float(after), _LONGEST_WAIT) if after.isdigit() else wait
            except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
                reason = str(getattr(error, "reason", None) or error)
            if attempt < _TRIES - 1:
                self.sleep(wait)
        raise PlatformError(f"the service {redact(self.url)} does not answer as it should: {reason}; tried {_TRIES} times")

    def _run_in(self, answer: Any) -> dict[str, Any]:
        if not isinstance(answer, dict) or not set(answer) >= _OF_RUN:
            raise PlatformError(f"{redact(self.url)} answers, and is no Lakescore service")
        return answer

    def _open(self, method: str, path: str, body: Any, key: str | None) -> Any:
        headers = {"Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if key is not None:
            headers["Idempotency-Key"] = key
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers, method=method)
        return urllib.request.build_opener(_NoRedirect).open(request, timeout=_TIMEOUT_SECONDS)


def trigger(service: Client, pipeline: str, pairs: Sequence[str], waits: bool, key: str | None = None) -> int:
    """Queue a run, and wait for its end where that is wanted; returns the exit code.

    Args:
        service: where.
        pipeline: its name.
        pairs: ``section.key=value``.
        waits: until the run has ended.
        key: the idempotency key; default: a new one.
    """
    if not pipeline.isprintable() or not pipeline.isascii():
        raise ConfigError(f"PIPELINE: got {pipeline!r}; expected the name of one")
    body = {"overrides": parse_overrides(list(pairs))}
    run = service.call("POST", f"/pipelines/{quote(pipeline, safe='')}/runs", body, key or secrets.token_urlsafe(16))
    print(f"run:        {run['id']} of {pipeline}, {run['status']}\npage:       {service.url.rstrip('/')}/ui/runs/{run['id']}", flush=True)
    if not waits:
        return 0
    pause, longest = _POLL_SECONDS
    while run["status"] in ("queued", "running"):
        service.sleep(pause)
        pause = min(pause * 1.5, longest)
        run = service.call("GET", f"/runs/{run['id']}")
    print(describe(run))
    if run["status"] in ("succeeded", "skipped"):
        return 0
    code = run["exit_code"]
    # A signal's number is no exit code of ours.
    failed = PlatformError(f"the run {run['id']} {run['status']}: {run['error'] or 'nothing tells why'}")
    failed.exit_code = code if isinstance(code, int) and 0 < code < 128 and run["status"] == "failed" else 1
    raise failed


def describe(run: dict[str, Any]) -> str:
    """The closing summary of a run that has ended."""
    rows, drift = run["rows"], run["drift"]
    lines = [
        ("status", run["status"]),
        ("model", run["model_uri"]),
        ("rows", f"{rows['written']:,}" if rows else None),
        ("quarantined", f"{rows['quarantined']:,}" if rows and rows["quarantined"] else None),
        ("drift", drift["text"] if drift else None),
        ("seconds", f"{run['seconds']:.1f}" if run["seconds"] is not None else None),
        ("batch", f"{run['batch_id']}, date {run['score_date']}"),
        ("written to", run["output"]),
        ("MLflow run", run["mlflow_run_id"]),
    ]
    return redact("\n".join(f"{name + ':':<12}{value}" for name, value in lines if value))


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return error.reason or "no reason is given"
