"""Pipelines, their schedules and the store: a tick is a run once, whatever happened meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from lakescore.compose import compose
from lakescore.errors import ConfigError
from lakescore.service.pipelines import NotAllowedError, Pipelines, as_override, parse_overrides
from lakescore.service.schedule import Schedule
from lakescore.service.store import KeyReusedError, QueueFullError, Run, Store, new_id

NOW = datetime(2026, 1, 31, 5, 59, 30, tzinfo=timezone.utc)
BASE = "model: {uri: m}\nsource: {path: a}\noutput: {path: b}\n"
Write = Callable[..., Pipelines]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write `NAME.yaml` with a section service, and read the folder."""

    def make(service: str = "{}", more: str = "", name: str = "churn") -> Pipelines:
        (tmp_path / f"{name}.yaml").write_text(f"{BASE}{more}service: {service}\n", encoding="utf-8")
        return Pipelines(tmp_path)

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state.db")


def ticks(store: Store) -> list[tuple[str, str, str]]:
    """Status, batch and date of all runs, the oldest first."""
    return [(run.status, run.batch_id, run.score_date) for run in reversed(store.newest(1000))]


# --- what a caller may set


def test_a_callers_values_arrive_as_they_are(write: Write) -> None:
    pipeline = write("{allow: [model.params, run.name, source]}").get("churn")
    assert pipeline is not None
    given = {
        "model.params.a": {"x": [1, 2.5, None, True]},
        "run.name": 'né "x" \\ \t 😀 0123',
        "source.limit": 7,
        "source.filter": "a = '#1'",
    }

    pipeline.run(given, "api", "alice", NOW)
    config = compose([pipeline.file], [as_override(key, value) for key, value in given.items()])

    assert config.model.params == {"a": {"x": [1, 2.5, None, True]}}
    assert (config.run.name, config.source.limit, config.source.filter) == (given["run.name"], 7, "a = '#1'")


@pytest.mark.parametrize("key", ["model.uri", "run", "run.dates", "run.batch_id", "service.timeout"])
def test_a_key_that_is_not_allowed_is_named(key: str, write: Write) -> None:
    pipeline = write("{allow: [run.date, model.params]}").get("churn")
    assert pipeline is not None

    with pytest.raises(NotAllowedError) as caught:
        pipeline.run({key: "x"}, "api", "alice", NOW)

    assert str(caught.value) == f"{key}: callers of the pipeline churn may not set it; service.allow has run.date, model.params"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"run.date": "2026-13-01"}, "run.date: got '2026-13-01'"),
        ({"run.name": "${oc.env:HOME}"}, "run.name: a caller's value must not hold ${"),
        ({"run.name": {"a": ["$", "${oc.env:HOME}"]}}, "run.name: a caller's value must not hold ${"),
        ({"run.name": "\ud800"}, "run.name: holds half of a letter"),
        ({"run.name": "???"}, "run.name: "),
        ({"run.x y": 1}, "'run.x y': is no key such as run.date"),
        ({"run.name=": 1}, "'run.name=': is no key such as run.date"),
    ],
)
def test_a_wrong_value_is_one_line(overrides: dict[str, Any], message: str, write: Write) -> None:
    pipeline = write("{allow: [run]}").get("churn")
    assert pipeline is not None

    with pytest.raises(ConfigError) as caught:
        pipeline.run(overrides, "api", "alice", NOW)

    assert str(caught.value).startswith(message)


def test_overrides_that_are_typed_have_the_types_of_the_command_line() -> None:
    found = parse_overrides(
        ["run.date=2026-01-31", "source.limit=5", "columns.keys=[id, name]", "run.name=a = b", "output.merge_schema=true"]
    )

    assert found == {
        "run.date": "2026-01-31",
        "source.limit": 5,
        "columns.keys": ["id", "name"],
        "run.name": "a = b",
        "output.merge_schema": True,
    }


@pytest.mark.parametrize(
    ("service", "line"),
    [
        ("{allow: [run.dates]}", "service.allow: 'run.dates' is no key, as run.date, and no section"),
        ("{allow: [service.timeout]}", "service.allow: must not name keys of service, which are the operator's"),
        ("{schedule: 0 6 * *}", "'0 6 * *' must have five fields"),
        ("{schedule: {cron: 0 6 * * *, every: day}}", "exactly one of cron, every must be set"),
        ("{schedule: {cron: 0 6 * * *, at: 06:00}}", "at belongs to every; a cron line says it itself"),
        ("{schedule: {every: day, catch_up: some}}", "service.schedule.catch_up: got 'some' (text); expected one of none, last, all"),
        ("{schedul: 0 6 * * *}", "service.schedul: unknown key. Did you mean 'schedule'?"),
        ("{submit_options: [--master, yarn]}", "submit_options belong to command: spark-submit"),
    ],
)
def test_a_pipeline_that_is_wrong_says_why_and_the_others_run(service: str, line: str, write: Write) -> None:
    write(name="good")
    pipelines = write(service)

    broken, good = pipelines.get("churn"), pipelines.get("good")

    assert broken is not None
    assert line in str(broken.error)
    assert good is not None
    assert good.error is None
    with pytest.raises(ConfigError, match="the pipeline churn cannot be run: "):
        broken.run({}, "api", "alice", NOW)


