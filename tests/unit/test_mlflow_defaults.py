"""Runs in threads of one process, each with servers of its own."""

from __future__ import annotations

import threading

import mlflow

from lakescore import mlflow_defaults


def test_another_thread_never_sees_the_servers_of_a_run() -> None:
    before = mlflow.get_tracking_uri()
    seen: list[str] = []
    other = threading.Thread(target=lambda: seen.append(mlflow_defaults.tracking_uri()))

    with mlflow_defaults.as_default("sqlite:///a.db", None):
        other.start()
        other.join(timeout=0.2)
        assert (mlflow.get_tracking_uri(), seen) == ("sqlite:///a.db", [])

    other.join()
    assert (mlflow.get_tracking_uri(), seen) == (before, [before])
