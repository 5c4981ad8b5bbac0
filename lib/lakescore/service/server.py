"""The service as a process: settings in, a server that listens until a signal ends it."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import logging
import os
import signal
import socket
import sqlite3
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import uvicorn

from lakescore.errors import ConfigError, PlatformError
from lakescore.redact import redact
from lakescore.service import app
from lakescore.service.access import Access
from lakescore.service.center import Center
from lakescore.service.limits import RateLimit
from lakescore.service.pipelines import Pipeline, Pipelines
from lakescore.service.store import Store
from lakescore.service.supervisor import Limits, Supervisor, spark_submit
from lakescore.service.tokens import Tokens

log = logging.getLogger(__name__)

# Open answers have so many seconds when the service ends.
_LAST_SECONDS = 3


@dataclass(frozen=True)
class Settings:
    """As the options of ``lakescore serve``; ``tokens`` is None for no authentication."""

    pipelines: Path
    state: Path
    tokens: Path | None
    host: str = "127.0.0.1"
    port: int = 8080
    concurrency: int = 1
    queue: int = 100
    rate: int = 600
    grace: float = 30.0
    keep_days: float = 90.0
    end_runs: bool = False
    job: Path = Path("jobs/score.py")
    mlflow_url: str | None = None
    certificate: str | None = None
    key: str | None = None


def serve(settings: Settings) -> int:
    """Listen until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigError: the settings are wrong, nobody could be let in, or everybody would be.
        PlatformError: the address is taken.
    """
    if settings.tokens is None and not _is_loopback(settings.host):
        raise ConfigError(f"--no-auth: is for a loopback address such as 127.0.0.1; on {settings.host} anybody could run pipelines")
    pipelines = Pipelines(settings.pipelines)
    _check(pipelines, settings.job)
    with _of_option("--state", settings.state):
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(settings.state), contextlib.closing(_listen(settings)) as listening:
        tokens = None if settings.tokens is None else Tokens(settings.tokens)
        with _of_option("--state", settings.state):
            center = make_center(settings, pipelines, tokens)
        config = _uvicorn(settings, center)
        with _of_option("--certificate, --key", f"{settings.certificate}, {settings.key}"):
            config.load()
        server = _Server(config)
        scheme = "http" if settings.certificate is None else "https"
        host, port = listening.getsockname()[:2]
        with server.ended_by_signals():
            print(f"lakescore serve: {scheme}://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
            server.run(sockets=[listening])
            center.supervisor.finish(settings.end_runs)
        center.store.close()
    return 0


def make_center(
    settings: Settings, pipelines: Pipelines, tokens: Tokens | None, clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
) -> Center:
    """The parts of the service, at rest."""
    store = Store(settings.state / "state.db")
    limits = Limits(settings.concurrency, settings.queue, settings.grace, settings.keep_days)
    link = _Link(settings.mlflow_url)
    supervisor = Supervisor(pipelines, store, (settings.state / "runs").absolute(), limits, settings.job, link, clock)
    return Center(pipelines, store, supervisor, Access(tokens, store, RateLimit(settings.rate), clock), settings.queue, clock)


class _Server(uvicorn.Server):
    """uvicorn minds signals while it listens, and then sends itself the last one again; here there is work before and after that."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Around all of it: a signal ends the listening, and a second one nothing more."""

        def handle(number: int, frame: types.FrameType | None) -> None:
            self.handle_exit(number, frame)

        # A terminal that closes ends it likewise, unless nohup has it ignored.
        ends = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else [])]
        before = {number: signal.signal(number, handle) for number in ends}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _uvicorn(settings: Settings, center: Center) -> uvicorn.Config:
    return uvicorn.Config(
        app.make(center),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_SECONDS,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
        h11_max_incomplete_event_size=app.MOST_BYTES,
    )


@contextlib.contextmanager
def _of_option(option: str, given: object) -> Iterator[None]:
    """Files and folders that cannot be used are their option's fault."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"{option}: got {given}, which cannot be used: {getattr(error, 'strerror', None) or error}") from error


def _check(pipelines: Pipelines, job: Path) -> None:
    """Say at once what would fail with each run."""
    found = pipelines.all()
    if not found:
        log.warning("there are no pipelines yet: a pipeline is a .yaml file in the folder")
    for pipeline in found.values():
        if pipeline.config is not None and pipeline.config.service.command == "spark-submit":
            spark_submit()
            if not job.is_file():
                raise ConfigError(f"--job: {job} does not exist, and the pipeline {pipeline.name} is run by spark-submit")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(settings: Settings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=512)
    except OSError as error:
        raise PlatformError(f"--host, --port: {settings.host}:{settings.port} cannot be listened on: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[TextIO]:
    """Two services of one state would start each run twice."""
    with contextlib.ExitStack() as stack:
        with _of_option("--state", state):
            lock = stack.enter_context(open(state / "lock", "a", encoding="utf-8"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"--state: another service works with {state}; stop it, or give another folder") from None
        yield lock


class _Link:
    """The address of an MLflow run's page."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    def __call__(self, pipeline: Pipeline | None, result: dict[str, Any]) -> str | None:
        given = pipeline.config.tracking.tracking_uri if pipeline is not None and pipeline.config is not None else None
        url = self._url or given or os.environ.get("MLFLOW_TRACKING_URI", "")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not result.get("run_id") or not result.get("experiment_id"):
            return None
        host = redact(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}").rstrip("/")
        return f"{host}/#/experiments/{result['experiment_id']}/runs/{result['run_id']}"
