"""A service whose runs are a line of shell: what is tested here is the service, and not what it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serving import Site, open_site

BASE = "model: {uri: m}\nsource: {path: a}\noutput: {path: b}\n"
Serve = Callable[..., Site]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a service: ``serve("sleep 1", churn="{allow: [run.date]}")``; ``$1`` is the folder of the run's try, ``$2`` its pipeline."""
    sites: list[Site] = []

    def make(script: str = "exit 0", services: Mapping[str, str] | None = None, **settings: Any) -> Site:
        from lakescore.service.supervisor import Supervisor

        monkeypatch.setattr(Supervisor, "_command", lambda _, run, one, folder: ["sh", "-c", script, "sh", str(folder), one.name])
        pipelines = {name: f"{BASE}service: {service}\n" for name, service in (services or {"churn": "{}"}).items()}
        site = open_site(tmp_path, pipelines, **{"grace": 1.0, **settings})
        sites.append(site)
        return site

    yield make
    for site in sites:
        with suppress(Exception):
            site.close()
