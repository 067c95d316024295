from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopatch.data import (
    Manifest,
    MVTecAD,
    Sample,
    Split,
    digest,
    image_digests,
    make_split,
    pixels_digest,
)
from autopatch.errors import InputError

MakeDataset = Callable[..., Path]


@pytest.fixture
def root(make_dataset: MakeDataset) -> Path:
    return make_dataset()


@pytest.fixture
def split(root: Path) -> Split:
    return make_split(MVTecAD.scan(root), shots=2, reserve=3)


def changed(split: Split, role: str, **fields: object) -> Split:
    """The split with fields of the first sample of a role replaced."""
    first, *rest = split.roles[role]
    return replace(split, **{role: (replace(first, **fields), *rest)})  # type: ignore[arg-type]


def name(path: Path | None, root: Path) -> str:
    assert path is not None
    return path.relative_to(root).as_posix()


def test_same_files_same_digest(root: Path, split: Split, tmp_path: Path) -> None:
    manifest = Manifest.of(split, root)
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    again = Manifest.of(Split.from_json(split.to_json(root), moved), moved)
    assert again == manifest
    assert again.digest == manifest.digest
    assert re.fullmatch("[0-9a-f]{64}", manifest.digest)
    assert manifest.differences(again) is None
    shuffled = replace(split, fit=split.fit[::-1])
    assert Manifest.of(shuffled, root).digest == manifest.digest
    assert len(manifest.entries) == sum(map(len, split.roles.values()))


def test_json_round_trip(root: Path, split: Split) -> None:
    manifest = Manifest.of(split, root)
    document = json.loads(json.dumps(manifest.to_json()))
    assert Manifest.from_json(document) == manifest
    assert str(root) not in json.dumps(document)


