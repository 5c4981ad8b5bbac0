"""Files and folders on local and object storage: the only place for file operations.

Paths are what users write: relative or absolute, ``file:``, ``s3://`` or ``s3a://``, ``hdfs://``, ``gs://``, ``abfss://``. Where
pyarrow has no file system for a path (``dbfs:/``), ``Location.of`` returns None and the caller leaves the check to Spark.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]

# Of one call's scratch folder, and of the file in it that is locked as long as the call lasts.
_SCRATCH, _LOCK = "lakescore-", "in-use"
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
# Spark's Hadoop connectors and pyarrow name the same stores differently.
_ARROW_SCHEME = {"s3a": "s3", "s3n": "s3"}
# It takes local paths for URLs, more or less: %20 for a space, a backslash for a slash; at the others it panics.
_NO_DELTA = re.compile(r"%[0-9A-Fa-f]{2}|[\\\[\]^|]")
_CHUNK_BYTES = 1 << 20
_GLOB = re.compile(r"[*?\[{]")


def scheme_of(path: str) -> str:
    """The scheme of a path in lower case; ``file`` where there is none."""
    match = _SCHEME.match(path)
    return match.group(1).lower() if match else "file"


def absolute(path: str) -> str:
    """The path, local ones absolute, so that a later ``cd`` or another host's cwd cannot matter."""
    if scheme_of(path) != "file":
        return path
    return os.path.abspath(os.path.expanduser(local_path(path)))


def for_spark(path: str) -> str:
    """A path to write to: local ones with their scheme, or a cluster's default file system would be meant."""
    return f"file:{absolute(path)}" if scheme_of(path) == "file" else path


def for_spark_reader(path: str) -> str:
    """A path to read, of which Spark takes no character for a glob's."""
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", for_spark(path))


def closed_to_delta(path: str) -> str | None:
    """The first character in a local path that the deltalake library reads as something else, or None."""
    found = _NO_DELTA.search(path) if scheme_of(path) == "file" else None
    return found.group(0) if found else None


def overlap(path: str, pattern: str) -> bool:
    """Whether a folder, and what a path or glob names, are or may be in one another."""
    mine, other = (_parts(absolute(one)) for one in (path, pattern))
    return all(a == b or (has_glob(b) and fnmatch(a, b)) for a, b in zip(mine, other, strict=False))


def _parts(path: str) -> list[str]:
    scheme = scheme_of(path)
    if scheme == "file":
        return ["file:", *PurePosixPath(os.path.realpath(path)).parts[1:]]
    return [f"{_ARROW_SCHEME.get(scheme, scheme)}:", *(part for part in path[len(scheme) + 1 :].split("/") if part)]


def local_path(path: str) -> str:
    """A ``file:`` URI or a plain path as a plain path."""
    if not path.lower().startswith("file:"):
        return path
    return unquote(urlsplit(path).path)


def has_glob(path: str) -> bool:
    """Whether Spark would read the path as a pattern."""
    return bool(_GLOB.search(path))


def is_hidden(name: str) -> bool:
    """Whether Spark's readers skip a file or folder of this name."""
    return (name.startswith("_") and "=" not in name) or name.startswith(".") or name.endswith("._COPYING_")


@contextlib.contextmanager
def scratch_folder(within: str | None = None) -> Iterator[Path]:
    """An empty local folder for one call, in the system's for temporary files; what cannot be removed at its end stays, without an error.

    Those of processes that were killed are removed first: each holds a lock that ends with its process, however that ends.
    """
    above = within or tempfile.gettempdir()
    _remove_abandoned(Path(above))
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=above, ignore_cleanup_errors=True) as folder, _locked(Path(folder)):
        yield Path(folder) / "files"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    (folder / "files").mkdir()
    if fcntl is None:
        yield
        return
    with (folder / _LOCK).open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.write("locked")
            lock.flush()
        yield


