"""Files and folders as users name them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lakescore.storage import Location, absolute, expand, for_spark, for_spark_reader, has_glob, overlap, scheme_of, scratch_folder


def at(path: Path) -> Location:
    location = Location.of(str(path))
    assert location is not None
    return location


@pytest.mark.parametrize("name", ["plain", "a b", "grün", "a%20b", "a#b"])
def test_a_written_text_is_read_back_under_any_name(name: str, tmp_path: Path) -> None:
    at(tmp_path / name / "file.txt").write_text("füñf\n")

    assert (tmp_path / name / "file.txt").read_text(encoding="utf-8") == "füñf\n"
    assert at(tmp_path / name / "file.txt").read_text() == "füñf\n"


def test_a_written_text_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    at(tmp_path / "a").write_text("old")

    at(tmp_path / "a").write_text("new")

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "new")]


def test_a_text_that_cannot_be_encoded_leaves_the_old_one_and_nothing_beside_it(tmp_path: Path) -> None:
    at(tmp_path / "a").write_text("old")

    with pytest.raises(UnicodeEncodeError):
        at(tmp_path / "a").write_text("half \ud800")

    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


def test_a_text_that_cannot_take_its_place_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)

    with pytest.raises(OSError, match="Failed renaming"):
        at(tmp_path / "a").write_text("x")

    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    assert (absolute("~/a"), absolute("~")) == (f"{tmp_path}/a", str(tmp_path))


def test_a_tilde_inside_a_path_is_a_letter() -> None:
    assert absolute("/x/~a/~") == "/x/~a/~"


@pytest.mark.parametrize("uri", ["file:/x/a%20b", "file:///x/a%20b", "FILE:///x/a%20b", "/x/a b"])
def test_a_file_uri_is_a_plain_path(uri: str) -> None:
    assert absolute(uri) == "/x/a b"


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert absolute("a/../b") == str(tmp_path / "b")


def test_a_path_of_an_object_store_stays_as_it_is() -> None:
    assert (scheme_of("S3A://bucket/x"), absolute("s3a://bucket/x")) == ("s3a", "s3a://bucket/x")


def test_a_scheme_that_pyarrow_does_not_know_has_no_location() -> None:
    assert Location.of("dbfs:/x") is None


def test_hidden_files_are_not_listed(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "_SUCCESS", ".a.crc", "_log/x.csv", "_day=1/c.csv"):
        at(tmp_path / name).write_text("x")

    shown = [Path(file.path).relative_to(tmp_path).as_posix() for file in at(tmp_path).files()]

    assert shown == ["_day=1/c.csv", "a.csv", "b.csv"]


def test_a_glob_finds_sorted_names_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b", "a", "_SUCCESS", ".c"):
        (tmp_path / name).touch()

    found = expand(f"{tmp_path}/*")

    assert [location.name for location in found or []] == ["a", "b"]


def test_a_glob_excludes_characters_as_hadoop_writes_it(tmp_path: Path) -> None:
    for name in ("part-1", "part-9"):
        (tmp_path / name).touch()

    assert [place.name for place in expand(f"{tmp_path}/part-[^9]") or ()] == ["part-1"]


def test_a_glob_that_asks_for_hidden_names_finds_them(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").touch()

    assert [location.name for location in expand(f"{tmp_path}/_*") or []] == ["_SUCCESS"]


def test_a_file_whose_name_looks_like_a_glob_is_found_as_it_is_written(tmp_path: Path) -> None:
    for name in ("a[1]", "a1"):
        (tmp_path / name).touch()

    assert [location.name for location in expand(f"{tmp_path}/a[1]") or []] == ["a[1]"]


@pytest.mark.parametrize("name", ["a b", "grün", "e\u0301", "a{b", "100%", "a#b"])
def test_a_file_of_any_name_is_found_by_it_and_by_a_glob(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()

    assert [location.name for location in expand(f"{tmp_path}/{name}") or []] == [name]
    assert [location.name for location in expand(f"{tmp_path}/*") or []] == [name]


def test_a_file_uri_is_expanded_to_its_path(tmp_path: Path) -> None:
    (tmp_path / "a b").touch()

    assert [location.path for location in expand(f"file://{tmp_path}/a%20b") or []] == [f"{tmp_path}/a b"]


@pytest.mark.parametrize("path", ["dbfs:/x", "/data/{a,b}"])
def test_what_only_spark_can_tell_is_left_to_it(path: str) -> None:
    assert expand(path) is None


def test_a_path_without_a_file_names_nothing(tmp_path: Path) -> None:
    assert expand(str(tmp_path / "missing")) == []


@pytest.mark.parametrize(("path", "glob"), [("a*", True), ("a?", True), ("a[1]", True), ("{a,b}", True), ("a b-c", False)])
def test_a_glob_is_recognised_and_its_characters_can_be_escaped(path: str, glob: bool) -> None:
    assert (has_glob(path), "\\" in for_spark_reader(path)) == (glob, glob)


def test_spark_is_told_the_scheme_of_a_local_path_and_no_other_is_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    assert for_spark("a [1]") == f"file:{tmp_path}/a [1]"
    assert for_spark_reader("file:///a%20[1]") == r"file:/a \[1\]"
    assert for_spark("s3a://bucket/a") == "s3a://bucket/a"


@pytest.mark.parametrize(
    ("path", "pattern", "answer"),
    [
        ("/data/out", "/data/out", True),
        ("/data/out/", "file:/data/out", True),
        ("/data", "/data/in/x.csv", True),
        ("/data/out/deep", "/data/out", True),
        ("/data/out", "/data/*", True),
        ("/data/out", "/data/o?t/day=*/x.parquet", True),
        ("/data/out", "/data/outer", False),
        ("/data/out", "/data/in*", False),
        ("s3a://bucket/a", "s3://bucket/a/b", True),
        ("s3://bucket/a", "s3://other/a", False),
        ("/bucket/a", "s3://bucket/a", False),
    ],
)
def test_folders_that_are_or_may_be_in_one_another_overlap(path: str, pattern: str, answer: bool) -> None:
    assert overlap(path, pattern) is answer


def test_a_link_to_a_folder_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert overlap(str(tmp_path / "link"), str(tmp_path / "real" / "x.csv"))


def test_a_move_makes_the_parent_of_its_target(tmp_path: Path) -> None:
    at(tmp_path / "a").write_text("x")

    at(tmp_path / "a").move_to(at(tmp_path / "new" / "b"))

    assert (tmp_path / "new" / "b").read_text() == "x"
    assert not (tmp_path / "a").exists()


def test_a_move_refuses_a_target_that_exists(tmp_path: Path) -> None:
    at(tmp_path / "a").write_text("x")
    at(tmp_path / "b").write_text("kept")

    with pytest.raises(FileExistsError, match=r"/b$"):
        at(tmp_path / "a").move_to(at(tmp_path / "b"))

    assert (tmp_path / "b").read_text() == "kept"


def test_a_move_refuses_a_folder_that_exists_even_if_it_is_empty(tmp_path: Path) -> None:
    at(tmp_path / "a" / "x").write_text("x")
    (tmp_path / "b").mkdir()

    with pytest.raises(FileExistsError, match=r"/b$"):
        at(tmp_path / "a").move_to(at(tmp_path / "b"))

    assert (tmp_path / "a" / "x").exists()


def test_a_move_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        at(tmp_path / "missing").move_to(at(tmp_path / "b"))


def test_a_files_size_and_time_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12345")
    os.utime(tmp_path / "a", ns=(0, 1_700_000_000_123_000_000))

    (file,) = at(tmp_path).files()

    assert (file.size, file.modified_ms) == (5, 1_700_000_000_123)


def test_a_file_is_listed_as_itself_even_if_it_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "_a").touch()

    assert [file.path for file in at(tmp_path / "_a").files()] == [f"{tmp_path}/_a"]


def test_nothing_is_listed_where_there_is_no_folder(tmp_path: Path) -> None:
    assert (at(tmp_path / "missing").children(), list(at(tmp_path / "missing").files())) == ([], [])


def test_only_an_empty_folder_is_removed_as_empty(tmp_path: Path) -> None:
    at(tmp_path / "full" / ".hidden").write_text("x")
    (tmp_path / "empty").mkdir()

    for name in ("full", "empty", "missing"):
        at(tmp_path / name).remove_if_empty()

    assert [location.name for location in at(tmp_path).children()] == ["full"]


def test_removing_takes_folders_with_all_in_them_and_passes_over_what_is_not_there(tmp_path: Path) -> None:
    at(tmp_path / "a" / "b").write_text("x")

    at(tmp_path / "a").remove()
    at(tmp_path / "a").remove()

    assert at(tmp_path).children() == []


HOLDS = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from lakescore import storage
with storage.scratch_folder() as folder:
    (folder / "model.bin").write_text("large")
    print(folder, flush=True)
    input()
"""


def test_the_scratch_folder_of_a_killed_process_is_removed_by_the_next_one_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "lakescore-others").mkdir()
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        folder = Path(started.stdout.readline().strip())
        with scratch_folder():
            assert (folder / "model.bin").exists()
        started.kill()

    with scratch_folder() as mine:
        assert not folder.exists()
        assert mine.is_dir()

    assert [path.name for path in tmp_path.iterdir()] == ["lakescore-others"]


def test_a_volume_of_databricks_is_no_file_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert for_spark("/Volumes/main/ml/in") == "file:/Volumes/main/ml/in"

    monkeypatch.setenv("DATABRICKS_RUNTIME_VERSION", "17.3")

    assert [for_spark(path) for path in ("/Volumes/main/ml/in", "/tmp/in")] == ["/Volumes/main/ml/in", "file:/tmp/in"]
