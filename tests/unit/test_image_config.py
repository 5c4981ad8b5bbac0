"""The section ``source.image`` and the formats that give a row for each file: what they accept, and what they say."""

from __future__ import annotations

from typing import Any

import pytest

from lakescore.compose import compose
from lakescore.config import ImageConfig
from lakescore.errors import ConfigError
from lakescore.readers import check_options

BASE: dict[str, Any] = {"model": {"uri": "m"}, "source": {"path": "a", "format": "images"}, "output": {"path": "o"}}


def composed(*overrides: str) -> ImageConfig:
    found = compose((), overrides, BASE).source.image
    assert found is not None
    return found


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose((), overrides, BASE)
    return str(caught.value)


def test_every_key_can_be_given_on_the_command_line() -> None:
    found = composed(
        "source.image.size=[28, 30]",
        "source.image.mode=L",
        "source.image.layout=hwc",
        "source.image.scale=1/255",
        "source.image.mean=0.5",
        "source.image.std=[2]",
    )

    assert found == ImageConfig(size=(28, 30), mode="L", layout="hwc", scale=1 / 255, mean=(0.5,), std=(2.0,))
    assert found.shape == (28, 30, 1)


def test_a_mapping_on_the_command_line_is_the_same() -> None:
    assert composed("source.image={size: [8, 8], mode: RGB}").shape == (3, 8, 8)


def test_without_the_section_images_are_bytes() -> None:
    assert compose((), (), BASE).source.image is None
    assert composed("source.image.as=bytes").shape is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["source.image.sise=[8, 8]"], "source.image.sise: unknown key. Did you mean 'size'? (command line)"),
        (["source.image.size=[8]"], "source.image.size: got [8] (a list); must be two numbers, [height, width] (command line)"),
        (["source.image.size=[8, 0]"], "source.image.size.1: got 0 (a number); must be greater than or equal to 1 (command line)"),
        (
            ["source.image.mode=L"],
            "source.image: size is required, for example size: [28, 28] (height, width); or set as: bytes (command line)",
        ),
        (["source.image={size: [8, 8], mode: grey}"], "source.image.mode: got 'grey' (text); expected one of L, RGB (command line)"),
        (
            ["source.image={size: [8, 8], layout: cwh}"],
            "source.image.layout: got 'cwh' (text); expected one of chw, hwc. Did you mean 'chw'?",
        ),
        (["source.image={size: [8, 8], scale: 0}"], "source.image.scale: got 0 (a number); must be greater than 0 (command line)"),
        (["source.image={size: [8, 8], scale: big}"], "source.image.scale: got 'big' (text); "),
        (["source.image={size: [8, 8], mean: [1, 2]}"], "source.image: mean has 2 value(s), and mode RGB has 3 channel(s) (command line)"),
        (["source.image={size: [8, 8], mode: L, std: 0}"], "source.image: std must not be 0 (command line)"),
        (["source.image={as: bytes, size: [8, 8]}"], "source.image: size belongs to as: array; bytes are the file's own (command line)"),
        (["source.image={size: [8, 8]}", "source.format=binary"], "source: image belongs to format: images (command line)"),
        (["source.schema=a int"], "source: schema does not belong to format images, which has columns of its own (command line)"),
        (["source.format=image"], "source.format: got 'image' (text); expected one of parquet, delta, csv, json, orc, avro, images, "),
    ],
)
def test_what_is_wrong_is_named(overrides: list[str], message: str) -> None:
    assert refusal(*overrides).startswith(message)


@pytest.mark.parametrize(
    ("format_", "options", "message"),
    [
        ("images", {"pathGlobfilter": "*", "ignoreCorruptFiles": "true"}, "the images reader has no option 'ignoreCorruptFiles'. It has "),
        ("images", {"encoding": "UTF-8"}, "the images reader has no option 'encoding'"),
        ("text_files", {"encodin": "UTF-8"}, "the text_files reader has no option 'encodin'. Did you mean 'encoding'?"),
        ("text_files", {"encoding": "UTF-88"}, "there is no encoding 'UTF-88'. Did you mean 'UTF-8'?"),
        ("text_files", {"encoding": "hex"}, "there is no encoding 'hex'."),
    ],
)
def test_an_option_that_the_reader_has_not_is_refused(format_: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_options(format_, options)

    assert message in str(caught.value)


def test_the_configuration_survives_its_own_dictionary() -> None:
    config = compose((), ["source.image={size: [8, 8], scale: 1/255}"], BASE)

    assert compose(values=config.to_dict()) == config
