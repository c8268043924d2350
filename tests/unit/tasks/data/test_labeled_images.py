"""Images of any kind are read upright as bytes or refused in one line; lists of names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.data.labeled_images import image_size, read_image, read_names

RAMP = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
# What a camera writes, and what numpy makes of the stored pixels (EXIF 2.3, tag 274).
ORIENTATIONS = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_an_image_is_upright(tmp_path: Path, orientation: int, suffix: str):
    image, path = Image.fromarray(RAMP), tmp_path / f"turned.{suffix}"
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    expected = ORIENTATIONS[orientation](RAMP)
    found = read_image(path).numpy()
    assert all((channel == expected).all() for channel in found)
    assert image_size(path) == expected.shape


def test_a_photograph_is_upright(tmp_path: Path):
    image, path = Image.new("RGB", (30, 20), (200, 0, 0)), tmp_path / "turned.jpg"
    exif = image.getexif()
    exif[0x0112] = 8
    image.save(path, exif=exif)
    assert read_image(path).shape == (3, 30, 20) and image_size(path) == (30, 20)


def test_gray_of_16_bits_is_read_by_its_upper_8(tmp_path: Path):
    values = np.random.default_rng(0).integers(0, 65536, (9, 7)).astype(np.uint16)
    for name in ("gray.png", "gray.tif"):
        Image.fromarray(values).save(tmp_path / name)
        found = read_image(tmp_path / name)
        assert found.shape == (3, 9, 7) and found.is_contiguous()
        assert all((channel == values // 256).all() for channel in found.numpy())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_mode_of_8_bits_is_the_same_gray(tmp_path: Path, mode: str):
    gray = Image.new("L", (5, 4), 255)
    suffix = "tif" if mode == "CMYK" else "png"
    (gray.convert("RGB") if mode in ("RGBA", "CMYK") else gray).convert(mode).save(
        tmp_path / f"a.{suffix}"
    )
    found = read_image(tmp_path / f"a.{suffix}")
    assert found.shape == (3, 4, 5) and (found == 255).all()


@pytest.mark.parametrize("values", [np.float32, np.int32])
def test_pixels_without_a_white_are_one_line(tmp_path: Path, values: type):
    Image.fromarray(np.ones((4, 5), values)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read: pixels of mode [FI] have no kn"):
        read_image(tmp_path / "a.tif")


def test_what_is_no_image_is_one_line(tmp_path: Path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(whole)
    for name, content in (
        ("empty.jpg", b""),
        ("text.jpg", b"no image"),
        ("cut.jpg", whole.read_bytes()[:900]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read: ") as error:
            read_image(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"gone\.jpg cannot be read: No such file"):
        image_size(tmp_path / "gone.jpg")
    with pytest.raises(ValueError, match=r"text\.jpg cannot be read: "):
        image_size(tmp_path / "text.jpg")


def test_a_list_has_a_name_a_line(tmp_path: Path):
    path = tmp_path / "train.txt"
    path.write_bytes("\ufeffa\r\n\r\n b \r\nc.d".encode())
    assert read_names(path) == ["a", "b", "c.d"]
    path.write_text("000005 -1\n000007  1\n")
    with pytest.raises(ValueError, match=r"train\.txt must hold one name per line, got '000005 -"):
        read_names(path)
    path.write_text("a\nb\na\n")
    with pytest.raises(ValueError, match=r"train\.txt must name each image once, got a 2 times"):
        read_names(path)
