"""Files that appear below a folder, as they do: Linux's inotify, so that a kill comes within a millisecond."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import threading
from collections.abc import Callable
from pathlib import Path

_CREATE, _MOVED_TO, _IS_FOLDER, _NONBLOCK = 0x100, 0x80, 0x40000000, 0o4000
_EVENT = struct.Struct("iIII")


class Watcher:
    """Calls a function once, from a thread, when a path appears that it was looking for.

    Args:
        folder: which is there, and all below it, also folders that are made meanwhile.
        wanted: tells of a path, relative to the folder, whether it is meant.
        found: what to do then.
    """

    def __init__(self, folder: Path, wanted: Callable[[str], bool], found: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(_NONBLOCK)
        self._folder, self._wanted, self._found = folder, wanted, found
        self._paths: dict[int, Path] = {}
        self._is_over = False
        self._add(folder)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_over = True
        self._thread.join()
        os.close(self._descriptor)

    def _add(self, folder: Path) -> list[Path]:
        """Watch a folder and those in it; what is in them already may have come before the watch did."""
        watch = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _CREATE | _MOVED_TO)
        if watch < 0:
            return []
        self._paths[watch] = folder
        there: list[Path] = []
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                there.append(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    there += self._add(Path(entry.path))
        return there

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        while not self._is_over:
            if not poll.poll(50):
                continue
            with contextlib.suppress(BlockingIOError):
                if any(self._wanted(str(path.relative_to(self._folder))) for path in self._read()):
                    self._found()
                    return

    def _read(self) -> list[Path]:
        found, data, at = [], os.read(self._descriptor, 1 << 16), 0
        while at < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            at += _EVENT.size + length
            if watch not in self._paths:
                continue
            path = self._paths[watch] / os.fsdecode(name)
            found.append(path)
            if mask & _IS_FOLDER:
                found += self._add(path)
        return found
