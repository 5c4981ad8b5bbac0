"""A batch of a Parquet table on a disk: published once and whole, whoever else publishes it, and wherever the process ends."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from lakescore.errors import OutputError
from lakescore.sinks import journal
from lakescore.sinks.base import AlreadyPublishedError
from lakescore.storage import Location
from publications import hidden, killed_at, open_sink, publish, shown, stage

ONE = {"2026-01-31": [1.0]}
OTHER = {"2026-02-01": [1.0]}
TWO = {"2026-01-30": [1.0], "2026-01-31": [1.0]}


def plain(table: Path) -> list[float]:
    """What a reader sees that knows nothing of Lakescore."""
    files = [path for path in table.rglob("*.parquet") if "_lakescore" not in path.parts]
    return sorted(x for path in files for x in pd.read_parquet(path, columns=["x"])["x"])


def at(table: Path) -> Location:
    location = Location.of(str(table))
    assert location is not None
    return location


@pytest.mark.parametrize("locks", [True, False])
@pytest.mark.parametrize("values", [(ONE, OTHER), (ONE, ONE), (TWO, OTHER), (TWO, TWO)])
def test_two_runs_of_a_batch_at_once_publish_it_once(
    tmp_path: Path, values: tuple[dict[str, list[float]], ...], locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier, meeting, outcomes = threading.Barrier(2), threading.Barrier(2), []
    real = Location.move_to

    def meet_and_move(self: Location, target: Location) -> None:
        """Both have looked before one renames, where that can be."""
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(0.5)
        real(self, target)

    monkeypatch.setattr(Location, "move_to", meet_and_move)
    if not locks:
        monkeypatch.setattr(journal, "locked", lambda root: contextlib.nullcontext())

    def run(values: dict[str, list[float]]) -> None:
        sink = open_sink(str(tmp_path), "b")
        staged = stage(sink, values)
        barrier.wait()
        try:
            sink.publish(None, staged)
            outcomes.append(len(values))
        except AlreadyPublishedError:
            sink.discard(staged)

    threads = [threading.Thread(target=run, args=(one,)) for one in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 1
    assert plain(tmp_path) == shown(str(tmp_path), "b") == [1.0] * 2 * outcomes[0]
    assert not (tmp_path / "_lakescore").exists()


@pytest.mark.parametrize("turn", range(5))
def test_of_two_runs_that_replace_a_batch_at_once_one_is_there(tmp_path: Path, turn: int) -> None:
    publish(str(tmp_path), "b", {"2026-01-30": [0.0], "2026-01-31": [0.0]})
    publish(str(tmp_path), "c", {"2026-01-31": [9.0]})
    barrier = threading.Barrier(2)

    def run(value: float) -> None:
        sink = open_sink(str(tmp_path), "b", "replace")
        staged = stage(sink, {"2026-01-31": [value], "2026-02-01": [value]})
        barrier.wait()
        try:
            sink.publish(None, staged)
        except AlreadyPublishedError:  # the other one has cleared its files away
            sink.discard(staged)

    threads = [threading.Thread(target=run, args=(value,)) for value in (1.0, 2.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shown(str(tmp_path), "b") in ([1.0] * 4, [2.0] * 4)
    assert len(plain(tmp_path)) == 6
    assert shown(str(tmp_path), "c") == [9.0] * 2
    assert not (tmp_path / "_lakescore").exists()


def test_wherever_a_first_publication_ends_the_next_run_has_it_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(100):
        table = str(tmp_path / str(step))
        publish(table, "a", ONE)
        with killed_at(step, monkeypatch) as done:
            publish(table, "b", TWO)
        seen = shown(table, "b")
        assert seen in ([], [1.0] * 4)

        publish(table, "b", TWO)

        assert shown(table, "b") == [1.0] * 4
        assert plain(tmp_path / str(step)) == [1.0] * 6
        assert hidden(table) == []
        if len(done) < step:
            break
    assert step > 6


def test_wherever_a_replacement_ends_there_are_the_old_rows_or_the_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = set()
    for step in range(100):
        table = str(tmp_path / str(step))
        publish(table, "b", {"2026-01-29": [0.0], "2026-01-31": [0.0]})
        with killed_at(step, monkeypatch) as done:
            publish(table, "b", TWO, "replace")
        seen = shown(table, "b")
        assert seen in ([0.0] * 4, [1.0] * 4)
        states.add((seen[0], len(plain(tmp_path / str(step)))))

        publish(table, "b", {"2026-01-31": [2.0]}, "replace")

        assert shown(table, "b") == plain(tmp_path / str(step)) == [2.0] * 2
        assert hidden(table) == []
        if len(done) < step:
            break
    # A plain reader has seen less than all of a replacement in between.
    assert (0.0, 2) in states


def test_a_killed_process_leaves_a_batch_that_the_next_run_finishes(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from publications import publish
from lakescore.storage import Location
real = Location.move_to
def move(self, target):
    real(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
Location.move_to = move
publish(sys.argv[1], "b", {"2026-01-30": [1.0], "2026-01-31": [1.0]})
"""
    tests = Path(__file__).parents[1]
    answer = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], cwd=tests, capture_output=True, text=True, check=False)
    assert answer.returncode == -9, answer.stderr
    assert (len(plain(tmp_path / "out")), shown(str(tmp_path / "out"), "b")) == (2, [])

    publish(str(tmp_path / "out"), "b", TWO)

    assert shown(str(tmp_path / "out"), "b") == [1.0] * 4
    assert not (tmp_path / "out" / "_lakescore").exists()


