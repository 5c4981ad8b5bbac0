"""What each batch of an incremental source reads, written down before it is scored: an append-only log, one small file for each batch.

::

    STATE/000000.json     the first batch: what it reads, its ID, its date
    STATE/000001.json     the second; it exists only when the first is published
    STATE/reading/        what Spark is given to read while a batch is scored; removed afterwards

The log says what a batch reads, and never whether it is done: that is asked of the output, which has the batch or has not. So a crash
at any point leaves either no entry, and its rows are in the next one; or an entry whose batch is not there, which is scored next. An
entry is never changed, and its name is taken once, whoever races for it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from datetime import date
from typing import Any, get_args

from lakescore import object_store, storage
from lakescore.config import IncrementalBy, is_batch_id
from lakescore.errors import ConfigError, InputError
from lakescore.storage import File, Location

_NAME = re.compile(r"(\d{6,})\.json")
_NUMBERED = re.compile(r".*-(\d{6,})-[0-9a-f]{6}")
_READING = "reading"
# Every so many entries one lists all files before it too, so that no run reads more than these.
_SUMMED_UP = 50


@dataclass(frozen=True)
class Window:
    """What one batch reads of the source.

    Attributes:
        by: ``versions``, ``changes``, ``files`` or ``column``.
        after: the version or value up to which earlier batches have read; None: this one begins at the beginning.
        to: the last version or value that it reads.
        start: of a column, the value at which the first batch begins, itself included; None: everything.
        files: the files that it reads, and what they were when it was planned.
        location: of versions, the table's folder; table_id: and the table's own ID.
        scratch: a folder for what Spark is to be given; None: nothing is to be written.
    """

    by: str
    after: int | str | None = None
    to: int | str | None = None
    start: str | None = None
    files: tuple[File, ...] = ()
    location: str | None = None
    table_id: str | None = None
    scratch: str | None = None

    @property
    def is_snapshot(self) -> bool:
        """Whether it reads a Delta table as it was at a version, not what came after one."""
        return self.by in ("versions", "changes") and self.after is None

    def __str__(self) -> str:
        if self.by == "files":
            return f"{len(self.files)} new file(s)"
        if self.is_snapshot:
            return f"all rows at version {self.to}"
        if self.by == "column":
            since = f"after {self.after}, " if self.after is not None else f"from {self.start}, " if self.start is not None else ""
            return f"{since}up to {self.to}"
        what = "rows added" if self.by == "versions" else "changes"
        return f"{what} by the versions {int(self.after or 0) + 1} to {self.to}"

    def parameters(self) -> dict[str, Any]:
        """As the run's record has it."""
        found = {"by": self.by, "from": self.start if self.after is None else self.after, "to": self.to, "files": len(self.files) or None}
        return {f"source.incremental.{name}": value for name, value in found.items()}


@dataclass(frozen=True)
class Entry:
    """One file of the log.

    Attributes:
        number: its place; batch_id: the batch, None where there was nothing to score and only the place in the source moved on. It is no
            other entry's, also not of another log, or of one that had the same number before somebody removed it.
        window: what the batch reads.
        score_date: the batch's date (ISO), so that it has the same one whenever it is scored.
        job: whose state it is: the source, by what it is divided, and the output, as they must stay.
        written: when and by which version, for people.
        seen: files of all entries before, in some of the entries; None in the others.
    """

    number: int
    batch_id: str | None
    window: Window
    score_date: str
    job: Mapping[str, Any]
    written: Mapping[str, str] = field(default_factory=dict)
    seen: tuple[File, ...] | None = None


