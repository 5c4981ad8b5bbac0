"""The publication of a batch to a Parquet table: decided by one file, its journal, and carried out by whoever comes by.

::

    TABLE/score_date=2026-01-31/batch_id=B/part-....parquet            what readers see
    TABLE/_lakescore/staging/ATTEMPT/score_date=.../batch_id=.../...   a batch that no reader sees
    TABLE/_lakescore/journal/BATCH.json                                which staged files are added, and which are removed for them
    TABLE/_lakescore/replaced/ATTEMPT/...                              what a replacement took out, until it is complete

All that a journal lists has passed the audit, so that writing it is the decision, and it is created only where there is none: one
publication of a batch at a time. Every step after it may be done twice, or begun by one run and finished by another: who finds a
journal finishes what it lists, and then removes it.

Where a rename is one step (local disks, HDFS) a batch's folder is renamed, old ones out first. Object stores have no rename: each file is
copied inside the store, then the old ones are removed. A file's name is used once, so a step that comes late finds nothing to do.

A journal is void, and undone, where the batch has other files than it lists: another run has published it after this one had looked; or
where its own staged files are gone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from urllib.parse import unquote

from pyspark.sql import DataFrame, SparkSession

from lakescore import storage
from lakescore.errors import InputError, OutputError
from lakescore.redact import redact
from lakescore.schema import BATCH, PARTITION
from lakescore.sinks.base import attempts, batch_prefix
from lakescore.storage import Location

log = logging.getLogger(__name__)

HIDDEN = "_lakescore"
STAGING, REPLACED, JOURNAL = f"{HIDDEN}/staging", f"{HIDDEN}/replaced", f"{HIDDEN}/journal"
_LOCK_SECONDS = 120.0
_STEADY_TRIES = 20
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Journal:
    """What one publication does.

    Attributes:
        batch_id: the batch.
        attempt: the folder in ``_lakescore/staging`` that its files are in.
        add: their paths in that folder, which they will have in the table's too.
        remove: files of the table that they take the place of, relative to its folder.
    """

    batch_id: str
    attempt: str
    add: tuple[str, ...]
    remove: tuple[str, ...]


def place_of(root: Location, batch_id: str) -> Location:
    """Where the journal of a batch is, while there is one."""
    return root / JOURNAL / f"{batch_prefix(batch_id).rstrip('-')}.json"


def read(root: Location, batch_id: str) -> Journal | None:
    """The journal of a batch that is being published, or whose publication was interrupted."""
    return _read(place_of(root, batch_id))


def read_all(root: Location) -> list[Journal]:
    """The journals of all batches."""
    places = [place for place in (root / JOURNAL).children() if place.name.endswith(".json")]
    return [found for place in places if (found := _read(place)) is not None]


def _read(place: Location) -> Journal | None:
    try:
        found = json.loads(place.read_text())
        return Journal(found["batch_id"], found["attempt"], tuple(found["add"]), tuple(found["remove"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(f"output.path: {place.path} is no journal of a publication ({error}); remove it") from error


def create(root: Location, journal: Journal) -> bool:
    """Write the journal; False where the batch has one of another attempt."""
    try:
        place_of(root, journal.batch_id).create_text(json.dumps(vars(journal), indent=1))
    except FileExistsError:
        # A request that was answered too late, and sent again, meets its own file.
        there = read(root, journal.batch_id)
        return there is not None and there.attempt == journal.attempt
    return True


@contextmanager
def locked(root: Location) -> Iterator[None]:
    """Have the publications to a local table done one after the other; the lock ends with the process that holds it.

    Without it a journal would still be written once. But two runs that carry it out at once could rename a folder twice; where there are no
    locks, as on some network file systems, that takes two runs that replace the same batch in the same moment.

    Raises:
        OutputError: another process has been publishing for minutes.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    if not root.is_local or not root.is_dir():
        yield
        return
    folder = os.open(root.path, os.O_RDONLY)
    try:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OutputError(
                        f"output.path: another process has been publishing to {root.path} for {_LOCK_SECONDS:.0f} s; see whether it hangs"
                    ) from None
                time.sleep(0.02)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(folder, fcntl.LOCK_UN)  # a process that was forked meanwhile has the folder open too
    finally:
        os.close(folder)


