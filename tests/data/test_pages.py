from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from autopatch.data import read_image, read_mask, to_pil
from autopatch.errors import InputError

COLORS = ("red", "green", "blue")


def pictures(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (8, 6), color) for color in COLORS[:count]]


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp", "avif"])
def test_several_pictures_in_one_file_are_refused(tmp_path: Path, suffix: str) -> None:
    if suffix in ("webp", "avif") and not features.check(suffix):
        pytest.skip(f"this Pillow has no {suffix}")
    for count in (1, 3):
        first, *rest = pictures(count)
        file = tmp_path / f"{count}.{suffix}"
        if rest:
            first.save(file, save_all=True, append_images=rest)
        else:
            first.save(file)
    assert read_image(tmp_path / f"1.{suffix}").size == (8, 6)
    for read in (read_image, read_mask):
        with pytest.raises(InputError) as caught:
            read(tmp_path / f"3.{suffix}")
        assert str(caught.value) == (
            f"{tmp_path}/3.{suffix}: 3 pictures in one file, expected a file for each"
        )


def test_the_preview_of_a_camera_is_no_picture(tmp_path: Path) -> None:
    photograph, preview = pictures(2)
    photograph.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[preview])
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
    assert np.asarray(read_image(tmp_path / "a.jpg"))[0, 0, 0] > 250


def test_reduced_copies_in_a_tiff_file_are_no_pictures(tmp_path: Path) -> None:
    page, copy, other = pictures(3)
    copy.encoderinfo = {"tiffinfo": {254: 1}}  # type: ignore[attr-defined]
    page.save(tmp_path / "a.tif", save_all=True, append_images=[copy])
    with Image.open(tmp_path / "a.tif") as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
    assert read_image(tmp_path / "a.tif").getpixel((0, 0)) == (255, 0, 0)
    page.save(tmp_path / "b.tif", save_all=True, append_images=[copy, other])
    with pytest.raises(InputError, match="2 pictures in one file"):
        read_image(tmp_path / "b.tif")


def test_a_frame_that_the_caller_has_chosen_is_read(tmp_path: Path) -> None:
    first, *rest = pictures(3)
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(2)
        assert to_pil(image).getpixel((0, 0)) == (0, 0, 255)