class OffsetLog:
    """The log in one folder.

    Args:
        folder: the folder, which need not exist.
        place: its location.
    """

    def __init__(self, folder: str, place: Location) -> None:
        self.folder = folder
        self._place = place

    def last(self) -> Entry | None:
        """The newest entry; None where there is none.

        Raises:
            InputError: an entry is missing or is none.
        """
        numbers = sorted(int(found.group(1)) for child in self._place.children() if (found := _NAME.fullmatch(child.name)))
        if numbers and numbers != list(range(len(numbers))):
            missing = next(number for number in range(numbers[-1]) if number not in set(numbers))
            raise InputError(
                f"source.incremental.state: {self.folder} has no {missing:06d}.json and later ones; put it back, or begin again with "
                "another state"
            )
        return self._read(numbers[-1]) if numbers else None

    def named(self, batch_id: str) -> Entry | None:
        """The entry of a batch; None where there is none."""
        found = _NUMBERED.fullmatch(batch_id)
        if found is None or not self._place_of(int(found.group(1))).exists():
            return None
        entry = self._read(int(found.group(1)))
        return entry if entry.batch_id == batch_id else None

    def before(self, entry: Entry) -> Entry | None:
        """The newest entry with a batch before another one."""
        for number in range(entry.number - 1, -1, -1):
            found = self._read(number)
            if found.batch_id is not None:
                return found
        return None

    def files(self, last: Entry | None) -> dict[str, File]:
        """All files that batches have read or are to read, by path."""
        found: dict[str, File] = {}
        while last is not None:
            found = {file.path: file for file in (*(last.seen or ()), *last.window.files)} | found
            last = None if last.seen is not None or not last.number else self._read(last.number - 1)
        return found

    def append(self, entry: Entry) -> bool:
        """Write the next entry; False where another run has written one of this number."""
        if entry.window.by == "files" and entry.number and entry.number % _SUMMED_UP == 0:
            entry = replace(entry, seen=tuple(self.files(self._read(entry.number - 1)).values()))
        try:
            self._place_of(entry.number).create_text(_as_json(entry))
        except FileExistsError:
            return False
        return True

    def reading(self, entry: Entry) -> str:
        """A new folder's name, for what Spark is given to read of an entry's batch."""
        return f"{self.folder.rstrip('/')}/{_READING}/{entry.number:06d}-{uuid.uuid4().hex[:12]}"

    def tidy(self, published: Entry) -> None:
        """Remove what crashed runs of batches that are published have left."""
        for child in (self._place / _READING).children():
            if child.name.partition("-")[0] <= f"{published.number:06d}":
                child.remove()
        (self._place / _READING).remove_if_empty()

    def _place_of(self, number: int) -> Location:
        return self._place / f"{number:06d}.json"

    def _read(self, number: int) -> Entry:
        place = self._place_of(number)
        try:
            return _of_json(number, place.read_text())
        except OSError as error:
            raise InputError(
                f"source.incremental.state: {self.folder}/{place.name} cannot be read: {object_store.line(error)}; nothing is lost, run it "
                "again"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"source.incremental.state: {self.folder}/{place.name} is no entry that Lakescore wrote ({type(error).__name__}); put it "
                "back, or begin again with another state"
            ) from error


def open_log(folder: str) -> OffsetLog:
    """The log in a folder.

    Raises:
        InputError: the folder is on a file system that this process cannot reach.
        ConfigError: it is a file.
    """
    place = Location.of(folder)
    if place is None:
        raise InputError(f"source.incremental.state: {folder} is on a file system that this process cannot reach; give another folder")
    if place.exists() and not place.is_dir():
        raise ConfigError(f"source.incremental.state: {folder} is a file; give a folder")
    return OffsetLog(storage.absolute(folder), place)


def _as_json(entry: Entry) -> str:
    tree = {name: value for name, value in asdict(entry).items() if name != "number" and value is not None}
    tree["window"] = {name: value for name, value in tree["window"].items() if name != "scratch" and value not in (None, ())}
    if entry.window.files:
        tree["window"]["files"] = [astuple(file) for file in entry.window.files]
    if entry.seen is not None:
        tree["seen"] = [astuple(file) for file in entry.seen]
    return json.dumps({"batch_id": entry.batch_id, **tree}, ensure_ascii=False, indent=1)


def _of_json(number: int, text: str) -> Entry:
    tree = json.loads(text)
    window = tree.pop("window")
    window["files"] = tuple(File(*one) for one in window.get("files", ()))
    seen = tree.pop("seen", None)
    entry = Entry(number, window=Window(**window), seen=None if seen is None else tuple(File(*one) for one in seen), **tree)
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    """Raise ValueError where somebody's hand has made of an entry what would become a folder's name, or half of a window."""
    window = entry.window
    date.fromisoformat(entry.score_date)
    counted = window.by in ("versions", "changes")
    kinds = (int, type(None)) if counted else (int, str, type(None))
    if window.by not in get_args(IncrementalBy) or not (isinstance(window.after, kinds) and isinstance(window.to, kinds)):
        raise ValueError("its window is none")
    if entry.batch_id is not None and not is_batch_id(entry.batch_id):
        raise ValueError("its batch_id is none")
