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
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from lakescore import object_store
from lakescore.console import on_databricks
from lakescore.errors import ConfigError

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]

# Of one call's scratch folder, and of the file in it that is locked as long as the call lasts.
_SCRATCH, _LOCK = "lakescore-", "in-use"
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):")
# It takes local paths for URLs, more or less: %20 for a space, a backslash for a slash; at the others it panics.
_NO_DELTA = re.compile(r"%[0-9A-Fa-f]{2}|[\\\[\]^|]")
_ENCODED = re.compile(r"%[0-9A-Fa-f]{2}")
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


def checked(path: str) -> str:
    """The path, unless no file system takes it.

    Raises:
        ConfigError: it holds a NUL, or bytes that are no UTF-8.
    """
    if "\0" in path or (not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path)):
        raise ConfigError(f"{path!r}: holds {'a NUL' if chr(0) in path else 'bytes that are no UTF-8'}")
    return path


def for_spark(path: str) -> str:
    """A path to write to: local ones with their scheme, or a cluster's default file system would be meant."""
    if scheme_of(path) != "file":
        return path
    # Databricks mounts Unity Catalog's volumes for Python; its Spark knows them by themselves, and not as files of a machine.
    return absolute(path) if on_databricks() and absolute(path).startswith("/Volumes/") else f"file:{absolute(path)}"


def for_spark_reader(path: str) -> str:
    """A path to read, of which Spark takes no character for a glob's."""
    return re.sub(r"([\\*?\[\]{}])", r"\\\1", for_spark(path))


def closed_to_delta(path: str) -> str | None:
    """The first character in a path that the deltalake library reads as something else, or None."""
    found = (_NO_DELTA if scheme_of(path) == "file" else _ENCODED).search(path)
    return found.group(0) if found else None


def overlap(path: str, pattern: str) -> bool:
    """Whether a folder, and what a path or glob names, are or may be in one another."""
    mine, other = (_parts(absolute(one)) for one in (path, pattern))
    return all(a == b or (has_glob(b) and fnmatch(a, as_glob(b))) for a, b in zip(mine, other, strict=False))


def is_same(path: str, other: str) -> bool:
    """Whether two paths name one place."""
    return _parts(absolute(path)) == _parts(absolute(other))


