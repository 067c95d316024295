"""Single synthetic anomalies: area, visibility, and the place on an object."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from autopatch.data import DEFAULT_KINDS, KINDS
from autopatch.data.synthetic.foreground import Foreground
from autopatch.data.synthetic.kinds import Kind
from autopatch.data.synthetic.kinds.scratch import SCRATCH_AREAS
from autopatch.data.synthetic.painting import LEAST_CHANGE, Painted, paint
from autopatch.data.synthetic.scene import Patch, Scene, Shot, sampled, turned

SIDE = 160


def rough(seed: int, shape: tuple[int, int], deviation: float = 25.0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return deviation * noise / noise.std()


def scene_of(values: np.ndarray, shot: Shot | None = None) -> Scene:
    pixels = values.clip(0, 255).astype(np.uint8)[..., None]
    return Scene.of(pixels, lambda rng: pixels[::-1], shot)


def many(kind: str, scene: Scene, count: int) -> list[Painted]:
    return [paint(scene, KINDS[kind], np.random.default_rng(seed)) for seed in range(count)]


def disc_on_ground(shade: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A rough dark disc on a bright ground that darkens to one side, and where the disc is."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    disc = np.hypot(y - 0.45, x - 0.55) < 0.2
    ground = 210 - shade * x + rough(1, (SIDE, SIDE), 2)
    return np.where(disc, 80 + rough(2, (SIDE, SIDE), 20), ground), disc


@pytest.mark.parametrize("kind", ["tone", "texture", "cutpaste"])
def test_areas_are_log_uniform(kind: str) -> None:
    scene = scene_of(120 + rough(0, (SIDE, SIDE)))
    areas = np.array([painted.mask.mean() for painted in many(kind, scene, 60)])
    assert areas.min() > 0.00095
    assert areas.max() < 0.0505
    logarithms = np.log(areas / 0.001) / np.log(50)
    assert 0.4 < logarithms.mean() < 0.6
    assert 0.2 < logarithms.std() < 0.38  # 0.29 if uniform


@pytest.mark.parametrize("side", [300, 512])
def test_a_shot_of_one_pixel_is_transplanted(side: int) -> None:
    """Reduced to 224 pixels, such a mask may vanish."""
    mask = np.zeros((side, side), bool)
    mask[side // 2, side // 3] = True
    values = 120 + rough(0, (side, side))
    shot = Shot(values.clip(0, 255).astype(np.uint8)[..., None], mask)
    for painted in many("transplant", scene_of(values, shot), 20):
        assert painted.mask.any()


def test_scratches_are_thin() -> None:
    scene = scene_of(120 + rough(0, (SIDE, SIDE)))
    areas, widths = [], []
    for painted in many("scratch", scene, 40):
        areas.append(painted.mask.mean())
        widths.append(2 * ndimage.distance_transform_edt(painted.mask).max())
        extent = max(np.ptp(found) for found in np.nonzero(painted.mask))
        assert painted.mask.sum() < 0.75 * (extent + 1) ** 2
    assert min(areas) > 0.9 * SCRATCH_AREAS[0]
    assert max(areas) < 1.1 * SCRATCH_AREAS[1]
    assert max(areas) > 10 * min(areas)
    assert max(widths) < 7.5 * SIDE / 224 + 2


@pytest.mark.parametrize("kind", DEFAULT_KINDS)
def test_every_kind_is_visible(kind: str) -> None:
    values = 120 + rough(0, (SIDE, SIDE), 12)
    scene = scene_of(values)
    for painted in many(kind, scene, 12):
        assert painted.visibility >= 1
        change = np.abs(painted.pixels[..., 0] - np.asarray(scene.pixels[..., 0], np.int64))
        assert change[painted.mask].mean() > 0.5 * LEAST_CHANGE


@pytest.mark.parametrize("kind", ["blur", "warp"])
def test_another_place_is_drawn_if_nothing_would_be_seen(kind: str) -> None:
    values = np.full((SIDE, SIDE), 120.0)
    values[:, SIDE // 2 :] += rough(0, (SIDE, SIDE // 2), 30)
    scene = scene_of(values)
    assert scene.foreground.is_whole
    for painted in many(kind, scene, 15):
        assert painted.visibility >= 1
        assert painted.mask[:, SIDE // 2 - 12 :].mean() > 0


def test_without_any_visible_place_there_is_still_a_mask() -> None:
    scene = scene_of(np.full((SIDE, SIDE), 120.0))
    for painted in many("blur", scene, 3):
        assert painted.visibility == 0
        assert painted.mask.any()


def test_a_kind_that_draws_nothing_is_refused() -> None:
    scene = scene_of(120 + rough(0, (SIDE, SIDE)))

    def nothing(scene: Scene, area: float, strength: float, rng: np.random.Generator) -> Patch:
        weight = np.zeros((8, 8), np.float32)
        return Patch(scene.put(weight, rng), np.zeros((8, 8, 1), np.float32))

    with pytest.raises(ValueError, match="drew nothing in 10 tries"):
        paint(scene, Kind(nothing), np.random.default_rng(0))


def test_a_brighter_surface_is_darkened_and_a_darker_one_brightened() -> None:
    for level, sign in ((252.0, -1), (3.0, 1)):
        scene = scene_of(np.full((SIDE, SIDE), level))
        for painted in many("scratch", scene, 8):
            change = painted.pixels[..., 0].astype(np.int64) - scene.pixels[..., 0]
            assert sign * change[painted.mask].mean() > 10


@pytest.mark.parametrize("kind", DEFAULT_KINDS)
def test_anomalies_lie_on_the_object(kind: str) -> None:
    values, disc = disc_on_ground()
    scene = scene_of(values)
    found = scene.foreground.within(slice(0, SIDE), slice(0, SIDE)) >= 0.5
    assert (found != disc).mean() < 0.02
    for painted in many(kind, scene, 12):
        assert disc[painted.mask].mean() > 0.45
        assert painted.mask.sum() < 0.25 * disc.sum()


def test_transplants_lie_on_the_object() -> None:
    values, disc = disc_on_ground()
    mask = np.zeros((SIDE, SIDE), bool)
    mask[100:110, 20:40] = True
    shot = Shot(np.where(mask, 250, 100).astype(np.uint8)[..., None], mask)
    for painted in many("transplant", scene_of(values, shot), 8):
        assert disc[painted.mask].mean() > 0.45
        assert painted.pixels[painted.mask].mean() > 130


def test_foreground_of_an_object_on_shaded_ground() -> None:
    values, disc = disc_on_ground(shade=60)
    foreground = Foreground.of(Image.fromarray(values.clip(0, 255).astype(np.uint8)))
    assert foreground.area == pytest.approx(disc.sum(), rel=0.1)


@pytest.mark.parametrize("size", [(90, 300), (700, 500)])
def test_foreground_has_the_scale_of_the_image(size: tuple[int, int]) -> None:
    pixels = np.full((*size[::-1], 3), 240, np.uint8)
    top, left = size[1] // 3, size[0] // 4
    pixels[top : 2 * top, left : 2 * left] = (90, 30, 30)
    foreground = Foreground.of(Image.fromarray(pixels))
    inside = foreground.within(slice(0, size[1]), slice(0, size[0]))
    assert inside[int(1.5 * top), int(1.5 * left)] == 1
    assert inside[top // 2, left // 2] == 0
    assert foreground.area == pytest.approx(top * left, rel=0.15)
    box = foreground.within(slice(top, 2 * top), slice(left, 2 * left))
    assert box.shape == (top, left)
    assert box.mean() > 0.9
    rng = np.random.default_rng(0)
    for _ in range(20):
        row, column = foreground.point(rng)
        assert 0.9 * top < row < 2.1 * top
        assert 0.9 * left < column < 2.1 * left


def test_the_whole_image_is_foreground_without_an_object() -> None:
    ramp = np.tile(np.linspace(60, 200, SIDE), (SIDE, 1))
    halves = np.where(np.arange(SIDE) < SIDE // 2, 40.0, 200.0) * np.ones((SIDE, 1))
    for values in (
        np.full((SIDE, SIDE), 90.0),
        120 + rough(0, (SIDE, SIDE)),
        120 + rough(0, (SIDE, SIDE), 60),
        ramp,
        halves,
        np.ones((16, 16)) * 7,
    ):
        assert scene_of(values).foreground.is_whole


def test_turned_by_a_quarter() -> None:
    pixels = np.arange(25, dtype=np.uint8).reshape(5, 5, 1)
    rows, columns = turned((5, 5), (2, 2), np.pi / 2, 1)
    found = sampled(pixels, rows, columns)[..., 0]
    assert np.allclose(found, np.rot90(pixels[..., 0], -1), atol=1e-3)
    rows, columns = turned((2, 2), (2, 2), 0, 2)
    assert rows[:, 0].tolist() == columns[0].tolist() == [1.75, 2.25]


def test_sampled_is_linear_and_mirrors() -> None:
    pixels = np.array([[0, 10], [20, 30]], np.uint8)[..., None]
    rows = np.array([[0, 0.5, -1, 2, 1]])
    columns = np.array([[0.5, 0.5, 0, 0, 3]])
    assert sampled(pixels, rows, columns)[0, :, 0].tolist() == [5, 15, 20, 0, 30]
