"""Runs in threads of one process, each with servers of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import mlflow
import pytest

from lakescore import mlflow_defaults

VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")


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


def _servers() -> tuple[str, str, str | None, str | None]:
    return mlflow.get_tracking_uri(), mlflow.get_registry_uri(), *map(os.environ.get, VARIABLES)


@pytest.fixture
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    tracking, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    environment = [os.environ.get(name) for name in VARIABLES]
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    for name in VARIABLES:
        os.environ.pop(name, None)
    yield
    mlflow.set_tracking_uri(tracking)
    if registry != tracking:
        mlflow.set_registry_uri(registry)
    for name, value in zip(VARIABLES, environment, strict=True):
        if value is None:
            os.environ.pop(name, None)


@pytest.mark.parametrize("chosen", ["nothing", "by the variable", "by a call", "a registry"])
@pytest.mark.usefixtures("nothing_chosen")
def test_a_run_with_servers_of_its_own_changes_nothing_for_who_comes_after(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if chosen == "by the variable":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    if chosen == "by a call":
        mlflow.set_tracking_uri("sqlite:///mine.db")
    if chosen == "a registry":
        mlflow.set_registry_uri("sqlite:///registry.db")
    before = _servers()

    with mlflow_defaults.as_default("sqlite:///a.db", "sqlite:///b.db"):
        assert _servers()[:2] == ("sqlite:///a.db", "sqlite:///b.db")
    assert _servers() == before

    mlflow.set_tracking_uri("sqlite:///c.db")
    assert _servers()[:2] == ("sqlite:///c.db", "sqlite:///registry.db" if chosen == "a registry" else "sqlite:///c.db")
