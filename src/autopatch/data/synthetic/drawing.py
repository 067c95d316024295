"""Draws sets of synthetic anomalies into folders."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from autopatch.data.masks import read_mask
from autopatch.data.reading import DEFAULT_READING, Reading, read_image
from autopatch.data.samples import Sample
from autopatch.data.synthetic.anomaly import Anomaly, write_record
from autopatch.data.synthetic.kinds import DEFAULT_KINDS, KINDS, TRANSPLANT
from autopatch.data.synthetic.painting import paint
from autopatch.data.synthetic.scene import Scene, Shot
from autopatch.data.threads import in_threads
from autopatch.errors import InputError
from autopatch.files import StrPath, new_folder
from autopatch.progress import Progress

LEAST_SIDE = 16
"""Least height and width of an image, in pixels."""

LARGEST_SIDE = 2048
"""Images whose longer side is longer, in pixels, are reduced to this side before they are drawn
on."""

_STEP = "drawing anomalies"
_GOLDEN = 0.6180339887498949
_RUN_LENGTHS = 3  # zlib's Z_RLE: for images faster than any level of compression, and no larger
_CHECKED = 8  # a few rows show that an image is not gray


def draw_anomalies(
    good: Sequence[Sample],
    folder: StrPath,
    *,
    textures: Sequence[Sample] = (),
    shots: Sequence[Sample] = (),
    kinds: Sequence[str] | None = None,
    per_kind: int = 10,
    seed: int = 0,
    reading: Reading = DEFAULT_READING,
    root: StrPath | None = None,
    progress: Progress | None = None,
) -> tuple[Anomaly, ...]:
    """Draws synthetic anomalies of several kinds on good images, with exact masks.

    The folder gets the layout of the anomalous part of MVTec AD: `test/<kind>/000.png` and
    `ground_truth/<kind>/000_mask.png`, and the record `anomalies.json`. The images are 8-bit RGB or
    gray, as a detector sees the good ones. The same arguments give the same files on one machine.

    An anomaly depends only on the seed, its kind, its number, its good image, and the images that
    textures and shots are taken from. So a larger `per_kind` only adds images, and leaving a kind
    out changes no other.

    Args:
        good: The good images, used in turn; each kind starts at another one.
        folder: The folder to make. It appears complete or not at all.
        textures: Images that foreign texture is taken from; the other good images if empty.
        shots: Real anomalous images with masks, for transplants, used in turn.
        kinds: Names of `KINDS`. If None, `DEFAULT_KINDS`, and transplants if there are shots.
        per_kind: Number of images of each kind.
        seed: Seed of all random choices.
        reading: How images and masks are read.
        root: Folder of the data set; the record then holds the paths of good images and shots
            relative to it, so that the data set may move.
        progress: Called after every image.

    Returns:
        The anomalies, by kind in the order of `kinds`, then by number.

    Raises:
        InputError: There is no good image, an image is too small or cannot be read, a kind is
            unknown, given twice, or needs shots and there are none, a shot has no mask, a number is
            out of range, or the folder exists or cannot be written.
    """
    names = kinds_to_draw(kinds, shots)
    if not good:
        raise InputError("`good` is empty, expected at least one good image")
    for name, value, low in (("per_kind", per_kind, 1), ("seed", seed, 0)):
        if value < low:
            raise InputError(f"`{name}` is {value}, expected at least {low}")
    without_mask = [shot for shot in shots if shot.mask is None]
    if without_mask:
        raise InputError(f"{without_mask[0].image}: a shot without a mask, expected one with it")
    order = np.random.default_rng(seed).permutation(len(good))
    folder = Path(folder)
    tasks = []
    for name in names:
        first = _offset(name, len(good))
        for number in range(per_kind):
            source = good[order[(first + number) % len(good)]]
            shot = shots[number % len(shots)] if KINDS[name].needs_shot else None
            image = folder / "test" / name / f"{number:03d}.png"
            mask = folder / "ground_truth" / name / f"{number:03d}_mask.png"
            sample = Sample(image, name, mask, source.group)
            tasks.append(_Task(Anomaly(sample, source, shot), number))

    def told(done: int, total: int) -> None:
        if progress is not None:
            progress(_STEP, done, total)

    with new_folder(folder) as unfinished:
        for name in names:
            for part in ("test", "ground_truth"):
                (unfinished / part / name).mkdir(parents=True)

        def draw(task: _Task) -> None:
            task.draw(unfinished, folder, textures or good, seed, reading)

        in_threads(draw, tasks, told)
        anomalies = tuple(task.anomaly for task in tasks)
        settings = {
            "kinds": list(names),
            "per_kind": per_kind,
            "seed": seed,
            "reading": reading.to_json(),
        }
        write_record(folder, anomalies, settings, written_in=unfinished, root=root)
    return anomalies


@dataclass(frozen=True)
class _Task:
    """An anomaly to draw, and its number in its kind."""

    anomaly: Anomaly
    number: int

    def draw(
        self,
        unfinished: Path,
        folder: Path,
        textures: Sequence[Sample],
        seed: int,
        reading: Reading,
    ) -> None:
        """Draws the anomaly and writes image and mask into an unfinished folder."""
        sample, source, shot = self.anomaly.sample, self.anomaly.source, self.anomaly.shot
        rng = np.random.default_rng((seed, zlib.crc32(sample.type.encode()), self.number))
        pixels = _pixels(source, reading)
        channels = pixels.shape[2]
        others = [other for other in textures if other != source] or [source]

        def other(random: np.random.Generator) -> npt.NDArray[np.uint8]:
            return _with_channels(_pixels(others[random.integers(len(others))], reading), channels)

        scene = Scene.of(pixels, other, None if shot is None else _shot(shot, channels, reading))
        painted = paint(scene, KINDS[sample.type], rng)
        assert sample.mask is not None
        for path, image in (
            (sample.image, _image(painted.pixels)),
            (sample.mask, _mask_image(painted.mask, reading)),
        ):
            target = unfinished / path.relative_to(folder)
            image.save(target, compress_level=1, compress_type=_RUN_LENGTHS)


def kinds_to_draw(kinds: Sequence[str] | None, shots: Sequence[Sample]) -> tuple[str, ...]:
    """The kinds that `draw_anomalies` draws.

    Raises:
        InputError: A kind is unknown, given twice, or needs shots and there are none.
    """
    if kinds is None:
        return (*DEFAULT_KINDS, TRANSPLANT) if shots else DEFAULT_KINDS
    if not kinds:
        raise InputError("`kinds` is empty, expected at least one kind")
    for name in kinds:
        if list(kinds).count(name) > 1:
            raise InputError(f"`kinds` has {name!r} twice, expected different kinds")
        if KINDS[name].needs_shot and not shots:
            raise InputError(f"`kinds` has {name!r}, which needs `shots`, and there are none")
    return tuple(kinds)


def _offset(name: str, count: int) -> int:
    """Position of the first good image of a kind. The positions of all kinds are spread evenly,
    and do not depend on which of them are drawn."""
    return int(list(KINDS).index(name) * _GOLDEN % 1 * count)


def _pixels(sample: Sample, reading: Reading) -> npt.NDArray[np.uint8]:
    """An image as uint8 `[H, W, C]`; C is 1 if it is gray."""
    image = read_image(sample.image, reading)
    if min(image.size) < LEAST_SIDE:
        raise InputError(
            f"{sample.image}: {image.width} x {image.height} pixels, expected at least "
            f"{LEAST_SIDE} x {LEAST_SIDE}"
        )
    pixels = np.asarray(_reduced(image, Image.Resampling.LANCZOS))
    grey = _is_grey(pixels[:: max(1, len(pixels) // _CHECKED)]) and _is_grey(pixels)
    return np.ascontiguousarray(pixels[..., :1]) if grey else pixels


def _is_grey(pixels: npt.NDArray[np.uint8]) -> bool:
    red, green, blue = (pixels[..., channel] for channel in range(3))
    return bool((red == green).all() and (red == blue).all())


def _reduced(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    longer = max(image.size)
    if longer <= LARGEST_SIDE:
        return image
    width, height = (max(1, round(side * LARGEST_SIDE / longer)) for side in image.size)
    return image.resize((width, height), resampling)


def _image(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


def _with_channels(pixels: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def _shot(shot: Sample, channels: int, reading: Reading) -> Shot:
    assert shot.mask is not None
    pixels = _with_channels(_pixels(shot, reading), channels)
    mask = np.asarray(read_mask(shot.mask, reading)) > 0
    # A pixel that is partly anomalous is anomalous, so no defect vanishes.
    image = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    return Shot(pixels, np.asarray(image.resize(pixels.shape[1::-1], Image.Resampling.BOX)) > 0)


def _mask_image(mask: npt.NDArray[np.bool_], reading: Reading) -> Image.Image:
    """A mask of two values, of which the larger is above the mask threshold."""
    if reading.mask_threshold is None or reading.mask_threshold < 255:
        return Image.fromarray(mask)
    return Image.fromarray(mask.astype(np.uint16) * np.uint16(65535))
