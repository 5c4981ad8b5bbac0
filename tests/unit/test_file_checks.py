"""Files of which each becomes a row, looked at before Spark starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lakescore.config import SourceConfig
from lakescore.errors import InputError
from lakescore.inspection import Inspection, inspect


def looked_at(path: Path | str | list[str], format_: str, **keys: Any) -> Inspection:
    return inspect(SourceConfig.model_validate({"path": path if isinstance(path, list) else str(path), "format": format_, **keys}))


def refusal(path: Path | str | list[str], format_: str, **keys: Any) -> str:
    with pytest.raises(InputError) as caught:
        looked_at(path, format_, **keys)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images in folders, and what readers skip."""
    for name in ("a.png", "deep/er/b.jpg", ".DS_Store", "_tmp/c.txt", ".hidden/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for name in ("a.png", "deep/er/b.jpg"):
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    return tmp_path


def test_a_web_server_is_no_place_to_read_from() -> None:
    assert refusal("https://example.org/data.csv", "binary") == (
        "source.path: https://example.org/data.csv is on a web server, whose files Spark cannot list; download it first (curl -O URL) and "
        "give the file, or in Python give the data: score(..., data=pandas.read_csv(URL))"
    )


@pytest.mark.parametrize("format_", ["images", "binary"])
def test_all_files_below_a_folder_are_counted_but_hidden_ones(folder: Path, format_: str) -> None:
    found = looked_at(folder, format_)

    assert (found.files, found.rows) == (2, 2)


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")

    assert refusal(folder, "images") == (
        f"source.path: {folder}/notes.txt cannot be read as an image: it is no image of a format that Pillow knows; choose the images "
        "with source.options.pathGlobFilter"
    )


def test_a_glob_filter_with_alternatives_chooses_the_images(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")

    assert looked_at(folder, "images", options={"pathGlobFilter": "*.{png,jp{e,}g}"}).files == 2


def test_a_filter_may_choose_so_nothing_is_refused_before_it(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")

    assert looked_at(folder, "images", filter="path not like '%.txt'").files == 3


@pytest.mark.parametrize("options", [{}, {"pathGlobFilter": "*.gif"}])
def test_no_file_is_refused(tmp_path: Path, options: dict[str, str]) -> None:
    if options:
        Image.new("L", (1, 1)).save(tmp_path / "a.png")

    assert refusal(tmp_path, "images", options=options) == f"source.path: there is no file in {tmp_path}"


def test_no_match_is_refused(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/*.png", "images") == f"source.path: no file matches {tmp_path}/*.png"


def test_a_folder_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()

    assert refusal(tmp_path / "digit", "images").endswith("Did you mean 'digits'?")


def test_a_hidden_file_that_is_asked_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_a.txt").write_text("x")

    assert refusal(tmp_path / "_a.txt", "text_files") == (
        f"source.path: Spark would leave out {tmp_path}/_a.txt, because its name begins with . or _; give it another"
    )


def test_a_file_that_would_be_read_twice_is_refused(folder: Path) -> None:
    message = refusal([str(folder), str(folder / "deep")], "images")

    assert message == f"source.path: {folder}/deep/er/b.jpg would be read twice; list it, or what it is in, once"


@pytest.mark.parametrize("before", ["", "x" * (1 << 20)])
def test_a_text_in_another_encoding_is_named_with_the_byte(tmp_path: Path, before: str) -> None:
    (tmp_path / "a.txt").write_bytes(f"{before}Gr".encode() + b"\xfc\xdfe")

    assert refusal(tmp_path, "text_files") == (
        f"source.path: {tmp_path}/a.txt is no UTF-8 text (byte 0xfc at position {len(before) + 2}); set source.options.encoding, for "
        "example ISO-8859-1"
    )


def test_a_character_between_two_blocks_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * ((1 << 20) - 1) + "ü".encode())

    assert looked_at(tmp_path, "text_files").files == 1


def test_a_text_that_ends_within_a_character_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"Gr\xc3")

    assert "is no UTF-8 text (byte 0xc3 at position 2)" in refusal(tmp_path, "text_files")


def test_a_text_in_the_configured_encoding_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Grüße".encode("latin-1"))

    assert looked_at(tmp_path, "text_files", options={"encoding": "latin-1"}).rows == 1


def test_a_compressed_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(b"")

    assert "a.txt.gz is compressed; unpack it" in refusal(tmp_path, "text_files")
