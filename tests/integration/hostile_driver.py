"""A list of command lines in, what each of them did out: many runs in one process without Spark, because starting is what costs.

python hostile_driver.py CASES.json RESULTS.json [warm]

With ``warm``, workers are forks of a process that has imported already.
"""

from __future__ import annotations

import glob
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from typing import Any

SECONDS = 300


def run(argv: list[str], output: str) -> dict[str, Any]:
    """Run one command with both streams in files, and what its children write too."""
    from lakescore.cli import main

    before, saved = tree(output), [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        signal.alarm(SECONDS)
        start = time.monotonic()
        try:
            code: Any = main(argv)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(saved, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
        seconds = time.monotonic() - start
        streams = []
        for stream in (out, err):
            stream.seek(0)
            streams.append(stream.read().decode("utf-8", "backslashreplace"))
    left = glob.glob(os.path.join(tempfile.gettempdir(), "lakescore-*"))
    return {"code": code, "out": streams[0], "err": streams[1], "before": before, "after": tree(output), "left": left, "seconds": seconds}


def tree(folder: str) -> list[list[Any]]:
    """All files below a folder with their sizes and times; a file is itself."""
    if "\0" in folder or not os.path.isdir(folder):
        return []
    found = [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]
    return sorted([path, os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in found)


def watch(found: set[str], stop: threading.Event) -> None:
    """Collect the command lines of this process's children, and theirs, as everybody on the machine may list them."""
    while not stop.wait(0.02):
        for process in _below(os.getpid()):
            try:
                with open(f"/proc/{process}/cmdline", encoding="utf-8", errors="replace") as file:
                    found.add(file.read().replace("\0", " "))
            except OSError:
                continue


def _below(process: int) -> list[int]:
    found = []
    for path in glob.glob(f"/proc/{process}/task/*/children"):
        try:
            with open(path) as file:
                found += [int(child) for child in file.read().split()]
        except OSError:
            continue
    return [*found, *(inner for child in found for inner in _below(child))]


def give_up(number: int, frame: Any) -> None:
    """A command that hangs is one that failed."""
    raise TimeoutError(f"it took more than {SECONDS} s")


def main() -> None:
    """Run all."""
    signal.signal(signal.SIGALRM, give_up)
    cases, results, *how = sys.argv[1:]
    commands: set[str] = set()
    stop = threading.Event()
    threading.Thread(target=watch, args=(commands, stop), daemon=True).start()
    with open(cases) as file:
        given = json.load(file)
    from support.warm import forked_pools

    found = {}
    with forked_pools() if how else nullcontext():
        for name, one in given.items():
            print(name, file=sys.stderr, flush=True)  # whoever ends this process is the last one that is named
            found[name] = run(one["argv"], one["output"])
    stop.set()
    with open(results, "w") as file:
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        json.dump({"runs": found, "commands": sorted(commands), "megabytes": largest}, file)


if __name__ == "__main__":
    main()