def _remove_abandoned(above: Path) -> None:
    """Remove scratch folders whose lock nobody holds any more."""
    if fcntl is None:
        return
    for path in above.glob(f"{_SCRATCH}*/{_LOCK}"):
        with contextlib.suppress(OSError), path.open("r+") as lock:
            # An empty one is not locked yet, or never was.
            if lock.read() and os.fstat(lock.fileno()).st_uid == os.getuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)


@dataclass(frozen=True)
class File:
    """One file: its full path on its file system, bytes, and modification time in milliseconds since 1970."""

    path: str
    size: int
    modified_ms: int


@dataclass(frozen=True)
class Location:
    """A path on a file system that this process can reach."""

    fs: pafs.FileSystem
    path: str

    @classmethod
    def of(cls, path: str) -> Location | None:
        """The location of a path, or None where pyarrow has no file system for it."""
        scheme = scheme_of(path)
        if scheme == "file":
            return cls(pafs.LocalFileSystem(), absolute(path))
        uri = path if scheme not in _ARROW_SCHEME else _ARROW_SCHEME[scheme] + path[len(scheme) :]
        try:
            fs, inner = pafs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError):
            return None
        return cls(fs, inner)

    def __truediv__(self, name: str) -> Location:
        return Location(self.fs, str(PurePosixPath(self.path) / name))

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    def exists(self) -> bool:
        return bool(self._info().type != pafs.FileType.NotFound)

    def is_dir(self) -> bool:
        return bool(self._info().type == pafs.FileType.Directory)

    def _info(self) -> pafs.FileInfo:
        return self.fs.get_file_info(self.path)

    def nearest_above(self) -> Location:
        """The nearest folder or file above that exists."""
        parents = (Location(self.fs, str(parent)) for parent in PurePosixPath(self.path).parents)
        return next((parent for parent in parents if parent.exists()), Location(self.fs, "/"))

    def children(self) -> list[Location]:
        """What lies directly in a folder, sorted by name; nothing where there is no folder."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        return [Location(self.fs, info.path) for info in sorted(self.fs.get_file_info(selector), key=lambda i: i.path)]

    def files(self) -> Iterator[File]:
        """All files below a folder but hidden ones (``_x``, ``.x``), or the file itself."""
        info = self._info()
        if info.type == pafs.FileType.File:
            yield _file(info)
            return
        selector = pafs.FileSelector(self.path, recursive=True, allow_not_found=True)
        root = self.path.rstrip("/") + "/"
        for found in sorted(self.fs.get_file_info(selector), key=lambda i: i.path):
            relative = found.path.removeprefix(root)
            if found.type == pafs.FileType.File and not any(map(is_hidden, relative.split("/"))):
                yield _file(found)

    def read_text(self) -> str:
        with self.fs.open_input_stream(self.path) as stream:
            return bytes(stream.readall()).decode("utf-8")

    def write_text(self, text: str) -> None:
        """Write a small file so that it appears complete or not at all (a rename, where the store has one)."""
        content = text.encode("utf-8")
        parent = str(PurePosixPath(self.path).parent)
        self.fs.create_dir(parent, recursive=True)
        beside = Location(self.fs, f"{parent}/.{self.name}.{uuid.uuid4().hex[:12]}.tmp")
        try:
            with self.fs.open_output_stream(beside.path) as stream:
                stream.write(content)
            self.fs.move(beside.path, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.remove()
            raise

    def remove_unfinished(self) -> None:
        """Remove what a ``write_text`` that was killed left beside the file."""
        parent = Location(self.fs, str(PurePosixPath(self.path).parent))
        for other in parent.children():
            if other.name.startswith(f".{self.name}.") and other.name.endswith(".tmp"):
                other.remove()

    def size(self) -> int:
        """Bytes of a file."""
        return int(self._info().size or 0)

    def chunks(self) -> Iterator[bytes]:
        """A file's content, piece by piece."""
        with self.fs.open_input_stream(self.path) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield bytes(chunk)

    def write_chunks(self, chunks: Iterable[bytes]) -> None:
        """Write a new file piece by piece; on a disk it has reached the disk when this returns."""
        self.fs.create_dir(str(PurePosixPath(self.path).parent), recursive=True)
        if self.is_local:
            with open(self.path, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            return
        with self.fs.open_output_stream(self.path) as stream:
            for chunk in chunks:
                stream.write(chunk)

    def publish_as(self, target: Location, replace: bool) -> None:
        """Give a complete file its final name in one step; in place of what is there only with ``replace``.

        Raises:
            FileExistsError: there is a file at the target already, and it is not to be replaced.
        """
        if not self.is_local:
            if not replace and target.exists():
                raise FileExistsError(target.path)
            self.fs.move(self.path, target.path)
            return
        if replace:
            os.replace(self.path, target.path)
        else:
            self._link_as(target)
        _sync_folder(os.path.dirname(target.path))

    def _link_as(self, target: Location) -> None:
        """A rename that refuses to replace: of two runs that race, one gets the name."""
        try:
            os.link(self.path, target.path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            # A file system without hard links.
            if target.exists():
                raise FileExistsError(target.path) from error
            os.rename(self.path, target.path)
        else:
            os.unlink(self.path)

    def move_to(self, target: Location) -> None:
        """Rename; the target's parent is made, and a target that exists is refused.

        Raises:
            FileExistsError: there is something at the target already.
        """
        for last in (False, True):
            target.fs.create_dir(str(PurePosixPath(target.path).parent), recursive=True)
            if target.exists():
                raise FileExistsError(target.path)
            try:
                self.fs.move(self.path, target.path)
            except OSError as error:
                # Two runs may race: rename(2) refuses a folder that is not empty, and that is the answer.
                if target.exists():
                    raise FileExistsError(target.path) from error
                # Or another run has just tidied the parent away, which was empty for a moment.
                if last or not self.exists():
                    raise
            else:
                return

    def remove(self) -> None:
        """Remove a file or a folder with all that is in it; nothing happens where there is none."""
        info = self._info()
        if info.type == pafs.FileType.Directory:
            self.fs.delete_dir(self.path)
        elif info.type == pafs.FileType.File:
            self.fs.delete_file(self.path)

    def remove_empty(self) -> None:
        """Remove a folder and those in it, as far as they hold no files; as ``remove_if_empty`` does."""
        if self.is_local and self.is_dir():
            for child in self.children():
                child.remove_empty()
            self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Remove a folder that holds nothing, hidden files included; another run's file that lands meanwhile stays.

        Object stores have no empty folders, and their removal would not be atomic.
        """
        if self.is_local:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)


def _sync_folder(path: str) -> None:
    """Have a new name survive a power failure, where the file system knows how."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _file(info: pafs.FileInfo) -> File:
    return File(info.path, int(info.size), int(info.mtime_ns // 1_000_000) if info.mtime_ns else 0)


def expand(path: str) -> list[Location] | None:
    """The files or folders that a path or local glob names, sorted; None where only Spark can tell."""
    location = Location.of(path)
    if location is None or (has_glob(path) and not location.is_local):
        return None
    if not has_glob(path) or location.exists():
        return [location] if location.exists() else []
    if "{" in path:
        return None  # Hadoop's {a,b} alternatives are no part of Python's globs
    found = [path for path in sorted(glob.glob(location.path)) if not _is_hidden_match(location.path, path)]
    return [Location(location.fs, path) for path in found]


def _is_hidden_match(pattern: str, found: str) -> bool:
    """Whether a glob matched a name that readers skip, without asking for it: ``*`` is not meant to find ``_SUCCESS``."""
    parts = zip(PurePosixPath(pattern).parts, PurePosixPath(found).parts, strict=False)
    return any(is_hidden(part) and not is_hidden(asked) for asked, part in parts)
