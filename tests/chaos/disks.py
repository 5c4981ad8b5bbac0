"""Small disks that fill up, and folders that turn read-only: mounts, which need root."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_PAGE = 4096
_SIZE = 64 << 20


@cache
def why_not(folder: Path) -> str | None:
    """Why nothing can be mounted here; None where it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    trial = folder / "mount-trial"
    trial.mkdir(exist_ok=True)
    done = _mount("-t", "tmpfs", "none", str(trial))
    if not done.returncode:
        _unmount(trial)
    trial.rmdir()
    return f"nothing can be mounted: {done.stderr.strip()}" if done.returncode else None


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Have a folder, with what is in it, on a disk of its own while the block runs, and back on the old one afterwards."""
    aside = folder.with_name(f"{folder.name}.aside")
    folder.rename(aside)
    folder.mkdir()
    done = _mount("-t", "tmpfs", "-o", f"size={_SIZE}", "none", str(folder))
    if done.returncode:
        raise RuntimeError(done.stderr)
    shutil.copytree(aside, folder, dirs_exist_ok=True)
    try:
        yield
    finally:
        shutil.rmtree(aside)
        shutil.copytree(folder, aside)
        _unmount(folder)
        folder.rmdir()
        aside.rename(folder)


def fill(folder: Path, free: int) -> Path:
    """Leave so many bytes free on a folder's disk; returns the file that takes the others, beside which nothing of it is to be seen."""
    filler = folder / "_filler"
    status = os.statvfs(folder)
    take = max(status.f_bavail * status.f_frsize - free - _PAGE, 0)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(take, 1))
    return filler


@contextmanager
def may_turn_read_only(folder: Path) -> Iterator[None]:
    """Mount a folder on itself while the block runs."""
    done = _mount("--bind", str(folder), str(folder))
    if done.returncode:
        raise RuntimeError(done.stderr)
    try:
        yield
    finally:
        _unmount(folder)


def turn(folder: Path, how: str, patience: float = 5.0) -> bool:
    """Make such a folder ``ro`` or ``rw``; not while a file in it is being written. False where it could not be done in time."""
    until = time.monotonic() + patience
    while _mount("-o", f"remount,bind,{how}", str(folder)).returncode:
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


def _unmount(folder: Path) -> None:
    for _ in range(50):
        if not subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode:
            return
        time.sleep(0.1)  # a process that has ended may still be on its way out
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
