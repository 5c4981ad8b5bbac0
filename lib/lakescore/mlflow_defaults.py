"""MLflow's servers: whether one answers, and the process-wide ones, which one user has at a time.

MLflow looks ``models:/`` up in the process-wide ones, whatever servers it is told.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import mlflow
from mlflow.environment_variables import MLFLOW_REGISTRY_URI, MLFLOW_TRACKING_URI

from lakescore.errors import PlatformError

CONNECT_SECONDS = 5

# Without it a thread's run would find its model in the server of another's.
_LOCK = threading.RLock()


def tracking_uri() -> str:
    """The tracking server that MLflow uses where none is configured."""
    with _LOCK:
        return str(mlflow.get_tracking_uri())


@contextmanager
def as_default(tracking_uri: str, registry_uri: str | None) -> Iterator[None]:
    """Make the configured servers MLflow's own while the block runs."""
    with (
        _LOCK,
        _set(tracking_uri, mlflow.get_tracking_uri, mlflow.set_tracking_uri, MLFLOW_TRACKING_URI.name),
        _set(registry_uri, mlflow.get_registry_uri, mlflow.set_registry_uri, MLFLOW_REGISTRY_URI.name),
    ):
        yield


@contextmanager
def _set(uri: str | None, get: Callable[[], str], set_: Callable[[Any], None], variable: str) -> Iterator[None]:
    """Set one of them, and leave no trace: what was nobody's choice, a later choice of the other one must still change."""
    before, in_environment = get(), os.environ.get(variable)
    if uri is None or uri == before:
        yield
        return
    try:
        set_(uri)
        yield
    finally:
        set_(None)
        _put_back(variable, in_environment)
        if get() != before:  # it was set, and not by the variable
            set_(before)
            _put_back(variable, in_environment)


def _put_back(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def require_answer(key: str, uri: str) -> None:
    """Knock at a server's port: MLflow itself would retry for minutes.

    Raises:
        PlatformError: nobody answers there.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname or ""):
        return  # only the proxy can tell, and the first request asks it, with its own limit of time
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise PlatformError(
            f"{key}: the MLflow server {uri} does not answer: {getattr(error, 'strerror', None) or error}; start it, or give another URI"
        ) from error