def test_a_file_that_changes_is_read_again(write: Write, tmp_path: Path) -> None:
    pipelines = write("{allow: [run.date]}")
    before = pipelines.get("churn")
    write("{allow: [run.name, run.date]}")
    after = pipelines.get("churn")
    (tmp_path / "churn.yaml").unlink()

    assert before is not None
    assert after is not None
    assert (before.allow, after.allow) == (("run.date",), ("run.name", "run.date"))
    assert pipelines.all() == {}


def test_batch_and_date_are_fixed_when_a_run_is_asked_for(write: Write) -> None:
    pipeline = write(more="run: {timezone: Asia/Tokyo}\n").get("churn")
    assert pipeline is not None

    run = pipeline.run({}, "api", "alice", datetime(2026, 1, 31, 20, tzinfo=timezone.utc))

    assert run.batch_id.startswith("20260131T200000Z-")
    assert run.score_date == "2026-02-01"


# --- ticks


def test_a_tick_becomes_a_run_once_with_its_time_as_batch_and_its_date(write: Write, store: Store) -> None:
    schedule = Schedule(write("{schedule: 0 6 * * *}", "run: {timezone: Europe/Vienna}\n"), store, 100)
    schedule.look(NOW)
    later = datetime(2026, 2, 1, 5, 0, 5, tzinfo=timezone.utc)

    for seconds in (0, 1, 2):
        schedule.look(later + timedelta(seconds=seconds))
    Schedule(Pipelines(schedule._pipelines._folder), store, 100).look(later + timedelta(seconds=3))

    assert ticks(store) == [("queued", "churn-20260201T050000Z", "2026-02-01")]


def test_the_date_of_a_tick_is_that_of_its_time_zone(write: Write, store: Store) -> None:
    schedule = Schedule(write("{schedule: 30 0 * * *}", "run: {timezone: Asia/Tokyo}\n"), store, 100)
    schedule.look(NOW)

    schedule.look(datetime(2026, 1, 31, 15, 30, tzinfo=timezone.utc))

    assert ticks(store) == [("queued", "churn-20260131T153000Z", "2026-02-01")]


def test_a_batch_that_the_file_names_is_kept(write: Write, store: Store) -> None:
    schedule = Schedule(write("{schedule: 0 6 * * *}", 'run: {batch_id: "churn-${run.date}"}\n'), store, 100)
    schedule.look(NOW)

    schedule.look(NOW + timedelta(minutes=1))

    assert ticks(store) == [("queued", "churn-2026-01-31", "2026-01-31")]


def test_with_incremental_the_batch_is_what_is_new(write: Write, store: Store, tmp_path: Path) -> None:
    pipelines = write("{schedule: 0 6 * * *}")
    file = tmp_path / "churn.yaml"
    file.write_text(file.read_text().replace("{path: a}", "{path: a, incremental: {by: files}}"))
    schedule = Schedule(pipelines, store, 100)
    schedule.look(NOW)

    schedule.look(NOW + timedelta(minutes=1))

    assert ticks(store) == [("queued", "lakescore", "2026-01-31")]


def test_a_new_schedule_begins_now_and_so_does_a_changed_one(write: Write, store: Store) -> None:
    pipelines = write("{schedule: {cron: '*/10 * * * *', catch_up: all}}")
    Schedule(pipelines, store, 100).look(NOW)
    write("{schedule: {cron: '*/15 * * * *', catch_up: all}}")

    Schedule(pipelines, store, 100).look(NOW + timedelta(hours=2))

    assert ticks(store) == []