def _parts(path: str) -> list[str]:
    scheme = scheme_of(path)
    if scheme == "file":
        return ["file:", *PurePosixPath(os.path.realpath(path)).parts[1:]]
    return [f"{'s3' if scheme in object_store.SCHEMES else scheme}:", *(part for part in path[len(scheme) + 1 :].split("/") if part)]


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
class Extent:
    """What lies below a folder, hidden files too: their number, bytes, and the newest change in milliseconds since 1970 (0: unknown)."""

    files: int
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
        try:
            if scheme in object_store.SCHEMES:
                bucket, inner = bucket_of(path), path.partition("://")[2].rstrip("/")
                if "@" in bucket:
                    raise ConfigError(f"{path}: keys do not belong into a path; S3's come from the environment, a profile or a role")
                return cls(object_store.filesystem(bucket), inner) if bucket else None
            fs, inner = pafs.FileSystem.from_uri(path)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, ValueError):
            return None
        return cls(fs, inner)

    def __truediv__(self, name: str) -> Location:
        return Location(self.fs, str(PurePosixPath(self.path) / name))

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name

    @property
    def parent(self) -> Location:
        """The folder that it is in."""
        return Location(self.fs, self.path.rstrip("/").rpartition("/")[0] or "/")

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    @property
    def has_renames(self) -> bool:
        """Whether a rename is one step, of a folder too; an object store copies file by file."""
        return self.fs.type_name in ("local", "hdfs")

    @property
    def _is_s3(self) -> bool:
        return object_store.is_s3(self.fs)

    def require_writer(self) -> None:
        """Look whether what writes to the store is installed.

        Raises:
            PlatformError: it is not.
        """
        if self._is_s3:
            object_store.require_client()

    def exists(self) -> bool:
        return bool(self._info().type != pafs.FileType.NotFound)

    def is_dir(self) -> bool:
        return bool(self._info().type == pafs.FileType.Directory)

    def _info(self) -> pafs.FileInfo:
        if not self._is_s3:
            return self.fs.get_file_info(self.path)
        with object_store.explained():
            info = self.fs.get_file_info(self.path)
            if info.type == pafs.FileType.NotFound:
                object_store.require_bucket(self.path.partition("/")[0])
            return info

    def _listed(self, recursive: bool = False) -> list[pafs.FileInfo]:
        """What is in a folder, sorted by name; nothing where there is no folder."""
        selector = pafs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        with object_store.explained() if self._is_s3 else contextlib.nullcontext():
            return sorted(self.fs.get_file_info(selector), key=lambda info: info.path)

    def nearest_above(self) -> Location:
        """The nearest folder or file above that exists."""
        parents = (Location(self.fs, str(parent)) for parent in PurePosixPath(self.path).parents)
        return next((parent for parent in parents if parent.exists()), Location(self.fs, "/"))

    def children(self) -> list[Location]:
        """What lies directly in a folder, sorted by name; nothing where there is no folder."""
        return [Location(self.fs, info.path) for info in self._listed()]

    def files(self, strict: bool = False) -> Iterator[File]:
        """All files below a folder but hidden ones (``_x``, ``.x``), or the file itself.

        Raises:
            OSError: ``strict``, and something is neither a file nor a folder: a broken link, a pipe, a device.
        """
        info = self._info()
        if info.type == pafs.FileType.File:
            yield _file(info)
            return
        if strict and info.type == pafs.FileType.Unknown:
            raise OSError("it is a pipe or a device, and no file")
        if strict and self.is_local:
            _refuse_broken_links(self.path)
        root = self.path.rstrip("/") + "/"
        for found in self._listed(recursive=True):
            relative = found.path.removeprefix(root)
            if found.type == pafs.FileType.Directory or any(map(is_hidden, relative.split("/"))):
                continue
            if found.type == pafs.FileType.File:
                yield _file(found)
            elif strict:
                raise OSError(f"{found.path} is a pipe or a device, and no file")

    def extent(self) -> Extent:
        """How much a file or folder holds, and when something in it last changed."""
        below = self._listed(recursive=True) if self.is_dir() else []
        found = [self._info(), *below]
        files = [info for info in found if info.type == pafs.FileType.File]
        return Extent(len(files), sum(info.size for info in files), max(info.mtime_ns or 0 for info in found) // 1_000_000)

    def read_text(self) -> str:
        """A small file's content.

        Raises:
            FileNotFoundError: there is no file.
        """
        try:
            with self.fs.open_input_stream(self.path) as stream:
                return bytes(stream.readall()).decode("utf-8")
        except OSError as error:
            # pyarrow asks S3 for the size first: a file that goes between its requests is an error of another kind.
            if self._is_s3 and not self.exists():
                raise FileNotFoundError(self.path) from error
            raise

    def write_text(self, text: str) -> None:
        """Write a small file so that it appears complete or not at all."""
        content = text.encode("utf-8")
        if self._is_s3:
            object_store.put(self.path, content)
            return
        with self._written_beside(content) as beside:
            self.fs.move(beside.path, self.path)

    def create_text(self, text: str) -> None:
        """The same where there is no file of the name: of several that try at once one succeeds.

        On stores other than S3 that have no rename, a file that another writes in the very moment is overwritten.

        Raises:
            FileExistsError: there is one.
        """
        content = text.encode("utf-8")
        if self._is_s3:
            object_store.create(self.path, content)
            return
        with self._written_beside(content) as beside:
            beside.publish_as(self, replace=False)

    @contextlib.contextmanager
    def _written_beside(self, content: bytes) -> Iterator[Location]:
        """A hidden file beside this one, which is to get its name."""
        parent = str(PurePosixPath(self.path).parent)
        beside = Location(self.fs, f"{parent}/.{self.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
        for last in (False, True):
            try:
                beside.write_chunks([content])
                break
            except FileNotFoundError:
                if last:  # else another run has just tidied the folder away, which was empty for a moment
                    raise
        try:
            yield beside
        except BaseException:
            with contextlib.suppress(OSError):
                beside.remove()
            raise

    def _make_folder(self, path: str) -> None:
        if self.has_renames:  # an object store has no folders, only markers that would be left behind
            self.fs.create_dir(path, recursive=True)

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
        self._make_folder(str(PurePosixPath(self.path).parent))
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
        if self._is_s3:
            (object_store.copy if replace else object_store.copy_new)(self.path, target.path)
            self.remove()
            return
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

    def copy_to(self, target: Location) -> None:
        """Copy a file inside the store, in place of what is there; it appears complete.

        Raises:
            FileNotFoundError: there is no file here.
        """
        if self._is_s3:
            object_store.copy(self.path, target.path)
        else:
            self.fs.copy_file(self.path, target.path)

    def remove_files(self, names: Collection[str]) -> None:
        """Remove files by their paths below this folder; what is gone already is no error."""
        paths = [(self / name).path for name in names]
        if self._is_s3:
            object_store.remove(paths)
            return

        def remove(path: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self.fs.delete_file(path)

        with ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(remove, paths))

    def remove(self) -> None:
        """Remove a file or a folder with all that is in it; nothing happens where there is none."""
        if self._is_s3:
            object_store.remove([self.path])
            object_store.remove_below(self.path)
            return
        for last in (False, False, True):
            info = self._info()
            try:
                if info.type == pafs.FileType.Directory:
                    self.fs.delete_dir(self.path)
                elif info.type == pafs.FileType.File:
                    self.fs.delete_file(self.path)
                return
            except FileNotFoundError:  # another run removes the same in this moment
                if last:
                    raise

    def remove_if_empty(self) -> None:
        """Remove a folder that holds nothing, hidden files included; another run's file that lands meanwhile stays.

        Object stores have no empty folders, and their removal would not be atomic.
        """
        if self.is_local:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)


def bucket_of(path: str) -> str:
    """The bucket, or the host, of a path with a scheme."""
    return path.partition("://")[2].partition("/")[0]


def delta_options(path: str) -> dict[str, str] | None:
    """What the deltalake library is told of a table's store."""
    return object_store.delta_options(bucket_of(path)) if scheme_of(path) in object_store.SCHEMES else None


def _sync_folder(path: str) -> None:
    """Have a new name survive a power failure, where the file system knows how."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refuse_broken_links(folder: str) -> None:
    """pyarrow leaves them out without a word."""
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if is_hidden(entry.name):
            continue
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise OSError(f"{entry.path} is a link that leads nowhere")
        if entry.is_dir(follow_symlinks=False):
            _refuse_broken_links(entry.path)


def _file(info: pafs.FileInfo) -> File:
    return File(info.path, int(info.size), int(info.mtime_ns // 1_000_000) if info.mtime_ns else 0)


def as_glob(pattern: str) -> str:
    """A glob as Hadoop writes it as Python does: there ``[^a]`` is what is no ``a``."""
    return pattern.replace("[^", "[!")


def expand(path: str) -> list[Location] | None:
    """The files or folders that a path or local glob names, sorted; None where only Spark can tell."""
    location = Location.of(path)
    if location is None or (has_glob(path) and not location.is_local):
        return None
    if not has_glob(path) or location.exists():
        return [location] if location.exists() else []
    if "{" in path:
        return None  # Hadoop's {a,b} alternatives are no part of Python's globs
    found = [path for path in sorted(glob.glob(as_glob(location.path))) if not _is_hidden_match(location.path, path)]
    return [Location(location.fs, path) for path in found]


def _is_hidden_match(pattern: str, found: str) -> bool:
    """Whether a glob matched a name that readers skip, without asking for it: ``*`` is not meant to find ``_SUCCESS``."""
    parts = zip(PurePosixPath(pattern).parts, PurePosixPath(found).parts, strict=False)
    return any(is_hidden(part) and not is_hidden(asked) for asked, part in parts)
