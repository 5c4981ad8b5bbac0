"""The log of what batches read: entries are written once, read back as they were, and what is broken is named."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from lakescore.errors import ConfigError, InputError
from lakescore.offsets import Entry, OffsetLog, Window, open_log
from lakescore.storage import File


def entry(number: int, **window: object) -> Entry:
    found = Window(**{"by": "versions", "to": number, **window})  # type: ignore[arg-type]
    return Entry(number, f"job-{number:06d}-abc123", found, "2026-01-31", {"source.path": ["/a"]}, {"at": "now"})


@pytest.fixture
def state(tmp_path: Path) -> OffsetLog:
    return open_log(str(tmp_path / "state"))


@pytest.mark.parametrize(
    "window",
    [
        {"after": 0, "to": 3, "location": "/t", "table_id": "x"},
        {"after": -1, "to": 0},
        {"by": "column", "to": "2026-01-31T00:00:00.000000Z", "start": "2026-01-01"},
        {"by": "files", "to": None, "files": (File("/a/größe 1.csv", 3, 1_700_000_000_123),)},
    ],
)
def test_an_entry_is_read_back_as_it_was_written(state: OffsetLog, window: dict[str, object]) -> None:
    written = entry(0, **window)

    assert state.append(written)
    assert state.last() == written


def test_there_is_no_last_entry_where_nobody_has_written_one(state: OffsetLog) -> None:
    assert state.last() is None


def test_of_many_that_write_the_same_entry_at_once_one_does(state: OffsetLog) -> None:
    barrier, won = threading.Barrier(8), []

    def write(run: int) -> None:
        barrier.wait()
        if state.append(entry(0, to=run)):
            won.append(run)

    threads = [threading.Thread(target=write, args=(run,)) for run in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    last = state.last()
    assert last is not None
    assert won == [last.window.to]
    assert os.listdir(state.folder) == ["000000.json"]


def test_the_files_of_all_entries_are_known_and_few_entries_are_read_for_it(state: OffsetLog) -> None:
    for number in range(120):
        assert state.append(entry(number, by="files", to=None, files=(File(f"/a/{number}", number, 0),)))
    for number in range(99):  # what the 100th entry has summed up
        Path(state.folder, f"{number:06d}.json").write_text("broken")

    assert state.files(state.last()) == {f"/a/{number}": File(f"/a/{number}", number, 0) for number in range(120)}


def test_a_missing_entry_is_named(state: OffsetLog) -> None:
    for number in range(3):
        state.append(entry(number))
    Path(state.folder, "000001.json").unlink()

    with pytest.raises(InputError, match=r"source\.incremental\.state: .*/state has no 000001\.json and later ones; put it back, or begin"):
        state.last()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"batch_id": "a", "window": {"by": "files", "nope": 1}}'])
def test_what_is_no_entry_is_named(state: OffsetLog, content: str) -> None:
    state.append(entry(0))
    Path(state.folder, "000000.json").write_text(content)

    with pytest.raises(InputError, match=r"source\.incremental\.state: .*/000000\.json is no entry that Lakescore wrote"):
        state.last()


def test_an_entry_that_cannot_be_read_now_is_not_called_wrong(state: OffsetLog) -> None:
    state.append(entry(0))
    file = Path(state.folder, "000000.json")
    file.unlink()
    file.mkdir()

    with pytest.raises(InputError, match=r"000000\.json cannot be read: .*; nothing is lost, run it again"):
        state.last()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window", 5),
        ("score_date", "zz"),
        ("window", {"by": "versions", "to": "abc"}),
        ("window", {"by": "x", "to": 1}),
        ("batch_id", "../x"),
    ],
)
def test_an_entry_that_a_hand_has_changed_is_named(state: OffsetLog, key: str, value: object) -> None:
    state.append(entry(0))
    file = Path(state.folder, "000000.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))

    with pytest.raises(InputError, match=r"source\.incremental\.state: .*/000000\.json is no entry that Lakescore wrote \("):
        state.last()


def test_a_state_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").touch()

    with pytest.raises(ConfigError, match=r"source\.incremental\.state: .*/state is a file; give a folder"):
        open_log(str(tmp_path / "state"))


def test_tidying_removes_what_published_batches_left_and_nothing_else(state: OffsetLog) -> None:
    folders = [Path(state.reading(entry(number)), "_delta_log") for number in (0, 1, 2)]
    for folder in folders:
        folder.mkdir(parents=True)

    state.tidy(entry(1))

    assert [folder.exists() for folder in folders] == [False, False, True]