@pytest.mark.parametrize(
    ("catch_up", "batches"),
    [
        ("catch_up: none", []),
        ("catch_up: last", ["churn-20260131T070000Z"]),
        ("catch_up: all, overlap: queue", ["churn-20260131T060000Z", "churn-20260131T063000Z", "churn-20260131T070000Z"]),
        ("catch_up: all, catch_up_limit: 2", ["churn-20260131T063000Z", "churn-20260131T070000Z"]),
    ],
)
def test_missed_ticks_are_run_as_the_pipeline_says(catch_up: str, batches: list[str], write: Write, store: Store) -> None:
    schedule = Schedule(write(f"{{schedule: {{cron: '*/30 * * * *', {catch_up}}}}}"), store, 100)
    schedule.look(NOW)

    schedule.look(NOW + timedelta(minutes=75))  # 07:14:30

    assert [batch for _, batch, _ in ticks(store)] == batches


def test_a_tick_beside_a_running_run_is_skipped_or_waits(write: Write, store: Store) -> None:
    pipelines = write("{schedule: {cron: '*/30 * * * *', overlap: skip}}")
    write("{schedule: {cron: '*/30 * * * *', overlap: queue}}", name="waits")
    schedule = Schedule(pipelines, store, 100)
    schedule.look(NOW)

    schedule.look(NOW + timedelta(minutes=1))
    schedule.look(NOW + timedelta(minutes=31))

    assert [(run.pipeline, run.status) for run in reversed(store.newest(10))] == [
        ("churn", "queued"),
        ("waits", "queued"),
        ("churn", "skipped"),
        ("waits", "queued"),
    ]
    skipped = store.newest(1, "churn")[0]
    assert skipped.error == f"service.schedule.overlap: skip, and the run {store.newest(2, 'churn')[1].id} of the pipeline was queued"


def test_ticks_that_find_the_queue_full_wait_for_room(write: Write, store: Store) -> None:
    schedule = Schedule(write("{schedule: {cron: '*/30 * * * *', overlap: queue, catch_up: all}}"), store, 2)
    schedule.look(NOW)
    schedule.look(NOW + timedelta(minutes=75))
    first = store.newest(10)

    store.start(first[-1], NOW)
    schedule.look(NOW + timedelta(minutes=76))

    assert len(first) == 2
    assert [batch for _, batch, _ in ticks(store)] == ["churn-20260131T060000Z", "churn-20260131T063000Z", "churn-20260131T070000Z"]


# --- the store


def _run(**changes: Any) -> Run:
    run = Run(new_id(NOW), "churn", "queued", "api", "alice", {"run.name": "x"}, "b", "2026-01-31", "2026-01-31T06:00:00.000Z")
    return replace(run, **changes)


def test_a_run_comes_back_as_it_was(store: Store) -> None:
    run = _run()

    added, is_new = store.add(run, 1)

    assert is_new
    assert added == run
    found = store.get(run.id)
    assert found is not None
    assert replace(found, seq=0) == run


def test_the_queue_is_bounded_and_a_key_is_one_run(store: Store) -> None:
    first, _ = store.add(_run(idempotency_key="k", body_digest="d"), 1)

    again, is_new = store.add(_run(idempotency_key="k", body_digest="d"), 1)

    assert (again.id, is_new) == (first.id, False)
    with pytest.raises(KeyReusedError):
        store.add(_run(idempotency_key="k", body_digest="other"), 9)
    with pytest.raises(QueueFullError):
        store.add(_run(idempotency_key="other"), 1)
    assert store.add(_run(idempotency_key="k", body_digest="d", pipeline="another"), 9)[1]


def test_what_has_ended_stays_ended(store: Store) -> None:
    run, _ = store.add(_run(), 9)
    assert store.start(run, NOW)
    store.end(run, "succeeded", NOW, 0, None, {"rows_read": 3}, None)

    assert not store.start(run, NOW)
    assert store.cancel(run.id, "alice", NOW) is None
    assert not store.again(run, "why", NOW)
    store.end(run, "lost", NOW, None, "why", None, None)
    found = store.get(run.id)
    assert found is not None
    assert (found.status, found.result) == ("succeeded", {"rows_read": 3})


def test_old_runs_are_forgotten_and_those_that_have_not_ended_are_not(store: Store) -> None:
    old, _ = store.add(_run(), 9)
    waiting, _ = store.add(_run(), 9)
    store.cancel(old.id, "alice", NOW)

    forgotten = store.forget(NOW + timedelta(days=1))

    assert forgotten == [old.id]
    assert [run.id for run in store.newest(9)] == [waiting.id]


def test_hostile_text_is_kept_as_text(store: Store) -> None:
    name = "'; DROP TABLE runs; --"

    store.add(_run(caller=name, overrides={"run.name": name}), 9)

    assert [(run.caller, json.dumps(run.overrides)) for run in store.newest(9)] == [(name, json.dumps({"run.name": name}))]
    assert store.newest(9, pipeline=name) == []
