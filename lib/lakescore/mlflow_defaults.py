"""MLflow's process-wide servers, one user at a time: it looks ``models:/`` up there, whatever servers it is told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlflow

# Without it a thread's run would find its model in the server of another's.
_LOCK = threading.RLock()


def tracking_uri() -> str:
    """The tracking server that MLflow uses where none is configured."""
    with _LOCK:
        return str(mlflow.get_tracking_uri())


@contextmanager
def as_default(tracking_uri: str, registry_uri: str | None) -> Iterator[None]:
    """Make the configured servers MLflow's own while the block runs."""
    with _LOCK:
        tracking_before, registry_before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        try:
            if tracking_before != tracking_uri:
                mlflow.set_tracking_uri(tracking_uri)
            if registry_uri is not None and registry_before != registry_uri:
                mlflow.set_registry_uri(registry_uri)
            yield
        finally:
            if tracking_before != tracking_uri:
                mlflow.set_tracking_uri(tracking_before)
            if registry_uri is not None and registry_before != registry_uri:
                mlflow.set_registry_uri(registry_before)
