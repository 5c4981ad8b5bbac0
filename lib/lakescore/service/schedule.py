"""The ticks of all pipelines' schedules become queued runs, each once, whatever happened meanwhile.

A tick that comes late by more than ``LATE`` is missed; ``service.schedule.catch_up`` says what follows: none, the last one, or all (the
newest ``catch_up_limit``). With ``overlap: skip`` a tick is noted as skipped while a run of its pipeline waits or runs; with ``queue`` it
waits for it. Where the queue is full, the tick stays due.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from lakescore.config import ScheduleConfig
from lakescore.redact import redact
from lakescore.service.pipelines import Pipeline, Pipelines
from lakescore.service.store import Run, Store, text_of

log = logging.getLogger(__name__)

LATE = timedelta(seconds=60)
BY_SCHEDULE = "schedule"


class Schedule:
    """What is due. ``look`` may be called at any time, also a long time after the last one.

    Args:
        pipelines: whose schedules.
        store: where runs are queued, and what was looked at is kept.
        most_queued: runs that may wait.
    """

    def __init__(self, pipelines: Pipelines, store: Store, most_queued: int) -> None:
        self._pipelines = pipelines
        self._store = store
        self._most_queued = most_queued

    def look(self, now: datetime) -> None:
        """Queue what has come due up to ``now``."""
        for pipeline in self._pipelines.all().values():
            if pipeline.recurrence is not None:
                try:
                    self._look(pipeline, now)
                except Exception as error:
                    # The other pipelines' ticks are due all the same.
                    log.warning("schedule: %s: %s", pipeline.name, redact(str(error) or type(error).__name__))

    def _look(self, pipeline: Pipeline, now: datetime) -> None:
        recurrence, config = pipeline.recurrence, pipeline.config
        assert recurrence is not None and config is not None and config.service.schedule is not None, "it has a schedule"
        settings = config.service.schedule
        last = self._store.last_tick(pipeline.name, str(pipeline.schedule), now)
        limit = settings.catch_up_limit
        due = recurrence.newest(last, now, limit + 1)
        if not due:
            return
        chosen = choose(due, now, settings)
        if len(chosen) < len(due):
            log.warning("schedule: %s: of %d missed ticks %d run (catch_up: %s)", pipeline.name, len(due), len(chosen), settings.catch_up)
        active = self._store.newest(2, pipeline.name, ("queued", "running"))
        # What is skipped takes no room.
        room = len(chosen) if active and settings.overlap == "skip" else self._most_queued - self._store.counts()["queued"]
        fitting = chosen[: max(room, 0)]
        if chosen and not fitting:
            log.warning("schedule: %s: the queue is full; the tick waits", pipeline.name)
            return
        runs = [pipeline.run({}, "schedule", BY_SCHEDULE, now, tick=tick) for tick in fitting]
        last_seen = due[-1] if len(fitting) == len(chosen) else fitting[-1]
        self._store.tick(pipeline.name, _noted(runs, active, settings, now), last_seen)


def choose(due: Sequence[datetime], now: datetime, settings: ScheduleConfig) -> list[datetime]:
    """Of the ticks that are due, those that are run."""
    on_time = [tick for tick in due if now - tick <= LATE]
    if settings.catch_up == "all":
        return list(due[-settings.catch_up_limit :])
    if settings.catch_up == "last" and not on_time:
        return [due[-1]]
    return on_time


def _noted(runs: Sequence[Run], active: Sequence[Run], settings: ScheduleConfig, now: datetime) -> list[Run]:
    if not active or settings.overlap == "queue":
        return list(runs)
    why = f"service.schedule.overlap: skip, and the run {active[0].id} of the pipeline was {active[0].status}"
    log.warning("schedule: %s: %d tick(s) skipped: %s", active[0].pipeline, len(runs), why)
    return [replace(run, status="skipped", error=why, ended_at=text_of(now)) for run in runs]
