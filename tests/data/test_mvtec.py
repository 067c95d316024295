from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autopatch.data import GOOD, MVTecAD, Sample, draw_textures
from autopatch.errors import InputError

MakeDataset = Callable[..., Path]


def assert_refused(root: Path, pattern: str, **options: object) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        MVTecAD.scan(root, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_finds_and_pairs(make_dataset: MakeDataset) -> None:
    root = make_dataset(train=3, test_good=2, anomalies={"dent": 1, "crack": 2})
    dataset = MVTecAD.scan(root)
    assert dataset.types == ("crack", "dent")
    assert dataset.train == tuple(
        Sample(root / "train/good" / f"{index:03d}.png", GOOD) for index in range(3)
    )
    assert [(sample.type, sample.image.name) for sample in dataset.test] == [
        (GOOD, "000.png"),
        (GOOD, "001.png"),
        ("crack", "000.png"),
        ("crack", "001.png"),
        ("dent", "000.png"),
    ]
    for sample in dataset.test:
        if sample.type == GOOD:
            assert sample.mask is None
        else:
            stem = sample.image.stem
            assert sample.mask == root / "ground_truth" / sample.type / f"{stem}_mask.png"


def test_mask_with_the_images_own_name(make_dataset: MakeDataset) -> None:
    root = make_dataset(anomalies={"dent": 2})
    truth = root / "ground_truth/dent"
    (truth / "001_mask.png").rename(truth / "001.BMP")
    masks = [sample.mask for sample in MVTecAD.scan(root).test if sample.mask]
    assert masks == [truth / "000_mask.png", truth / "001.BMP"]


def test_suffixes_in_any_case_and_other_files_ignored(make_dataset: MakeDataset) -> None:
    root = make_dataset(train=["a.JPG", "b.Tiff", "c.png"])
    (root / "train/good/.hidden.png").touch()
    (root / "train/good/notes.txt").touch()
    (root / "train/good/folder.png").mkdir()
    (root / "test/.cache").mkdir()
    (root / "ground_truth/good").mkdir()
    (root / "ground_truth/good/000_mask.png").touch()
    dataset = MVTecAD.scan(root)
    assert [sample.image.name for sample in dataset.train] == ["a.JPG", "b.Tiff", "c.png"]
    assert dataset.types == ("crack", "dent")


def test_test_good_may_be_absent(make_dataset: MakeDataset) -> None:
    dataset = MVTecAD.scan(make_dataset(test_good=None))
    assert all(sample.type != GOOD for sample in dataset.test)


def test_missing_empty_and_incomplete_folders(make_dataset: MakeDataset, tmp_path: Path) -> None:
    assert_refused(tmp_path / "nowhere", "nowhere: no such folder")
    file = tmp_path / "file"
    file.touch()
    assert_refused(file, "file: not a folder")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_refused(empty, "empty: the folder is empty")
    (empty / "other").mkdir()
    assert_refused(empty, "empty: no folder train/good")
    (empty / "train/good").mkdir(parents=True)
    assert_refused(empty, "no folder test")
    (empty / "test").mkdir()
    assert_refused(empty, "train/good: no image")
    make_dataset(anomalies={})
    assert_refused(tmp_path / "dataset", r"test: no folder of anomalous images")
    (tmp_path / "dataset/test/dent").mkdir()
    assert_refused(tmp_path / "dataset", r"test/dent: no image")


def test_folder_of_categories_is_recognized(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    assert_refused(root.parent, f"as in {re.escape(str(root))}: name one category's folder")


def test_missing_mask_names_image_and_expected_path(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    (root / "ground_truth/dent/003_mask.png").unlink()
    assert_refused(root, r"test/dent/003.png: no mask.*ground_truth/dent/003_mask\.png")
    shutil.rmtree(root / "ground_truth")
    assert_refused(root, r"test/crack/000.png: no mask")


def test_orphan_masks(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    (root / "test/dent/003.png").unlink()
    assert_refused(root, r"dent/003_mask.png: a mask without an image")
    shutil.rmtree(root / "test/dent")
    assert_refused(root, r"ground_truth/dent: masks without images")


def test_two_masks_for_one_image(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    (root / "ground_truth/dent/003.png").touch()
    assert_refused(root, r"dent/003.png: a mask without an image")


def test_two_images_of_one_name(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    (root / "test/dent/003.jpg").touch()
    assert_refused(root, r"003.png: has the name of 003.jpg but for its suffix")


@pytest.mark.parametrize("pattern", [r"part(\d+)", r"\d+(?=_)"])
def test_group_regex(make_dataset: MakeDataset, pattern: str) -> None:
    root = make_dataset(
        train=["part10_a.png", "part10_b.png"], test_good=None, anomalies={"dent": ["part7_a.png"]}
    )
    dataset = MVTecAD.scan(root, group_regex=pattern)
    assert [sample.group for sample in dataset.train + dataset.test] == ["10", "10", "7"]


def test_group_regex_mistakes(make_dataset: MakeDataset) -> None:
    root = make_dataset(train=["a1.png", "b.png"])
    assert_refused(root, r"b.png: no group, expected group_regex", group_regex=r"(\d)")
    assert_refused(root, r"a1.png: no group", group_regex=r"a(x)?")
    assert_refused(
        root, r"`group_regex` is '\(', which is not a regular expression", group_regex="("
    )
    assert_refused(root, "both given", group_regex=r".", groups_csv="groups.csv")


def test_groups_csv(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(train=2, test_good=None, anomalies={"dent": 1})
    file = tmp_path / "groups.csv"
    rows = ["file,group", "train/good/000.png,x", "train/good/001.png,y", "test/dent/000.png,x"]
    file.write_text("\ufeff" + "\n".join([*rows, ""]), encoding="utf-8")
    dataset = MVTecAD.scan(root, groups_csv=file)
    assert [sample.group for sample in dataset.train + dataset.test] == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("", "the file is empty"),
        ("path,part\n", "header 'path,part', expected 'file,group'"),
        ("file,group\ntrain/good/000.png\n", "row 2 is 'train/good/000.png'"),
        ("file,group\ntrain/good/000.png,\n", "row 2 is"),
        ("file,group\ntrain/good/000.png,a,b\n", "row 2 is"),
        ("file,group\ntrain/good/999.png,a\n", "row 2 names 'train/good/999.png', which is no"),
        ("file,group\ntrain/good/000.png,a\ntrain/good/000.png,b\n", "row 3 .* a second group"),
        ("file,group\ntrain/good/000.png,a\n", r"no group for 2 of 3 images \('test/dent/000.png'"),
        ('file,group\n"train', "cannot be read as CSV"),
        ("file,group\n\xff", "cannot be read as CSV"),
    ],
)
def test_groups_csv_mistakes(
    make_dataset: MakeDataset, tmp_path: Path, text: str, pattern: str
) -> None:
    root = make_dataset(train=2, test_good=None, anomalies={"dent": 1})
    file = tmp_path / "groups.csv"
    file.write_bytes(text.encode("latin-1"))
    assert_refused(root, r"groups\.csv: .*" + pattern, groups_csv=file)


def test_groups_csv_missing(make_dataset: MakeDataset, tmp_path: Path) -> None:
    assert_refused(make_dataset(), "none.csv: cannot be read", groups_csv=tmp_path / "none.csv")


def test_magnetic_tile(shared_data: Path) -> None:
    dataset = MVTecAD.scan(shared_data / "magnetic_tile", group_regex=r"num_(\d{3})")
    assert len(dataset.train) == 115
    counts = {kind: sum(s.type == kind for s in dataset.test) for kind in (GOOD, *dataset.types)}
    assert counts == {GOOD: 28, "blowhole": 19, "break": 18, "crack": 9}


def test_broken_link(tmp_path: Path) -> None:
    root = draw_textures(tmp_path / "data", image_size=64, train=8, test_good=2, per_type=2)
    link = root / "train" / "good" / "link.png"
    link.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"link\.png: a link to a file that does not exist"):
        MVTecAD.scan(root)