def test_a_journal_of_a_batch_that_another_run_has_published_is_taken_back(tmp_path: Path) -> None:
    publish(str(tmp_path), "b", ONE)
    late = stage(open_sink(str(tmp_path), "b"), OTHER)
    journal.create(at(tmp_path), journal.Journal("b", late.handle.folder.name, late.handle.files, ()))

    publish(str(tmp_path), "b", ONE)

    assert shown(str(tmp_path), "b") == plain(tmp_path) == [1.0] * 2
    assert journal.read_all(at(tmp_path)) == []


def test_a_run_that_looked_before_another_one_published_is_beaten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = open_sink(str(tmp_path), "b")
    staged = stage(late, OTHER)
    publish(str(tmp_path), "b", ONE)
    late_staged = stage(late, OTHER)
    real, looks = journal.files_of, []

    def see_nothing_at_first(root: Location, batch_id: str) -> list[str]:
        looks.append(batch_id)
        return real(root, batch_id) if len(looks) > 1 else []

    monkeypatch.setattr(journal, "files_of", see_nothing_at_first)
    for attempt in (late_staged, staged):
        with pytest.raises(AlreadyPublishedError):
            late.publish(None, attempt)
        late.discard(attempt)

    assert plain(tmp_path) == [1.0] * 2
    assert hidden(str(tmp_path)) == []


def _stop_at_the_fourth_move(monkeypatch: pytest.MonkeyPatch, table: Path, values: dict[str, list[float]]) -> None:
    """Replace the batch of two dates, and end when the old rows are put aside and the first date's new ones are in place."""
    real, moved = Location.move_to, []

    def stop(self: Location, target: Location) -> None:
        moved.append(target.path)
        if len(moved) == 4:
            raise KeyboardInterrupt
        real(self, target)

    publish(str(table), "b", {"2026-01-30": [0.0], "2026-01-31": [0.0]})
    monkeypatch.setattr(Location, "move_to", stop)
    with pytest.raises(KeyboardInterrupt):
        publish(str(table), "b", values, "replace")
    monkeypatch.undo()


def test_a_journal_whose_staged_files_are_gone_gives_the_old_rows_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stop_at_the_fourth_move(monkeypatch, tmp_path, {"2026-02-01": [1.0], "2026-02-02": [1.0]})
    (at(tmp_path) / journal.STAGING).remove()

    publish(str(tmp_path), "b", ONE)

    assert shown(str(tmp_path), "b") == plain(tmp_path) == [0.0] * 4
    assert hidden(str(tmp_path)) == []


def test_so_does_one_of_the_same_dates_beside_whose_files_spark_left_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stop_at_the_fourth_move(monkeypatch, tmp_path, {"2026-01-30": [1.0], "2026-01-31": [1.0]})
    (tmp_path / "score_date=2026-01-30" / "batch_id=b" / ".part-0.parquet.crc").write_bytes(b"crc")
    (at(tmp_path) / journal.STAGING).remove()

    publish(str(tmp_path), "b", ONE)

    assert shown(str(tmp_path), "b") == plain(tmp_path) == [0.0] * 4
    assert hidden(str(tmp_path)) == []


def test_a_reader_whose_look_meets_a_whole_publication_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(str(tmp_path), "b", TWO)
    real, looks = journal._data_files, []

    def miss_a_day_at_first(root: Location) -> list[str]:
        """One day was listed before the batch came, the other one after."""
        looks.append(root)
        return [name for name in real(root) if len(looks) > 1 or "2026-01-30" not in name]

    monkeypatch.setattr(journal, "_data_files", miss_a_day_at_first)

    assert shown(str(tmp_path), "b") == [1.0] * 4


def test_a_second_journal_of_a_batch_is_refused_and_leaves_the_first(tmp_path: Path) -> None:
    first, second = (journal.Journal("b", f"b-{i}", ("score_date=2026-01-31/batch_id=b/x.parquet",), ()) for i in (1, 2))

    assert journal.create(at(tmp_path), first)
    assert not journal.create(at(tmp_path), second)

    assert journal.read(at(tmp_path), "b") == first
    assert journal.create(at(tmp_path), first)  # a request that is sent twice meets its own file


def test_a_journal_that_is_none_is_named(tmp_path: Path) -> None:
    place = journal.place_of(at(tmp_path), "b")
    place.write_text(json.dumps([["a", "b"]]))

    with pytest.raises(OutputError, match=r"b-.*\.json is no journal of a publication"):
        open_sink(str(tmp_path), "b").recover(None)


def test_a_lock_that_is_held_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LOCK_SECONDS", 0.1)
    refused = pytest.raises(OutputError, match="another process has been publishing to")
    with journal.locked(at(tmp_path)), refused, journal.locked(at(tmp_path)):
        pass

    with journal.locked(at(tmp_path)):
        pass


def test_an_empty_folder_of_the_batch_is_no_batch_and_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "score_date=2026-01-31" / "batch_id=b").mkdir(parents=True)
    (tmp_path / "score_date=2026-01-31" / "batch_id=b" / ".part.crc").touch()

    publish(str(tmp_path), "b", ONE)

    assert plain(tmp_path) == [1.0] * 2
    assert hidden(str(tmp_path)) == []
