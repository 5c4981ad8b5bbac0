"""Pythons that have some of this environment's packages and no others: of a driver, of a cluster's hosts, to be shipped as an archive."""

from __future__ import annotations

import sys
import tarfile
import venv
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def make_python(folder: Path, *wanted: str, without: Collection[str] = ()) -> Path:
    """A virtual environment with links to installed packages.

    Args:
        folder: where; must not exist.
        wanted: requirements (``lakescore[mlflow]``); what they require comes with them.
        without: distributions that are left out, though their own requirements come.

    Returns:
        Its ``python``.
    """
    venv.EnvBuilder(symlinks=True).create(folder)
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for name in _with_requirements(wanted):
        if name not in without:
            _link(metadata.distribution(name), packages)
    return folder / "bin" / "python"


def pack_python(folder: Path, archive: Path) -> Path:
    """The same as an archive for ``--archives`` (.tar.gz); its links lead to this machine's files."""
    with tarfile.open(archive, "w:gz", compresslevel=1) as packed:
        for child in sorted(folder.iterdir()):
            packed.add(child, child.name)
    return archive


def _with_requirements(wanted: Collection[str]) -> Iterator[str]:
    """The names of distributions, each once."""
    seen: set[tuple[str, frozenset[str]]] = set()
    names: dict[str, None] = {}
    waiting = [Requirement(one) for one in wanted]
    while waiting:
        one = waiting.pop()
        name, extras = canonicalize_name(one.name), frozenset(one.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        names[name] = None
        for text in metadata.requires(name) or ():
            required = Requirement(text)
            if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                waiting.append(required)
    return iter(names)


def _link(distribution: metadata.Distribution, packages: Path) -> None:
    """Link what a distribution has put beside its metadata."""
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        link = packages / top
        if not link.is_symlink():
            link.symlink_to(Path(str(distribution.locate_file(top))))
