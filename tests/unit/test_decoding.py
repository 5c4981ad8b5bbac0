"""What the workers make of a file's bytes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyspark import cloudpickle

from lakescore import decoding
from lakescore.config import ImageConfig
from lakescore.decoding import DecodingError, check_image, image, level_table, text


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes, **keys: Any) -> np.ndarray[Any, Any]:
    config = ImageConfig.model_validate(keys)
    options = config.model_dump()
    return image(content, "a.png", options, level_table(options)).reshape(config.shape or ())


def noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# --- images


@pytest.mark.parametrize(("mode", "shape"), [("L", (4, 5)), ("RGB", (4, 5, 3))])
@pytest.mark.parametrize("layout", ["chw", "hwc"])
def test_pixels_come_in_the_configured_layout(mode: str, shape: tuple[int, ...], layout: str) -> None:
    pixels = noise(*shape)

    found = decoded(encoded(Image.fromarray(pixels)), size=[4, 5], mode=mode, layout=layout)

    channels_last = pixels.reshape(4, 5, -1).astype(np.float32)
    np.testing.assert_array_equal(found, channels_last.transpose(2, 0, 1) if layout == "chw" else channels_last)
    assert found.dtype == np.float32


def test_scale_mean_and_std_give_what_torchvisions_tensors_hold_bit_for_bit() -> None:
    pixels = noise(16, 16, 3)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    found = decoded(encoded(Image.fromarray(pixels)), size=[16, 16], scale="1/255", mean=mean, std=std)

    # The definitions of torchvision's ToTensor and Normalize.
    tensor = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div(255)
    expected = tensor.sub(torch.tensor(mean).view(-1, 1, 1)).div(torch.tensor(std).view(-1, 1, 1))
    np.testing.assert_array_equal(found, expected.numpy())


def test_an_image_of_another_size_is_resized_as_pillow_does() -> None:
    picture = Image.fromarray(noise(8, 8))

    found = decoded(encoded(picture), size=[20, 30], mode="L")

    np.testing.assert_array_equal(found[0], np.asarray(picture.resize((30, 20), Image.Resampling.BILINEAR)))


def test_a_photo_is_turned_upright_by_its_exif_orientation() -> None:
    picture = Image.fromarray(noise(2, 3))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees

    found = decoded(encoded(picture, exif=exif), size=[3, 2], mode="L")

    np.testing.assert_array_equal(found[0], np.rot90(np.asarray(picture), -1))


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]

    found = decoded(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), size=[4, 4], mode="L")

    assert set(found.ravel().tolist()) == {10.0}


def test_of_16_bits_the_upper_8_stay() -> None:
    deep = np.array([[0, 255, 256, 65535]], np.uint16)

    found = decoded(encoded(Image.fromarray(deep)), size=[1, 4], mode="L")

    assert found.ravel().tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_are_converted_as_pillow_does(mode: str) -> None:
    picture = Image.fromarray(noise(6, 6, 3)).convert(mode)
    content = encoded(picture, "TIFF" if mode == "CMYK" else "PNG")

    for wanted in ("L", "RGB"):
        found = decoded(content, size=[6, 6], mode=wanted, layout="hwc")
        np.testing.assert_array_equal(found.squeeze(), np.asarray(picture.convert(wanted)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is no image of a format that Pillow knows; choose the images with source.options.pathGlobFilter"),
        (b"hello", "it is no image of a format that Pillow knows; choose the images with source.options.pathGlobFilter"),
        (
            encoded(Image.fromarray(noise(64, 64)))[:2000],
            "unrecognized data stream contents when reading image file|image file is truncated.*",
        ),
        (encoded(Image.fromarray(noise(64, 64)), "JPEG")[:900], "image file is truncated .*"),
        (
            encoded(Image.fromarray(noise(4, 4)).convert("I"), "TIFF"),
            "its pixels are 32-bit integers, of no known range; save it with 8 or 16 bits",
        ),
    ],
)
def test_a_broken_image_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(
        DecodingError, match=rf"^\[lakescore:input\] source.path: a.png cannot be read as an image: ({reason}) \[/lakescore\]$"
    ):
        decoded(content, size=[4, 4])


def test_pillows_limit_against_decompression_bombs_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    with pytest.raises(DecodingError, match=r"a.png .*Image size \(256 pixels\) exceeds limit of 200 pixels, could be decompression bomb"):
        decoded(encoded(Image.fromarray(noise(16, 16))), size=[4, 4])


def test_an_image_that_stays_bytes_is_still_recognised() -> None:
    check_image(io.BytesIO(encoded(Image.fromarray(noise(4, 4)))), "a.png")

    with pytest.raises(DecodingError, match=r"source.path: b.txt cannot be read as an image: it is no image"):
        check_image(io.BytesIO(b"hello"), "b.txt")


# --- texts


@pytest.mark.parametrize(
    ("content", "encoding", "expected"),
    [
        ("Grüße\r\n".encode(), "UTF-8", "Grüße\r\n"),
        ("\ufeffGrüße".encode(), "UTF-8", "Grüße"),
        ("Grüße".encode("latin-1"), "ISO-8859-1", "Grüße"),
        ("Grüße".encode("utf-16"), "UTF-16", "Grüße"),
        ("\ufeffGrüße".encode("utf-16-le"), "UTF-16LE", "Grüße"),
        (b"", "UTF-8", ""),
    ],
)
def test_a_text_comes_as_it_is_without_its_byte_order_mark(content: bytes, encoding: str, expected: str) -> None:
    assert text(content, "a.txt", encoding) == expected


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (
            b"Gr\xfc\xdfe",
            "UTF-8",
            "source.path: a.txt is no UTF-8 text (byte 0xfc at position 2); set source.options.encoding, for example ISO-8859-1",
        ),
        (
            "Grüße".encode(),
            "ascii",
            "source.path: a.txt is no ascii text (byte 0xc3 at position 2); set source.options.encoding, for example UTF-8",
        ),
    ],
)
def test_a_text_in_another_encoding_is_named_with_the_byte(content: bytes, encoding: str, message: str) -> None:
    with pytest.raises(DecodingError) as caught:
        text(content, "a.txt", encoding)

    assert str(caught.value) == f"[lakescore:input] {message} [/lakescore]"


# --- the worker


def test_a_worker_decodes_without_lakescore(tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(decoding)
    options = ImageConfig(size=(2, 2), mode="L").model_dump()
    (tmp_path / "udf").write_bytes(
        cloudpickle.dumps(
            [decoding.decoder(one) for one in (decoding.image_reader(options), decoding.text_reader("UTF-8"), decoding.image_bytes)]
        )
    )
    (tmp_path / "a.png").write_bytes(encoded(Image.new("L", (2, 2), 7)))
    program = (
        "import sys; sys.modules['lakescore'] = None; import pickle, pandas as pd\n"
        "image, text, check = pickle.load(open('udf', 'rb'))\n"
        "path, content = pd.Series(['a.png']), pd.Series([open('a.png', 'rb').read()])\n"
        "print([found.tolist()[0].tolist() for found in image(iter([(path, content)]))])\n"
        "print([found.tolist() for found in text(iter([(path, pd.Series([b'a'])), (path, pd.Series([b'b']))]))])\n"
        "print([found.equals(content) for found in check(iter([(path, content)]))])\n"
    )

    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.stdout.splitlines(), done.stderr) == (["[[7.0, 7.0, 7.0, 7.0]]", "[['a'], ['b']]", "[True]"], "")
