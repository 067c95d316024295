from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from autopatch.report import ColorScale, case_panel, outline, overlay, side_by_side

SCALE = ColorScale.fit(np.full((2, 8, 8), 1.0), 4.0)


def is_white(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture) >= 235).all(axis=2)


def is_cyan(picture: Image.Image) -> np.ndarray:
    red, green, blue = np.moveaxis(np.asarray(picture).astype(int), 2, 0)
    return (red < 40) & (green > 190) & (blue > 220)


def is_warm(picture: Image.Image) -> np.ndarray:
    red, _, blue = np.moveaxis(np.asarray(picture).astype(int), 2, 0)
    return red > blue + 40


def test_scale_starts_at_the_median_and_has_the_threshold_at_one_third() -> None:
    maps = np.random.default_rng(0).gamma(2.0, size=(5, 16, 16)).astype(np.float32)
    scale = ColorScale.fit(maps, 9.0)
    assert scale.low == pytest.approx(float(np.median(maps)))
    assert scale.place(np.array([scale.low, 9.0, scale.high])) == pytest.approx([0, 1 / 3, 1])


def test_scale_without_threshold_is_calm_on_every_calibration_pixel() -> None:
    maps = np.random.default_rng(0).gamma(2.0, size=(5, 16, 16)).astype(np.float32)
    scale = ColorScale.fit(maps, None)
    assert scale.place(maps).max() == pytest.approx(1 / 3)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 3.0, None])
def test_scale_of_constant_maps_has_the_threshold_at_one_third(threshold: float | None) -> None:
    scale = ColorScale.fit(np.full((2, 4, 4), 3.0), threshold)
    limit = 3.0 if threshold is None else threshold
    assert scale.low < scale.high
    assert float(scale.place(np.array(limit))) == pytest.approx(1 / 3)


def test_scale_refuses_what_has_no_order() -> None:
    with pytest.raises(ValueError, match="finite low < high"):
        ColorScale(2.0, 2.0)
    with pytest.raises(ValueError, match="finite low < high"):
        ColorScale.fit(np.full((1, 2, 2), np.nan), 1.0)
    with pytest.raises(ValueError, match="is empty"):
        ColorScale.fit(np.empty((0, 4, 4)), 1.0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((400, 300), (400, 300)),
        ((100, 50), (512, 256)),
        ((2000, 1000), (1024, 512)),
        ((40, 1000), (41, 1024)),
        ((1, 1), (256, 256)),
    ],
)
def test_overlay_size(size: tuple[int, int], expected: tuple[int, int], bump: np.ndarray) -> None:
    picture = overlay(Image.new("L", size, 128), bump, SCALE, threshold=4.0)
    assert picture.size == expected
    assert picture.mode == "RGB"


def test_the_same_score_has_the_same_color_on_every_image(bump: np.ndarray) -> None:
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    alone = np.full((64, 64), 1.0, np.float32)
    alone[30:34, 30:34] = bump[16, 44]
    with_others = alone.copy()
    with_others[:, 60:] = 50.0
    first = np.asarray(overlay(image, alone, SCALE))
    second = np.asarray(overlay(image, with_others, SCALE))
    assert (first[:, :200] == second[:, :200]).all()
    assert not (first == second).all()


def test_only_scores_above_the_threshold_are_warm(
    bump: np.ndarray, grey_image: Image.Image
) -> None:
    warm = is_warm(overlay(grey_image, bump, SCALE))
    height, width = warm.shape
    enlarged = np.asarray(Image.fromarray(bump).resize((width, height), Image.Resampling.BILINEAR))
    assert warm[enlarged > 4.2].all()
    assert not warm[enlarged < 3.9].any()


def test_contour_surrounds_the_region_above_the_threshold(
    bump: np.ndarray, grey_image: Image.Image
) -> None:
    without = overlay(grey_image, bump, SCALE)
    picture = overlay(grey_image, bump, SCALE, threshold=4.0)
    assert not is_white(without).any()
    rows, columns = np.nonzero(is_white(picture))
    peak = (16.5 / 64 * 300, 44.5 / 64 * 400)
    radius = np.sqrt(40 * np.log(9 / 3)) / 64
    assert rows.min() == pytest.approx(peak[0] - radius * 300, abs=3)
    assert rows.max() == pytest.approx(peak[0] + radius * 300, abs=3)
    assert columns.min() == pytest.approx(peak[1] - radius * 400, abs=3)
    assert columns.max() == pytest.approx(peak[1] + radius * 400, abs=3)
    assert not is_white(picture)[round(peak[0]), round(peak[1])]


