from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autopatch.data import Findings, MVTecAD, Sample, check, check_folder, require_valid
from autopatch.errors import InputError

MakeDataset = Callable[..., Path]


def test_sound(make_dataset: MakeDataset) -> None:
    dataset = MVTecAD.scan(make_dataset())
    assert check(dataset) == Findings()
    require_valid(dataset)


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
    assert check(by_hand) == Findings()
    require_valid(by_hand)


def test_notes_of_a_data_set_are_warnings(by_hand: ByHand) -> None:
    by_hand.notes = ("2 files were passed over",)
    assert check(by_hand) == Findings(warnings=("2 files were passed over",))
    assert require_valid(by_hand).warnings == ("2 files were passed over",)


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
    assert checked.findings == Findings()
    assert checked.counts == {"train/good": 3, "test/good": 1, "test/dent": 2}
    assert checked.groups == 2


def test_mask_too_small_for_the_evaluation_size(make_dataset: MakeDataset) -> None:
    root = make_dataset(anomalies={"dent": 1}, size=(300, 300))
    dataset = MVTecAD.scan(root)
    assert check(dataset) == Findings()
    (problem,) = check(dataset, evaluation_size=1).problems
    assert "vanish at 1 x 1" in problem


@pytest.mark.parametrize("name", ["magnetic_tile", "dagm_class1"])
def test_real_data_is_sound(shared_data: Path, name: str) -> None:
    assert check(MVTecAD.scan(shared_data / name)).problems == ()
