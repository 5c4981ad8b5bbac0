"""Modules that lie beside a model file: importable while it is loaded and saved again, shipped with it, and then forgotten.

Two models in one process may each have a ``net.py``; neither may get the other's.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import cloudpickle


class Beside:
    """The folders that modules may come from, and what was imported from them so far."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = list(dict.fromkeys(folders))
        self._before: set[str] = set()

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Put the folders before all else on the path; what came from them is gone afterwards, and what it hid is back."""
        own = self._own_names()
        hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in own}
        for name in hidden:
            del sys.modules[name]
        self._before = set(sys.modules)
        path_before = list(sys.path)
        sys.path[:0] = map(str, self._folders)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path[:] = path_before
            for name in [name for name in sys.modules if self._source(name) is not None]:
                del sys.modules[name]
            sys.modules.update(hidden)
            importlib.invalidate_caches()

    def sources(self) -> list[Path]:
        """The files and packages of these folders that were imported, to be shipped with the model; call it inside ``importable``."""
        return sorted({source for name in list(sys.modules) if (source := self._source(name)) is not None})

    def _own_names(self) -> set[str]:
        """Top-level modules that lie here and are nobody else's: what is installed or Python's own is never hidden."""
        names: set[str] = set()
        for folder in self._folders:
            with contextlib.suppress(OSError):
                names |= {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
        names -= {*sys.stdlib_module_names, "__main__", "lakescore"}
        return names - set(metadata.packages_distributions()) if names else names  # which reads a file of each that is installed

    def _source(self, name: str) -> Path | None:
        """The file or top package that a newly imported module came from, if that lies directly in one of the folders."""
        file = getattr(sys.modules[name], "__file__", None) if name not in self._before else None
        for folder in self._folders if file else ():
            if Path(str(file)).is_relative_to(folder):
                first = Path(str(file)).relative_to(folder).parts[0]
                # An environment or another project may lie below the folder, on a path of its own.
                if Path(first).stem == name.partition(".")[0]:
                    return folder / first
        return None


def pins(*distributions: str) -> list[str]:
    """Installed distributions as ``name==version``; those that are not installed are left out."""
    found = []
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name}=={metadata.version(name).partition('+')[0]}")
    return found


def distributions_of(model: Any) -> list[str]:
    """The installed distributions whose classes and functions a model is made of."""
    recorder = _Recorder()
    recorder.dump(model)
    owners = metadata.packages_distributions()
    return sorted({owners[module][0] for module in recorder.modules if owners.get(module)})


class _Nowhere(io.RawIOBase):
    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


class _Recorder(cloudpickle.Pickler):  # type: ignore[misc]
    """Walks through a model as pickling does, and notes whose objects it meets."""

    def __init__(self) -> None:
        super().__init__(_Nowhere())
        self.modules: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        module = getattr(obj, "__module__", None) or type(obj).__module__
        if isinstance(module, str):
            self.modules.add(module.partition(".")[0])
        return super().reducer_override(obj)
