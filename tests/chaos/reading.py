"""A reader in a process of its own: looks at a table again and again while jobs write to it, and tells of what it should not have seen.

A Delta table is read by its log and the footers of the files that it names; a Parquet one as Spark lists it: every file but those whose
path has a part that begins with ``_`` or ``.``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

# A reader that leaves the processor to the jobs: two of them share a core or so.
INTERVAL = 0.01


@dataclass
class Seen:
    """What a reader has seen of a table.

    Attributes:
        looks: how often it looked.
        wrong: what it should not have seen, once each.
        last: rows by batch, when it looked last.
    """

    looks: int = 0
    wrong: list[str] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)


class Reader:
    """The process. One table at a time: ``start``, then ``stop``."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, its = context.Pipe()
        self._process = context.Process(target=_serve, args=(its,), daemon=True)
        self._process.start()
        its.close()

    def start(self, format_: str, table: Path, earlier: Mapping[str, int], rows: int, replaced: Mapping[str, int]) -> None:
        """Look from now on.

        Args:
            format_: delta or parquet.
            table: its folder.
            earlier: batches that are there, with their rows, and stay.
            rows: of each other batch, once it is there.
            replaced: batches that have so many rows until they have those.
        """
        self._pipe.send((format_, str(table), dict(earlier), rows, dict(replaced)))

    def stop(self) -> Seen:
        """Look once more, and tell."""
        self._pipe.send(None)
        seen: Seen = self._pipe.recv()
        return seen

    def close(self) -> None:
        self._pipe.close()
        self._process.join(5)


def _serve(pipe: Connection[Any, Any]) -> None:
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            format_, table, earlier, rows, replaced = pipe.recv()
            look = delta if format_ == "delta" else parquet
            seen, footers = Seen(), {}
            while True:
                is_last = pipe.poll(INTERVAL)
                _look(seen, look, table, footers, earlier, rows, replaced)
                if is_last:
                    pipe.recv()
                    pipe.send(seen)
                    break


def _look(
    seen: Seen, look: Any, table: str, footers: dict[str, int], earlier: Mapping[str, int], rows: int, replaced: Mapping[str, int]
) -> None:
    for attempt in range(3):
        try:
            found = look(table, footers)
            break
        except FileNotFoundError as error:
            # Files of a Parquet table may go between listing and reading, as any reader's may: it lists again.
            if attempt == 2:
                _note(seen, f"a file is gone that the table names: {error}")
                return
            time.sleep(0.002)
    seen.looks, seen.last = seen.looks + 1, found
    for batch, count in found.items():
        if count not in (earlier.get(batch, rows), replaced.get(batch)):
            _note(seen, f"{count} of the {earlier.get(batch, rows)} rows of batch {batch} were there")
    for batch in earlier:
        if batch not in found:
            _note(seen, f"the batch {batch} was gone")


def _note(seen: Seen, what: str) -> None:
    if what not in seen.wrong:
        seen.wrong.append(what)


def _rows(path: str, footers: dict[str, int]) -> int:
    if path not in footers:
        footers[path] = pq.read_metadata(path).num_rows
    return footers[path]


def delta(table: str, footers: dict[str, int]) -> dict[str, int]:
    """Rows by batch of a Delta table; ``footers``: rows of files that are known."""
    found: Counter[str] = Counter()
    try:
        snapshot = DeltaTable(table)
    except (TableNotFoundError, OSError):
        return {}
    adds = snapshot.get_add_actions(flatten=True)
    for path, batch in zip(adds["path"].to_pylist(), adds["min.batch_id"].to_pylist(), strict=True):
        found[batch] += _rows(os.path.join(table, unquote(path)), footers)
    return dict(found)


def parquet(table: str, footers: dict[str, int]) -> dict[str, int]:
    """The same of a Parquet table."""
    found: Counter[str] = Counter()
    for folder, inside, files in os.walk(table):
        inside[:] = [name for name in inside if not _is_hidden(name)]
        for name in files:
            if not _is_hidden(name):
                batch = next(part[9:] for part in reversed(folder.split("/")) if part.startswith("batch_id="))
                found[unquote(batch)] += _rows(os.path.join(folder, name), footers)
    return dict(found)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)