def files_of(root: Location, batch_id: str) -> list[str]:
    """The files of a batch that a plain reader sees, relative to the table's folder."""
    if not root.has_renames:  # listing all is fewer requests than each day's folder
        return [name for name in _data_files(root) if unquote(name.split("/")[1]) == f"{BATCH}={batch_id}"]
    found = []
    for day in root.children() if root.is_dir() else ():
        if day.name.startswith(f"{PARTITION}="):
            for batch in day.children():
                if unquote(batch.name) == f"{BATCH}={batch_id}":
                    found += [f"{day.name}/{batch.name}/{file.path.rpartition('/')[2]}" for file in batch.files()]
    return found


def _data_files(root: Location) -> list[str]:
    start = root.path.rstrip("/") + "/"
    names = (file.path.removeprefix(start) for file in root.files())
    return [name for name in names if name.startswith(f"{PARTITION}=")]


def finish(root: Location, journal: Journal) -> bool:
    """Carry out what a journal lists, as far as it is not done, and remove it.

    Returns:
        Whether the batch is published with it; False where it was void, and is undone.
    """
    there, void = _look(root, journal)
    if not void:
        if root.has_renames:
            _rename(root, journal, there)
        else:
            void = not _copy(root, journal, there)
    if void:
        if read(root, journal.batch_id) != journal:  # another run has come to its end meanwhile, and there may be a batch by a later one
            return set(journal.add) <= set(files_of(root, journal.batch_id))
        _undo(root, journal)
        return False
    try:
        _tidy(root, journal)
    except OSError as error:
        # The batch is published: nothing that fails from here on may look like a failed run.
        log.warning("output: the batch %s is published; tidying up failed: %s", journal.batch_id, redact(str(error)))
    return True


def _look(root: Location, journal: Journal) -> tuple[set[str], bool]:
    """The files of the batch that are in their places, and whether the journal is void.

    A staged file goes only when all are in their places. So the staged ones are listed first: what is in neither list was in neither folder
    at the end of the first, whoever else carries the journal out meanwhile.
    """
    staged = root / STAGING / journal.attempt
    start = staged.path.rstrip("/") + "/"
    left = {file.path.removeprefix(start) for file in staged.files()}
    there = set(files_of(root, journal.batch_id))
    return there, bool(there - set(journal.add) - set(journal.remove) or set(journal.add) - there - left)


def _folders(names: Iterable[str]) -> list[str]:
    return sorted({name.rpartition("/")[0] for name in names})


def _rename(root: Location, journal: Journal, there: set[str]) -> None:
    staged, aside = (root / kind / journal.attempt for kind in (STAGING, REPLACED))
    for folder in _folders(there & set(journal.remove)):
        _move(root / folder, aside / folder)
    for folder in _folders(set(journal.add) - there):
        if (root / folder).exists():  # without a file that a reader sees
            _move(root / folder, aside / folder)
        _move(staged / folder, root / folder)


def _move(start: Location, end: Location) -> None:
    """Rename, unless another run does it in the same moment."""
    try:
        start.move_to(end)
    except OSError:
        if start.exists() or not end.exists():
            raise


def _copy(root: Location, journal: Journal, there: set[str]) -> bool:
    """Copy, and then remove; False where a staged file is gone, and not in its place either."""
    staged = root / STAGING / journal.attempt
    names = sorted(set(journal.add) - there)

    def copy(name: str) -> bool:
        try:
            (staged / name).copy_to(root / name)
        except FileNotFoundError:
            return (root / name).exists()  # another run has finished meanwhile
        return True

    with ThreadPoolExecutor(max_workers=16) as pool:
        done = list(pool.map(copy, names))
    if names:
        _remove_late(root, journal, names)
    if all(done):
        root.remove_files(journal.remove)
    return all(done)


