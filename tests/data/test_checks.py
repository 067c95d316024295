from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import (
    DEFAULT_READING,
    Findings,
    MVTecAD,
    Reading,
    Sample,
    check,
    check_folder,
    require_valid,
)
from autopatch.data.checks import MaskAreas
from autopatch.errors import InputError

MakeDataset = Callable[..., Path]
SOUND = Findings(
    areas={kind: MaskAreas(0.125, 0.125, 0.125) for kind in ("crack", "dent")},
)
DECIDED = replace(SOUND, reading=Reading(bit_depth=8))
"""Of the data set that `make_dataset` makes: 3 x 4 of 12 x 8 pixels are anomalous."""


def test_sound(make_dataset: MakeDataset) -> None:
    dataset = MVTecAD.scan(make_dataset())
    findings = check(dataset)
    assert findings == SOUND
    assert require_valid(dataset) == findings


def test_each_problem_is_one_line(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    image = root / "train/good/004.png"
    image.write_bytes(image.read_bytes()[:-30])
    truth = root / "ground_truth/crack"
    Image.new("L", (8, 12), 255).save(truth / "001_mask.png")
    Image.new("L", (12, 8), 0).save(truth / "002_mask.png")
    ramp = np.linspace(0, 255, 96).astype(np.uint8).reshape(8, 12)
    Image.fromarray(ramp).save(truth / "003_mask.png")
    (truth / "004_mask.png").write_bytes(b"")
    dataset = MVTecAD.scan(root)
    problems = check(dataset).problems
    expected = [
        ("004.png", "truncated"),
        ("001_mask.png", "the mask is 8 x 12 pixels, expected 12 x 8 as its image"),
        ("002_mask.png", "no anomalous pixel"),
        ("003_mask.png", "not binary"),
        ("004_mask.png", "not an image"),
    ]
    assert len(problems) == len(expected)
    for problem, (name, text) in zip(problems, expected, strict=True):
        assert name in problem
        assert text in problem
        assert "\n" not in problem
    with pytest.raises(InputError, match=r"004.png: .*truncated.* \(and 4 more problems\)"):
        require_valid(dataset)


@dataclass
class ByHand:
    """A data set in lists."""

    root: Path
    train: list[Sample]
    test: list[Sample]
    types: list[str]
    notes: tuple[str, ...] = ()


@pytest.fixture
def by_hand(make_dataset: MakeDataset) -> ByHand:
    scanned = MVTecAD.scan(make_dataset())
    return ByHand(scanned.root, list(scanned.train), list(scanned.test), list(scanned.types))


def test_a_data_set_in_lists(by_hand: ByHand) -> None:
    assert check(by_hand) == SOUND
    assert require_valid(by_hand) == SOUND


def test_notes_of_a_data_set_are_warnings(by_hand: ByHand) -> None:
    by_hand.notes = ("2 files were skipped",)
    assert check(by_hand).warnings == ("2 files were skipped",)
    assert require_valid(by_hand).warnings == ("2 files were skipped",)


def test_pictures_that_are_good_and_anomalous(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    with Image.open(root / "train/good/004.png") as image:
        # The same picture in another file: its bytes differ.
        image.save(root / "test/dent/002.png", compress_level=0)
    dataset = MVTecAD.scan(root)
    (problem,) = check(dataset).problems
    assert problem == (
        f"{root}/test/dent/002.png: shows the same picture as the good image "
        f"{root}/train/good/004.png, expected an image to be either good or anomalous"
    )
    with pytest.raises(InputError, match=r"dent/002\.png: shows the same picture"):
        require_valid(dataset)
    findings = require_valid(dataset, allow_contradictions=True)
    assert findings.warnings == (problem,)


def test_pictures_that_are_there_twice(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    shutil.copy(root / "train/good/004.png", root / "test/good/001.png")
    shutil.copy(root / "train/good/005.png", root / "train/good/006.png")
    findings = check(MVTecAD.scan(root))
    assert findings.problems == ()
    assert findings.warnings == (
        "1 pair of images of train/good and test/good shows the same picture (train/good/004.png = "
        "test/good/001.png); remove one of the two; the random split never gives them two roles",
        "1 pair of images within train/good shows the same picture (train/good/005.png = "
        "train/good/006.png); remove one of the two; the random split never gives them two roles",
    )
    assert len(findings.duplicates.groups) == 4


def test_pictures_of_16_bits_are_compared_in_full_depth(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    in_16_bits(root, 4000)
    dark = np.full((8, 12), 100, np.uint16)
    for index in range(3):
        replaced(root / f"train/good/{index:03d}.png", dark + index % 2)
    findings = check(MVTecAD.scan(root))
    assert len(findings.duplicates.groups) == 2
    assert "train/good/000.png = train/good/002.png" in findings.warnings[0]


def test_types_masks_and_roles_that_contradict(by_hand: ByHand) -> None:
    good, dent = by_hand.test[0], by_hand.test[-1]
    by_hand.test[0] = replace(good, mask=dent.mask)
    by_hand.test[-1] = replace(dent, mask=None)
    by_hand.train[3] = replace(by_hand.train[3], type="crack")
    by_hand.train[4] = replace(by_hand.train[4], mask=dent.mask)
    assert list(check(by_hand).problems) == [
        f"{by_hand.train[3].image}: an image of the type 'crack' in train, expected good ones",
        f"{by_hand.train[4].image}: a good image with the mask {dent.mask}, expected none",
        f"{good.image}: a good image with the mask {dent.mask}, expected none",
        f"{dent.image}: an image of the type 'dent' without a mask, expected one",
    ]
    with pytest.raises(InputError, match=r"in train, expected good ones \(and 3 more problems\)"):
        require_valid(by_hand)


def test_a_contradiction_hides_no_other_problem(by_hand: ByHand) -> None:
    by_hand.test[-1] = replace(by_hand.test[-1], mask=None)
    by_hand.test[-1].image.write_bytes(b"")
    contradiction, damage = check(by_hand).problems
    assert "without a mask" in contradiction
    assert "not an image" in damage


def test_a_folder(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(train=3, test_good=1, anomalies={"dent": 2})
    files = ("train/good/000", "train/good/001", "train/good/002", "test/good/000")
    files += ("test/dent/000", "test/dent/001")
    table = tmp_path / "groups.csv"
    table.write_text("file,group\n" + "".join(f"{file}.png,{file[0:5]}\n" for file in files))
    checked = check_folder(str(root), groups=str(table))
    assert checked.findings.problems == checked.findings.warnings == ()
    assert checked.counts == {"train/good": 3, "test/good": 1, "test/dent": 2}
    assert checked.groups == 2


def test_mask_too_small_for_the_evaluation_size(make_dataset: MakeDataset) -> None:
    root = make_dataset(anomalies={"dent": 1}, size=(300, 300))
    dataset = MVTecAD.scan(root)
    published = Reading(mask_resize="any")
    assert check(dataset, reading=published).problems == ()
    (problem,) = check(dataset, reading=published, evaluation_size=1).problems
    assert "vanish at 1 x 1" in problem


@pytest.mark.parametrize("name", ["magnetic_tile", "dagm_class1"])
def test_real_data_is_sound(shared_data: Path, name: str) -> None:
    assert check(MVTecAD.scan(shared_data / name)).problems == ()


def decided(
    dataset: MVTecAD, fit: Iterable[Sample] | None = None, reading: Reading = DEFAULT_READING
) -> Findings:
    return check(dataset, reading=reading).decided(dataset.train if fit is None else fit)


def replaced(path: Path, values: np.ndarray, **options: object) -> None:
    Image.fromarray(values).save(path, **options)  # type: ignore[arg-type]


def in_16_bits(root: Path, highest: int, levels: int = 50) -> None:
    """Replaces the training images by ones of 16 bits that reach a value."""
    ramp = np.zeros((8, 12), np.uint16)
    ramp.flat[:levels] = np.linspace(0, highest, levels)
    for index, path in enumerate((root / "train/good").iterdir()):
        replaced(path, np.roll(ramp, index))


@pytest.mark.parametrize(
    ("highest", "bits"),
    [(200, 8), (255, 8), (256, 10), (1023, 10), (4095, 12), (9000, 14), (16384, 16), (65535, 16)],
)
def test_the_bit_depth_is_the_smallest_that_holds_the_training_images(
    make_dataset: MakeDataset, highest: int, bits: int
) -> None:
    root = make_dataset()
    in_16_bits(root, highest)
    findings = decided(MVTecAD.scan(root))
    assert findings.reading == Reading(bit_depth=bits)
    assert findings.warnings == ()
    given = decided(MVTecAD.scan(root), reading=Reading(bit_depth=16))
    assert given.reading == Reading(bit_depth=16)


def test_the_bit_depth_is_that_of_the_images_to_fit_on(make_dataset: MakeDataset) -> None:
    dataset = MVTecAD.scan(make_dataset())
    in_16_bits(dataset.root, 900)
    ramp = np.linspace(0, 4000, 96).astype(np.uint16).reshape(8, 12)
    for name in ("007", "003"):
        replaced(dataset.root / f"train/good/{name}.png", np.roll(ramp, int(name)))
    fit = [sample for sample in dataset.train if sample.image.stem not in ("003", "007")]
    findings = decided(dataset, fit)
    assert findings.reading.bit_depth == 10
    assert findings.warnings == (
        "2 images are brighter than the bit depth allows (values up to 4000 are clipped at 1023): "
        "train/good/003.png, train/good/007.png; give `bit_depth` 12",
    )
    assert decided(dataset).reading.bit_depth == 12


def test_few_grey_levels_are_warned_about(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    in_16_bits(root, 4095, levels=20)
    assert decided(MVTecAD.scan(root)).warnings == (
        "the fit images use 20 gray levels at a bit depth of 12, expected 32 or more: faint "
        "defects vanish; stretch the contrast of all images by the same factor",
    )
    in_16_bits(root, 1000)
    (warning,) = decided(MVTecAD.scan(root), reading=Reading(bit_depth=16)).warnings
    assert "use 5 gray levels at a bit depth of 16" in warning
    assert warning.endswith("give `bit_depth` 10")
    pixels = np.arange(96, dtype=np.uint8).reshape(8, 12) % 31
    for index, path in enumerate((root / "train/good").iterdir()):
        replaced(path, np.roll(pixels, index))
    (warning,) = decided(MVTecAD.scan(root)).warnings
    assert warning.startswith("the fit images use 31 gray levels, expected 32")


def test_dropped_alpha_is_said_once(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    alpha = np.full((8, 12), 255, np.uint8)
    for name in ("000", "001", "002", "003"):
        path = root / f"train/good/{name}.png"
        color = np.asarray(Image.open(path))
        replaced(path, np.dstack([color, alpha]))
    assert decided(MVTecAD.scan(root)).warnings == ()
    alpha[0, 0] = 7
    for name in ("000", "001", "002", "003"):
        path = root / f"train/good/{name}.png"
        replaced(path, np.dstack([np.asarray(Image.open(path))[..., :3], alpha]))
    (warning,) = decided(MVTecAD.scan(root)).warnings
    assert warning.startswith("the alpha channel of 4 images is dropped: train/good/000.png, ")
    assert "train/good/002.png, ...;" in warning
    assert "\n" not in warning


def test_inverted_masks(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    masks = sorted((root / "ground_truth/crack").iterdir())
    for path in masks[:4]:
        replaced(path, 255 - np.asarray(Image.open(path)))
    findings = decided(MVTecAD.scan(root))
    (warning,) = findings.warnings
    assert warning == (
        "4 of 7 masks of the type 'crack' mark more than half of the image: "
        "ground_truth/crack/000_mask.png, ground_truth/crack/001_mask.png, "
        "ground_truth/crack/002_mask.png, ...; if they are inverted, make defects white and the "
        "rest black"
    )
    assert findings.areas["crack"] == MaskAreas(0.875, 0.125, 0.875)
    assert findings.describe_areas() == (
        "anomalous area, median and range: crack 88 % (12 to 88 %), dent 12 % (12 to 12 %)"
    )
    replaced(masks[3], 255 - np.asarray(Image.open(masks[3])))
    assert decided(MVTecAD.scan(root)).warnings == ()  # three of seven are not most


def test_white_masks(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    for path in (root / "ground_truth/dent").iterdir():
        replaced(path, np.full((8, 12), 255, np.uint8))
    (warning,) = decided(MVTecAD.scan(root)).warnings
    assert warning.startswith("6 masks of the type 'dent' mark the whole image: ")


def test_masks_of_alpha_and_grey_masks(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    for path in (root / "ground_truth/crack").iterdir():
        mask = np.asarray(Image.open(path))
        replaced(path, np.dstack([np.full_like(mask, 255)] * 3 + [mask]))
    assert decided(MVTecAD.scan(root)) == DECIDED
    for path in (root / "ground_truth/dent").iterdir():
        mask = np.asarray(Image.open(path)) // 2
        mask[0, 0] = 60
        replaced(path, mask)
    assert len(decided(MVTecAD.scan(root)).problems) == 6
    reading = Reading(mask_threshold=100)
    found = decided(MVTecAD.scan(root), reading=reading)
    assert found == replace(DECIDED, reading=replace(reading, bit_depth=8))


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(path) as image:
        image.load()
        image.save(path, exif=exif)


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_an_image_and_its_mask_that_are_turned_differently(
    make_dataset: MakeDataset, exif: str
) -> None:
    root = make_dataset()
    turned(root / "train/good/000.png", 3)
    # Orientations of image and mask; the last ones are two quarter turns.
    for name, of_image, of_mask in (("000", 3, 1), ("001", 3, 3), ("002", 1, 2), ("003", 6, 8)):
        turned(root / f"test/crack/{name}.png", of_image)
        turned(root / f"ground_truth/crack/{name}_mask.png", of_mask)
    (warning,) = decided(MVTecAD.scan(root), reading=Reading(exif=exif)).warnings
    assert warning.startswith(
        "3 images and masks have different EXIF orientations: test/crack/000.png, "
        "test/crack/002.png, test/crack/003.png; "
    )
    assert "`exif` ignore" in warning
    for name in ("002", "003"):
        turned(root / f"test/crack/{name}.png", 1)
        turned(root / f"ground_truth/crack/{name}_mask.png", 1)
    (warning,) = decided(MVTecAD.scan(root), reading=Reading(exif=exif)).warnings
    assert warning.startswith("1 image and its mask have different EXIF orientations: test/crack/0")


def test_the_size_of_a_mask_tells_which_way_round_it_is(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    turned(root / "test/crack/000.png", 6)
    (problem,) = decided(MVTecAD.scan(root)).problems
    assert "000_mask.png: the mask is 12 x 8 pixels, expected 8 x 12 as its image" in problem
    assert problem.endswith("give `exif` ignore")
    ignoring = Reading(exif="ignore")
    assert decided(MVTecAD.scan(root), reading=ignoring).problems == ()
    mask = np.asarray(Image.open(root / "ground_truth/crack/000_mask.png"))
    replaced(root / "ground_truth/crack/000_mask.png", np.rot90(mask, -1))
    assert decided(MVTecAD.scan(root)) == DECIDED
    (problem,) = decided(MVTecAD.scan(root), reading=ignoring).problems
    assert problem.endswith("give `exif` apply")


def test_a_mask_that_alone_has_a_quarter_turn(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    turned(root / "ground_truth/crack/000_mask.png", 6)
    (problem,) = decided(MVTecAD.scan(root)).problems
    assert problem.endswith(
        "the mask is turned by its EXIF tag, the image is the other way round: give `exif` ignore"
    )
    assert decided(MVTecAD.scan(root), reading=Reading(exif="ignore")) == replace(
        DECIDED, reading=Reading(bit_depth=8, exif="ignore")
    )


def test_masks_of_specks_are_warned_about(make_dataset: MakeDataset) -> None:
    root = make_dataset(size=(500, 500))
    mask = root / "ground_truth/dent/001_mask.png"
    replaced(mask, (np.random.default_rng(0).random((500, 500)) > 0.97).astype(np.uint8))
    scratch = np.zeros((500, 500), np.uint8)
    scratch[200, 10:490] = 255
    replaced(root / "ground_truth/dent/002_mask.png", scratch)
    (warning,) = decided(MVTecAD.scan(root)).warnings
    assert warning.startswith(
        "1 mask becomes more than twice as large at 224 x 224 pixels, up to 13 % of the image "
        "instead of 3 %: ground_truth/dent/001_mask.png; "
    )
    assert decided(MVTecAD.scan(root), reading=Reading(mask_resize="any")).warnings == ()


def test_the_area_of_masks_is_measured_before_they_are_resized(make_dataset: MakeDataset) -> None:
    dataset = MVTecAD.scan(make_dataset(size=(120, 80)))
    assert check(dataset, evaluation_size=8).areas["dent"].median == 12 / 9600