def test_json_mistakes(root: Path, split: Split) -> None:
    entry = Manifest.of(split, root).to_json()["entries"][0]
    for document in (
        {},
        {"entries": 3},
        {"entries": [3]},
        {"entries": [{**entry, "more": "x"}]},
        {"entries": [{**entry, "role": None}]},
        {"entries": [{**entry, "group": 3}]},
    ):
        with pytest.raises(InputError, match="manifest: ") as caught:
            Manifest.from_json(document)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_each_file_is_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(MVTecAD.scan(root), shots=2, protocol="autopatch")
    assert split.holdout == split.calibration
    read: list[Path] = []
    sha256_of = digest.sha256_of

    def record(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr(digest, "sha256_of", record)
    manifest = Manifest.of(split, root)
    assert len(read) == len(set(read)) == 20 + 5 + 2 * (7 + 6)
    assert len(manifest.entries) == 20 + 5 + 5 + 7 + 6


def test_changed_files(root: Path, split: Split) -> None:
    before = Manifest.of(split, root)
    images = sorted(sample.image for sample in split.fit[:5])
    for image in images:
        Image.new("RGB", (12, 8), (1, 2, 3)).save(image)
    mask = split.validation[0].mask
    assert mask is not None
    Image.new("L", (12, 8), 255).save(mask)
    now = Manifest.of(split, root)
    assert now.digest != before.digest
    listed = ", ".join(name(image, root) for image in images[:3])
    said = before.differences(now)
    assert said == (f"5 images were changed: {listed}, ...; 1 mask was changed: {name(mask, root)}")
    assert not re.search("[0-9a-f]{16}", said)


def test_missing_and_new_files(root: Path, split: Split) -> None:
    before = Manifest.of(split, root)
    image, mask = split.fit[0].image, split.test[-1].mask
    assert mask is not None
    image.unlink()
    mask.unlink()
    now = Manifest.of(split, root)
    assert now.digest != before.digest
    assert before.differences(now) == (
        f"1 image is missing: {name(image, root)}; 1 mask is missing: {name(mask, root)}"
    )
    assert now.differences(before) == (
        f"1 image is new: {name(image, root)}; 1 mask is new: {name(mask, root)}"
    )
    fewer = Manifest.of(replace(split, fit=split.fit[2:]), root)
    assert (before.differences(fewer) or "").startswith("2 images are missing: ")
    assert (fewer.differences(before) or "").startswith("2 images are new: ")


def test_changed_roles_types_and_groups(root: Path, split: Split) -> None:
    before = Manifest.of(split, root)
    moved = replace(split, fit=split.fit[1:], holdout=(*split.holdout, split.fit[0]))
    path = name(split.fit[0].image, root)
    assert before.differences(Manifest.of(moved, root)) == f"1 image has another role: {path}"
    both = replace(split, holdout=(*split.holdout, split.fit[0]))
    assert before.differences(Manifest.of(both, root)) == f"1 image has another role: {path}"
    grouped = replace(
        split, fit=tuple(replace(s, group="g") for s in split.fit[:2]) + split.fit[2:]
    )
    said = before.differences(Manifest.of(grouped, root)) or ""
    assert said.startswith("the group of 2 images was changed: train/good/")
    path = name(split.test[-1].image, root)
    last = replace(split.test[-1], type="scratch")
    retyped = replace(split, test=(*split.test[:-1], last))
    assert before.differences(Manifest.of(retyped, root)) == (
        f"the type of 1 image was changed: {path}"
    )


def test_renamed_and_dropped_masks(root: Path, split: Split) -> None:
    before = Manifest.of(split, root)
    mask = split.validation[0].mask
    assert mask is not None
    other = mask.with_name("other.png")
    mask.rename(other)
    now = Manifest.of(changed(split, "validation", mask=other), root)
    assert before.differences(now) == f"1 mask was renamed: {name(mask, root)}"
    other.rename(mask)
    none = Manifest.of(changed(split, "validation", mask=None), root)
    assert before.differences(none) == f"1 mask is missing: {name(mask, root)}"


def test_every_field_counts(root: Path, split: Split) -> None:
    before = Manifest.of(split, root)
    (first, *rest) = before.entries
    for field, value in (
        ("role", "test"),
        ("path", "x.png"),
        ("sha256", "0" * 64),
        ("sha256", None),
        ("mask", "m.png"),
        ("mask_sha256", "0" * 64),
        ("type", "dent"),
        ("group", "g"),
    ):
        other = Manifest((replace(first, **{field: value}), *rest))  # type: ignore[arg-type]
        assert other.digest != before.digest
        assert before.differences(other) is not None


def test_files_elsewhere_are_refused(root: Path, split: Split, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not under"):
        Manifest.of(split, tmp_path / "elsewhere")
    outside = changed(split, "fit", image=tmp_path / "outside.png")
    with pytest.raises(InputError, match=r"outside.png: not under"):
        Manifest.of(outside, root)


def test_pixels_digest_of_files(root: Path, tmp_path: Path) -> None:
    files = [sample.image for sample in MVTecAD.scan(root).train]
    expected = pixels_digest(files)
    assert pixels_digest(iter(map(str, files[::-1]))) == expected
    assert pixels_digest(files[0]) == pixels_digest([files[0]])
    assert image_digests(str(files[0])) == image_digests(files[:1])
    assert pixels_digest(files[1:]) != expected
    assert pixels_digest([*files, files[0]]) != expected
    copied = [shutil.copy(file, tmp_path / f"copy{file.name}") for file in files]
    assert pixels_digest(copied) == expected
    Image.open(files[0]).save(tmp_path / "other.bmp")
    assert pixels_digest([tmp_path / "other.bmp", *files[1:]]) == expected
    assert pixels_digest([np.asarray(Image.open(files[0])), *files[1:]]) == expected
    Image.new("RGB", (12, 8), (9, 9, 9)).save(files[3])
    assert pixels_digest(files) != expected
    with pytest.raises(InputError, match=r"none.png: no such file"):
        pixels_digest([tmp_path / "none.png"])


def test_pixels_digest_of_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    expected = pixels_digest([pixels])
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for same in (Image.fromarray(pixels), tensor, tensor / 255, pixels.copy(order="F")):
        assert pixels_digest([same]) == expected
    assert pixels_digest([pixels.reshape(8, 6, 3)]) != expected
    assert pixels_digest([255 - pixels, pixels]) == pixels_digest([pixels, 255 - pixels])
    with pytest.raises(InputError, match=r"images\[1\]: NoneType"):
        pixels_digest([pixels, None])  # type: ignore[list-item]


def test_a_sample_without_an_anomaly_has_no_label() -> None:
    assert not Sample(Path("a.png"), "good").label
    assert Sample(Path("a.png"), "dent").label
