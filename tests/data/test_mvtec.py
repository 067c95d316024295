from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

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


def test_suffixes_in_any_case(make_dataset: MakeDataset) -> None:
    root = make_dataset(train=["a.JPG", "b.Tiff", "c.png", "d.jfif", "e.JPE", "f.tga", "g.dib"])
    dataset = MVTecAD.scan(root)
    assert len(dataset.train) == 7
    assert dataset.notes == ()


def test_what_is_passed_over_is_said(make_dataset: MakeDataset) -> None:
    root = make_dataset(train=["a.png", "b.png"], anomalies={"dent": 1})
    for name in (
        "train/good/notes.txt",
        "train/good/c.HEIC",
        "train/good/second/a.png",
        "train/good/second/day/a.png",
        "train/good/empty/.gitkeep",
        "train/bad/x.png",
        "train/stray.png",
        "test/good/extra/x.png",
        "test/dent/0.xml",
        "ground_truth/dent/more/x_mask.png",
        "ground_truth/good/000_mask.png",
        "validation/good/000.png",
        "license.txt",
        "preview.png",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert MVTecAD.scan(root).notes == (
        f"{root}: skipped 1 folder (validation) beside train, test, ground_truth",
        f"{root}: skipped 1 image (preview.png) beside train, test, ground_truth",
        "train: skipped 1 folder (bad) beside good",
        "train: skipped 1 image (stray.png) beside good",
        "ground_truth: skipped 1 folder (good) beside dent",
        "train/good: skipped 2 subfolders (empty, second) with 2 images; move these up to use them",
        "train/good: skipped 2 files without the suffix of an image format that can be read "
        "(c.HEIC, notes.txt)",
        "test/good: skipped 1 subfolder (extra) with 1 image; move these up to use them",
        "test/dent: skipped 1 file without the suffix of an image format that can be read (0.xml)",
        "ground_truth/dent: skipped 1 subfolder (more) with 1 image; move these up to use them",
    )


def test_masks_among_good_images_are_said(make_dataset: MakeDataset) -> None:
    root = make_dataset(train=["1.png", "1_mask.png", "2.png", "2_GT.png"])
    assert MVTecAD.scan(root).notes == (
        "train/good: 2 images (1_mask.png, 2_GT.png) look like masks of other images, but are "
        "read as images",
    )


def test_hidden_and_system_files_are_not_said(make_dataset: MakeDataset) -> None:
    root = make_dataset()
    for folder in (".", "train", "train/good", "test", "test/dent", "ground_truth/dent"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.png", "__MACOSX/._1.png"):
            (root / folder / name).parent.mkdir(exist_ok=True)
            (root / folder / name).touch()
        (root / folder / "@eaDir" / "000.png").parent.mkdir()
        (root / folder / "@eaDir" / "000.png").touch()
    assert MVTecAD.scan(root).notes == ()


def test_other_files_and_folders_are_not_read(make_dataset: MakeDataset) -> None:
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
    assert_refused(empty, "train/good: no image")
    make_dataset()
    (tmp_path / "dataset/test/bend").mkdir()
    assert_refused(tmp_path / "dataset", r"test/bend: no image")


def test_only_good_images(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset(anomalies={})
    with_test = MVTecAD.scan(root)
    assert with_test.types == ()
    assert {sample.type for sample in with_test.test} == {"good"}
    shutil.rmtree(root / "test")
    without_test = MVTecAD.scan(root)
    assert without_test.test == ()
    assert without_test.train == with_test.train
    plain = MVTecAD.scan(root / "train/good")
    assert [s.image for s in plain.train] == [s.image for s in with_test.train]
    assert plain.test == ()
    assert plain.notes == ()
    (root / "train/good/later").mkdir()
    Image.new("L", (8, 8)).save(root / "train/good/later/1.png")
    assert "skipped 1 subfolder (later)" in MVTecAD.scan(root / "train/good").notes[0]
    # Images of defects that lie elsewhere are not passed over.
    (root / "defects").mkdir()
    Image.new("L", (8, 8)).save(root / "defects/1.png")
    assert_refused(root, "defects should be test/defects")


# What other data sets look like, and what the message then ends with.
_OTHER_LAYOUTS = {
    "BTAD": (
        ["train/ok/0.bmp", "test/ok/0.bmp", "test/ko/0.bmp", "ground_truth/ko/0.png"],
        "no folder train/good, .*: train/ok should be train/good, test/ok should be test/good$",
    ),
    "upper case": (
        ["Train/Good/0.png", "Test/Good/0.png", "Test/dent/0.png", "Ground_Truth/dent/0.png"],
        "Train/Good should be train/good, Ground_Truth/dent should be ground_truth/dent, "
        r"Test/Good should be test/good, \.\.\.$",
    ),
    "VisA": (
        ["Data/Images/Normal/0.JPG", "Data/Images/Anomaly/0.JPG", "Data/Masks/Anomaly/0.png"],
        "Data/Images/Normal should be train/good, Data/Images/Anomaly should be test/Anomaly, "
        "Data/Masks/Anomaly should be ground_truth/Anomaly$",
    ),
    "Real-IAD": (
        ["OK/S0001/a.jpg", "OK/S0002/a.jpg", "NG/HS/S0003/a.jpg", "NG/HS/S0003/a.png"],
        "OK should be train/good, NG should be test/NG$",
    ),
    "MVTec AD 2": (
        ["train/good/0.png", "test_public/good/0.png", "test_public/ground_truth/bad/0_mask.png"],
        "no folder test/<type> with .* test_public/good should be test/good, "
        "test_public/ground_truth/bad "
        "should be ground_truth/bad$",
    ),
    "three folders": (
        ["good/0.png", "defect/0.png", "masks/0.png"],
        "good should be train/good, defect should be test/defect, masks should be "
        "ground_truth/<type>$",
    ),
    "KolektorSDD": (
        ["kos01/Part0.jpg", "kos01/Part0_label.bmp", "kos02/Part0.jpg", "kos02/Part0_label.bmp"],
        "found images in kos01, kos02; kos01/Part0_label.bmp looks like the mask of "
        "kos01/Part0.jpg, masks should be in ground_truth/<type>$",
    ),
    "KolektorSDD2": (
        ["train/1.png", "train/1_GT.png", "test/2.png", "test/2_GT.png"],
        "train should be train/good, test should be test/<type>; .*_GT.png looks like the "
        "mask of .*ground_truth/<type>$",
    ),
    "images in test itself": (
        ["train/good/0.png", "test/0.png"],
        "no folder test/<type> with anomalous images; .*: test should be test/<type>$",
    ),
    "images in subfolders": (
        ["train/good/monday/0.png", "train/good/monday/1.png", "test/dent/0.png"],
        "train/good: no image in the folder, .*; move up the 2 images of its subfolders$",
    ),
    "several categories": (
        ["01/train/ok/0.bmp", "02/train/ok/0.bmp"],
        "as in .*01: name one category's folder$",
    ),
    "nothing": (["notes.txt"], "no folder train/good, expected one with good images$"),
}


@pytest.mark.parametrize("name", _OTHER_LAYOUTS)
def test_other_layouts_get_a_hint(tmp_path: Path, name: str) -> None:
    files, pattern = _OTHER_LAYOUTS[name]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert_refused(tmp_path, pattern)


# Files beside train/good and test/good, with what the message on the first image ends with.
_OTHER_MASKS = {
    "good images by another name": (["test/ok/0.png"], "should be in test/good$"),
    "good in upper case": (["test/Good/0.png"], "test/Good are good, they should be in test/good$"),
    "masks in test": (
        ["test/dent/0.png", "ground_truth/dent/0.png", "test/ground_truth/0.png"],
        "if the images of .*test/ground_truth are masks, they should be in ground_truth$",
    ),
    "masks beside images": (
        ["test/dent/0.png", "test/dent/0_mask.png"],
        "0_mask.png looks like the mask of 0.png, masks should be in ground_truth/dent$",
    ),
    "type in another case": (
        ["test/dent/0.png", "ground_truth/Dent/0.png"],
        "found .*ground_truth/Dent, it should be ground_truth/dent$",
    ),
    "folder by another name": (
        ["test/dent/0.png", "Masks/dent/0.png"],
        "found .*Masks/dent, it should be ground_truth/dent$",
    ),
    "no folder a type": (
        ["test/dent/0.png", "ground_truth/0.png"],
        "found 1 image in .*ground_truth itself, masks should be in ground_truth/dent$",
    ),
    "other types": (
        ["test/dent/0.png", "ground_truth/crack/0.png"],
        "found masks of crack in .*ground_truth$",
    ),
    "a folder an image (MVTec LOCO)": (
        ["test/dent/0.png", "ground_truth/dent/0/000.png", "ground_truth/dent/0/001.png"],
        "found 2 images in the folder .*dent/0; merge them into one mask, 0_mask.png$",
    ),
    "a folder with one mask": (
        ["test/dent/0.png", "ground_truth/dent/0/mask.png"],
        "found 1 image in the folder .*dent/0; move it to 0_mask.png$",
    ),
    "another ending": (
        ["test/dent/part_0.png", "ground_truth/dent/part_0-defect.png"],
        "found part_0-defect.png, masks should be named <stem of the image>_mask.png$",
    ),
    "another kind of file": (
        ["test/dent/0.png", "ground_truth/dent/0.json"],
        "found 0.json, masks should be named",
    ),
    "masks of others": (
        ["test/dent/0.png", "ground_truth/dent/x.png"],
        "found 1 mask of other images in .*ground_truth/dent$",
    ),
    "none": (["test/dent/0.png"], "ground_truth/dent/0_mask.png$"),
}


@pytest.mark.parametrize("name", _OTHER_MASKS)
def test_missing_masks_get_a_hint(tmp_path: Path, name: str) -> None:
    files, pattern = _OTHER_MASKS[name]
    for file in ("train/good/0.png", "test/good/0.png", *files):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert_refused(tmp_path, r"\.png: no mask, expected .*" + pattern)


@pytest.mark.parametrize("name", ["Masks", "ground_truth/dent/0", "other/deep"])
def test_a_hint_needs_no_folder_that_cannot_be_listed(tmp_path: Path, name: str) -> None:
    for file in ("train/good/0.png", "test/good/0.png", "test/dent/0.png"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / "link.png").symlink_to("nowhere")
    assert_refused(tmp_path, r"test/dent/0.png: no mask, expected .*ground_truth/dent/0_mask.png$")
    (tmp_path / "train").rename(tmp_path / "training")
    assert_refused(tmp_path, r"no folder train/good.*training/good should be train/good")


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
    assert_refused(root, r"003.png: differs from 003.jpg only in its suffix")


@pytest.mark.parametrize("pattern", [r"part(\d+)", r"\d+(?=_)"])
def test_group_regex(make_dataset: MakeDataset, pattern: str) -> None:
    root = make_dataset(
        train=["part10_a.png", "part10_b.png"], test_good=None, anomalies={"dent": ["part7_a.png"]}
    )
    dataset = MVTecAD.scan(root, group_regex=pattern)
    assert [sample.group for sample in dataset.train + dataset.test] == ["10", "10", "7"]


def test_group_regex_mistakes(make_dataset: MakeDataset) -> None:
    root = make_dataset(train=["a1.png", "b.png"])
    assert_refused(root, r"b.png: no group, expected `group_regex`", group_regex=r"(\d)")
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
    with pytest.raises(InputError, match=r"link\.png: a link to a file or folder that does not"):
        MVTecAD.scan(root)