def test_no_contour_below_the_threshold(bump: np.ndarray, grey_image: Image.Image) -> None:
    assert not is_white(overlay(grey_image, bump, SCALE, threshold=10.5)).any()


@pytest.mark.parametrize("size", [(256, 256), (41, 1024), (1024, 700)])
def test_a_single_pixel_above_the_threshold_is_seen(size: tuple[int, int]) -> None:
    scores = np.ones((224, 224), np.float32)
    scores[100, 57] = 4.001
    picture = overlay(Image.new("RGB", size, (90, 90, 90)), scores, SCALE, threshold=4.0)
    rows, columns = np.nonzero(is_white(picture))
    assert abs(rows.mean() / picture.height - 100.5 / 224) < 0.02
    assert abs(columns.mean() / picture.width - 57.5 / 224) < 0.04


def test_mask_is_outlined_and_not_covered(bump: np.ndarray, grey_image: Image.Image) -> None:
    mask = np.zeros((30, 40), bool)
    mask[10:20, 5:15] = True
    picture = outline(grey_image, mask)
    cyan = is_cyan(picture)
    assert picture.size == grey_image.size
    assert cyan.any()
    inside = np.s_[102:198, 52:148]
    assert not cyan[inside].any()
    assert (np.asarray(picture)[inside] == np.asarray(grey_image)[inside]).all()
    assert is_cyan(overlay(grey_image, bump, SCALE, mask=mask)).any()
    assert not is_cyan(overlay(grey_image, bump, SCALE, mask=np.zeros((30, 40), bool))).any()


def test_a_mask_smaller_than_a_pixel_is_seen(grey_image: Image.Image) -> None:
    mask = np.zeros((3000, 4000), bool)
    mask[1500, 2000] = True
    assert is_cyan(outline(grey_image.resize((40, 30)), mask)).any()


def test_overlay_is_deterministic_and_leaves_its_inputs(
    bump: np.ndarray, grey_image: Image.Image
) -> None:
    scores, pixels = bump.copy(), np.asarray(grey_image).copy()
    pictures = [overlay(grey_image, bump, SCALE, threshold=4.0, mask=bump > 5) for _ in range(2)]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert (scores == bump).all()
    assert (pixels == np.asarray(grey_image)).all()


def test_overlay_refuses_maps_without_meaning(grey_image: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 4, 4\)"):
        overlay(grey_image, np.zeros((1, 4, 4)), SCALE)
    with pytest.raises(ValueError, match="NaN or infinity"):
        overlay(grey_image, np.full((4, 4), np.inf), SCALE)
    with pytest.raises(ValueError, match="mask has shape"):
        overlay(grey_image, np.zeros((4, 4)), SCALE, mask=np.zeros((1, 4, 4), bool))


def test_side_by_side_has_one_size_whatever_its_pictures(grey_image: Image.Image) -> None:
    wide = Image.new("RGB", (900, 100), (200, 0, 0))
    tall = Image.new("RGB", (10, 90), (0, 0, 200))
    sizes = {
        side_by_side(
            [("a", first), ("b", grey_image)], caption=caption, scale=SCALE, threshold=4.0
        ).size
        for first, caption in ((wide, "short\ntext"), (tall, "long " * 200 + "\n"))
    }
    assert len(sizes) == 1


def test_case_panel_states_the_verdict_by_its_threshold(
    bump: np.ndarray, grey_image: Image.Image
) -> None:
    def panel(threshold: float | None, mask: np.ndarray | None = None) -> Image.Image:
        return case_panel(
            grey_image,
            bump,
            SCALE,
            name="файл.png",
            type="crack",
            score=10.0,
            threshold=threshold,
            mask=mask,
        )

    above, below, without = panel(4.0), panel(20.0), panel(None)
    assert above.size == below.size == without.size
    assert above.tobytes() != below.tobytes() != without.tobytes()
    assert panel(4.0, bump > 5).width > above.width
    assert is_cyan(panel(4.0, bump > 5)).any()