def _remove_late(root: Location, journal: Journal, copied: list[str]) -> None:
    """Remove copies that came so late that a later publication had replaced the batch already."""
    now = read(root, journal.batch_id)
    if now == journal:
        return
    there = set(files_of(root, journal.batch_id))
    later = there - set(journal.add) - set(journal.remove)
    if later and (now is None or set(now.add) <= there):
        root.remove_files(copied)


def _undo(root: Location, journal: Journal) -> None:
    """Take a void journal back: what was taken out is put back, what was added is removed."""
    there = set(files_of(root, journal.batch_id))
    log.info("output: the publication of batch %s by another attempt (%s) is void and is taken back", journal.batch_id, journal.attempt)
    aside = root / REPLACED / journal.attempt
    root.remove_files(sorted(there & set(journal.add)))
    for folder in _folders(there & set(journal.add)):
        if root.is_local and not any((root / folder).files()):  # Spark's checksums are there, which no reader sees
            (root / folder).remove()
    if root.has_renames:
        for folder in _folders(journal.remove):
            if (aside / folder).exists() and not (root / folder).exists():
                _move(aside / folder, root / folder)
    _remove_journal(root, journal)
    _sweep(root)


def _remove_journal(root: Location, journal: Journal) -> None:
    if read(root, journal.batch_id) == journal:
        place_of(root, journal.batch_id).remove()


def _tidy(root: Location, journal: Journal) -> None:
    """Remove what was replaced, and what all attempts at this batch left: it is published, they cannot be; the journal last."""
    for kind in (STAGING, REPLACED):
        (root / kind / journal.attempt).remove()
    # No other attempt can become a journal as long as this one is there.
    if read(root, journal.batch_id) == journal:
        for kind in (STAGING, REPLACED):
            for left in list(attempts(root / kind, journal.batch_id)):
                left.remove()
        prefix = f".{place_of(root, journal.batch_id).name}."
        for left in (root / JOURNAL).children():
            if left.name.startswith(prefix):  # of a run that died while it wrote its journal
                left.remove()
    _remove_journal(root, journal)
    _sweep(root)


def _sweep(root: Location) -> None:
    """Remove the folders that publications have left empty."""
    for kind in (STAGING, REPLACED, JOURNAL, HIDDEN):
        (root / kind).remove_if_empty()
    for day in root.children() if root.is_local else ():
        if day.name.startswith(f"{PARTITION}="):
            day.remove_if_empty()


# --- for readers


def visible(root: Location) -> list[str]:
    """The files that make up the table, relative to its folder: of each batch all or none, whatever is being published.

    A batch that is being published is there when all its files are. Until then the rows that it replaces are, from where they were put
    aside if need be.
    """
    before = None
    for turn in range(_STEADY_TRIES):
        # Two looks that find the same saw no publication begin or end between them.
        now = (_data_files(root), read_all(root))
        if now == before:
            break
        before = now
        if turn:
            time.sleep(0.02)
    files, journals = now
    found = set(files)
    for journal in journals:
        if set(journal.add) <= found:
            found -= set(journal.remove)
        else:
            found -= set(journal.add)
            aside = f"{REPLACED}/{journal.attempt}"
            found |= {f"{aside}/{name}" for name in set(journal.remove) - found if (root / aside / name).exists()}
    return sorted(name for name in found if name.endswith(".parquet"))


def read_visible(spark: SparkSession, root: Location, location: str) -> DataFrame:
    """The same as a DataFrame.

    Args:
        spark: the session.
        root: the table's folder; location: the same as users write it.

    Raises:
        InputError: there is no batch.
    """
    parts = []
    for folder, names in groupby(visible(root), _partitions_begin):
        base = f"{location.rstrip('/')}/{folder}".rstrip("/")
        paths = [storage.for_spark_reader(f"{location.rstrip('/')}/{name}") for name in names]
        parts.append(spark.read.option("mergeSchema", "true").option("basePath", storage.for_spark(base)).parquet(*paths))
    if not parts:
        raise InputError(f"{location} has no batch that is complete")
    return reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), parts)


def _partitions_begin(name: str) -> str:
    """The folder below which a file's folders are partitions: the table's own, or the one of what was put aside."""
    return "/".join(name.split("/")[:3]) if name.startswith(f"{HIDDEN}/") else ""
