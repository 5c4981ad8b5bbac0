"""Where the time of a run went, in words, and the one thing that would help most."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping

_SMALL_FILE = 1 << 20
_MANY_FILES = 200
_LARGE_SOURCE = 128 << 20
# A model's load is worth a word from so many seconds on, if it is as large a share of the workers' time.
_SLOW_LOAD = 5.0
_LARGE_SHARE = 0.3


def since_start() -> float:
    """Seconds since this process began, which imports take; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", encoding="utf-8") as file:
            ticks = int(file.read().rsplit(")", 1)[1].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return 0.0


def breakdown(seconds: Mapping[str, float], workers: Mapping[str, float]) -> str:
    """The stages of the driver, and of the workers together what they did meanwhile.

    Args:
        seconds: by stage; workers: by what they did; empty where they do not tell.
    """
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    if not workers:
        return stages
    return f"{stages}; all workers together: " + ", ".join(f"{name} {value:.1f} s" for name, value in workers.items())


def advice(workers: Mapping[str, float], files: int | None, size: int | None, parts: int | None, cores: int) -> str | None:
    """The one thing that would help most; None where nothing is off.

    Args:
        workers: seconds of all workers together, by what they did.
        files, size: of the source, in number and bytes; None: not known.
        parts: into how many parts it can be cut; None: not known.
        cores: parts that are scored at once.
    """
    total, load = sum(workers.values()), workers.get("load", 0.0)
    if files and size is not None and files >= _MANY_FILES and size / files < _SMALL_FILE:
        return f"the source is {files:,} files of {size // files // 1024} KB on average; fewer and larger ones are read faster"
    if parts is not None and size is not None and parts < cores and size > _LARGE_SOURCE:
        return (
            f"the source can be cut into {parts} part(s), and {cores} could be scored at once; write it with more files or row groups, or "
            "set scoring.partitions"
        )
    if load > _SLOW_LOAD and load > _LARGE_SHARE * total:
        return f"loading the model took {load:.1f} of the workers' {total:.1f} s; score larger batches less often, or a smaller model"
    return None
