"""While there is to wait: what is being done, and a bar of tasks and rows, on a terminal; nothing anywhere else."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TextIO

from tqdm import tqdm

from lakescore.session import JobProgress

log = logging.getLogger(__name__)

Reader = AbstractContextManager[Callable[[], JobProgress | None]]
_INTERVAL_SECONDS = 0.2
_DEFAULT_WIDTH = 80
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} tasks {elapsed}{postfix}"


@contextmanager
def shown(reader: Callable[[], Reader], what: str, total_rows: int | None, stream: TextIO | None) -> Iterator[None]:
    """Draw a bar on ``stream`` while the block runs.

    Args:
        reader: gives the function that tells how far the running stages are; entered only if there is a terminal.
        what: the bar's name.
        total_rows: rows in all, where known.
        stream: the terminal; without one nothing is drawn.
    """
    if stream is None:
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_draw, args=(reader, what, total_rows, stream, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=2)


@contextmanager
def doing(what: str, stream: TextIO | None) -> Iterator[None]:
    """Say on a terminal what is being done, until it is done."""
    if stream is not None:
        stream.write(f"{what} ...")
        stream.flush()
    try:
        yield
    finally:
        if stream is not None:
            stream.write("\r" + " " * (len(what) + 4) + "\r")
            stream.flush()


def _width(stream: TextIO) -> int:
    """Characters in a line of the terminal; some say 0."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _DEFAULT_WIDTH
    except OSError:
        return _DEFAULT_WIDTH


def _draw(reader: Callable[[], Reader], what: str, total_rows: int | None, stream: TextIO, stop: threading.Event) -> None:
    try:
        with reader() as read, tqdm(desc=what, total=1, file=stream, bar_format=_BAR, leave=False, ncols=_width(stream)) as bar:
            while not stop.wait(_INTERVAL_SECONDS):
                now = read()
                if now is None:
                    continue
                bar.total = max(now.total, 1)
                bar.n = now.done
                if now.rows is not None:
                    of = f" of {total_rows:,}" if total_rows else ""
                    bar.set_postfix_str(f"{now.rows:,}{of} rows", refresh=False)
                bar.refresh()
    except Exception as error:
        log.debug("no progress bar: %s", error)  # a bar is never a reason to fail
