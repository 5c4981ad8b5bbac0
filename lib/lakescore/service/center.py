"""What the REST interface and the pages do alike: find pipelines and runs, queue a run, cancel one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from lakescore.errors import ConfigError, did_you_mean
from lakescore.service.access import Access
from lakescore.service.pipelines import NotAllowedError, Pipeline, Pipelines
from lakescore.service.store import KeyReusedError, QueueFullError, Run, Store, Trigger, moment_of, text_of
from lakescore.service.supervisor import Supervisor
from lakescore.service.views import PipelineView, RunView, view_of_pipeline, view_of_run

# After a time in which a short run may have ended.
RETRY_AFTER = "5"
_LONGEST_KEY = 200


@dataclass(frozen=True)
class Center:
    """The parts of the service."""

    pipelines: Pipelines
    store: Store
    supervisor: Supervisor
    access: Access
    most_queued: int
    clock: Callable[[], datetime]

    def pipeline(self, name: str) -> Pipeline:
        """A pipeline by its name.

        Raises:
            HTTPException: 404.
        """
        known = self.pipelines.all()
        if name not in known:
            raise HTTPException(404, f"there is no pipeline {name[:80]!r}.{did_you_mean(name[:80], known)}")
        return known[name]

    def run(self, run_id: str) -> Run:
        """A run by its ID.

        Raises:
            HTTPException: 404.
        """
        found = self.store.get(run_id)
        if found is None:
            raise HTTPException(404, f"there is no run {run_id[:80]!r}")
        return found

    def view(self, run: Run) -> RunView:
        """A run as it is answered, its log looked into."""
        return view_of_run(run, self.supervisor.folder_of(run), self.clock())

    def pipeline_views(self) -> list[PipelineView]:
        """All pipelines, each with its newest run."""
        return [self.pipeline_view(one) for one in self.pipelines.all().values()]

    def pipeline_view(self, pipeline: Pipeline) -> PipelineView:
        """A pipeline with its newest run."""
        newest = self.store.newest(1, pipeline.name)
        return view_of_pipeline(pipeline, newest[0] if newest else None, self.clock())

    def queue(
        self, pipeline: Pipeline, overrides: Mapping[str, Any], trigger: Trigger, caller: str, key: str | None = None
    ) -> tuple[Run, bool]:
        """Queue a run; returns it, and whether it is new.

        Raises:
            HTTPException: 403 a key that callers may not set, 422 a value or the pipeline is wrong, or an idempotency key that was
                given with another body; 429 the queue is full.
        """
        if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isprintable()):
            raise HTTPException(422, f"Idempotency-Key: expected 1 to {_LONGEST_KEY} letters")
        digest = None if key is None else hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()
        try:
            run = pipeline.run(overrides, trigger, caller, self.clock(), key=key, digest=digest)
            found, is_new = self.store.add(run, self.most_queued)
        except NotAllowedError as error:
            raise HTTPException(403, str(error)) from error
        except ConfigError as error:
            raise HTTPException(422, str(error)) from error
        except KeyReusedError as error:
            raise HTTPException(422, f"Idempotency-Key: {key} was given before with other overrides") from error
        except QueueFullError as error:
            raise HTTPException(429, f"{self.most_queued} runs wait already; try again later", {"Retry-After": RETRY_AFTER}) from error
        self.supervisor.wake()
        return found, is_new

    def cancel(self, run_id: str, caller: str) -> Run:
        """Cancel a run.

        Raises:
            HTTPException: 404 there is none, 409 it has ended.
        """
        run = self.store.cancel(run_id, caller, self.clock())
        if run is None:
            raise HTTPException(409, f"the run {run_id} has ended already: {self.run(run_id).status}")
        self.supervisor.wake()
        return run

    def runs(
        self, limit: int, pipeline: str | None = None, status: Sequence[str] = (), since: str | None = None, before: int | None = None
    ) -> tuple[list[Run], int | None]:
        """The newest runs, and where the older ones begin; None where there are none.

        Raises:
            HTTPException: 422 ``since`` is no time.
        """
        if since is not None:
            try:
                moment = moment_of(since)
                since = text_of(moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc))
            except (ValueError, OverflowError):
                raise HTTPException(422, f"since: got {since[:40]!r}; expected a time such as 2026-01-31T06:00:00Z") from None
        found = self.store.newest(limit + 1, pipeline, status, since, before)
        return found[:limit], found[limit - 1].seq if len(found) > limit else None

    def file_of(self, run: Run, name: str) -> Path:
        """A file that a run's latest try may have left."""
        return self.supervisor.folder_of(run) / name
