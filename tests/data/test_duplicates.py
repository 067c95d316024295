from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autopatch.data import GOOD, MVTecAD, Sample, make_split
from autopatch.data.duplicates import Duplicates, find_duplicates, picture_digest, with_groups

ROOT = Path("dataset")


def samples(folder: str, count: int) -> list[Sample]:
    kind = Path(folder).name
    mask = None if kind == GOOD else ROOT / "mask.png"
    return [Sample(ROOT / folder / f"{index}.png", kind, mask) for index in range(count)]


def dataset_of(groups: dict[str, str] | None = None) -> MVTecAD:
    groups = groups or {}
    train = [
        replace(sample, group=groups.get(name(sample.image)))
        for sample in samples("train/good", 30)
    ]
    test = [
        replace(sample, group=groups.get(name(sample.image)))
        for folder, count in (("test/good", 8), ("test/crack", 12), ("test/dent", 12))
        for sample in samples(folder, count)
    ]
    return MVTecAD(ROOT, tuple(train), tuple(test))


def name(image: Path) -> str:
    return image.relative_to(ROOT).as_posix()


def found(dataset: MVTecAD, *alike: tuple[str, ...]) -> Duplicates:
    digests = {
        sample.image: name(sample.image).encode() for sample in (*dataset.train, *dataset.test)
    }
    for same in alike:
        for image in same:
            digests[ROOT / image] = same[0].encode()
    return find_duplicates(dataset, digests)


def groups_of(duplicates: Duplicates) -> dict[str, str]:
    return {name(image): group for image, group in duplicates.groups.items()}


def test_none() -> None:
    assert found(dataset_of()) == Duplicates()
    assert find_duplicates(dataset_of(), {}) == Duplicates()


def test_good_and_anomalous_at_once() -> None:
    duplicates = found(dataset_of(), ("train/good/3.png", "test/dent/0.png", "test/crack/1.png"))
    assert len(duplicates.contradictions) == 2
    for line, image in zip(duplicates.contradictions, ("crack/1", "dent/0"), strict=True):
        assert f"test/{image}.png: shows the same picture as the good image dataset/train" in line


def test_one_line_for_each_pair_of_folders() -> None:
    duplicates = found(
        dataset_of(),
        *((f"train/good/{index}.png", f"test/good/{index}.png") for index in range(4)),
        ("test/dent/0.png", "test/crack/0.png"),
        ("test/dent/1.png", "test/dent/2.png", "test/dent/3.png"),
    )
    assert duplicates.contradictions == ()
    assert [line.partition(";")[0] for line in duplicates.warnings] == [
        "4 pairs of images of train/good and test/good show the same picture "
        "(train/good/0.png = test/good/0.png, train/good/1.png = test/good/1.png, "
        "train/good/2.png = test/good/2.png, ...)",
        "1 pair of images of test/crack and test/dent shows the same picture "
        "(test/crack/0.png = test/dent/0.png)",
        "2 pairs of images within test/dent show the same picture "
        "(test/dent/1.png = test/dent/2.png, test/dent/1.png = test/dent/3.png)",
    ]


def test_the_same_pictures_get_one_group() -> None:
    duplicates = found(
        dataset_of(),
        ("test/good/1.png", "train/good/3.png"),
        ("test/dent/1.png", "test/dent/2.png"),
    )
    assert groups_of(duplicates) == {
        "train/good/3.png": "test/good/1.png",
        "test/good/1.png": "test/good/1.png",
        "test/dent/1.png": "test/dent/1.png",
        "test/dent/2.png": "test/dent/1.png",
    }


def test_many_copies_of_one_picture() -> None:
    train = tuple(samples("train/good", 600))
    begun = time.perf_counter()
    duplicates = find_duplicates(MVTecAD(ROOT, train, ()), {image.image: b"" for image in train})
    assert time.perf_counter() - begun < 1  # 10 s when each copy lists all others
    assert set(duplicates.groups.values()) == {"train/good/0.png"}


def test_earlier_groups_are_joined() -> None:
    groups = {
        "train/good/0.png": "a",
        "train/good/1.png": "a",
        "train/good/2.png": "b",
        "train/good/3.png": "b",
        "train/good/4.png": "c",
    }
    duplicates = found(
        dataset_of(groups),
        ("train/good/0.png", "train/good/2.png"),  # of a and b
        ("train/good/3.png", "train/good/7.png"),  # of b and of none
        ("train/good/9.png", "train/good/8.png"),  # of none
    )
    assert groups_of(duplicates) == {
        "train/good/2.png": "a",
        "train/good/3.png": "a",
        "train/good/7.png": "a",
        "train/good/8.png": "train/good/8.png",
        "train/good/9.png": "train/good/8.png",
    }
    assert groups_of(found(dataset_of(groups), ("train/good/0.png", "train/good/1.png"))) == {}


@pytest.mark.parametrize("seed", range(5))
def test_no_picture_has_two_roles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    dataset = dataset_of()
    pictures = {
        sample.image: bytes([k]) for sample in dataset.train for k in rng.integers(0, 25, 1)
    }
    for kind in ("crack", "dent"):
        of_kind = [sample.image for sample in dataset.test if sample.type == kind]
        pictures |= {
            image: bytes([100 + k])
            for image, k in zip(of_kind, rng.integers(0, 10, 12), strict=True)
        }
    split = make_split(
        dataset, shots=1, reserve=2, seed=seed, duplicates=find_duplicates(dataset, pictures)
    )
    roles: dict[bytes, set[str]] = {}
    for role, part in split.roles.items():
        for sample in part:
            if sample.image in pictures:
                role = "reserve" if role in ("validation", "reserved_unused") else role
                roles.setdefault(pictures[sample.image], set()).add(role)
    assert all(len(where) == 1 for where in roles.values())


def test_published_roles_stay_as_they_are() -> None:
    dataset = dataset_of()
    duplicates = found(dataset, ("test/good/1.png", "train/good/20.png"))
    options = {"shots": 1, "protocol": "autopatch"}
    assert make_split(dataset, **options, duplicates=duplicates) == make_split(dataset, **options)
    assert make_split(dataset, shots=1, duplicates=duplicates) != make_split(dataset, shots=1)
    assert make_split(dataset, shots=1, duplicates=Duplicates()) == make_split(dataset, shots=1)


def test_other_groups_change_nothing_else() -> None:
    dataset = dataset_of({"train/good/5.png": "five"})
    again = with_groups(dataset, {ROOT / "train/good/3.png": "g"})
    assert (again.root, tuple(again.types), again.notes) == (ROOT, dataset.types, ())
    changed = [sample for sample in again.train if sample not in dataset.train]
    assert changed == [replace(dataset.train[3], group="g")]
    assert tuple(again.test) == dataset.test


def test_digest_of_a_picture() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert picture_digest(pixels) == picture_digest(pixels.copy(order="F"))
    assert picture_digest(pixels) != picture_digest(pixels.reshape(4, 2, 3))
    assert picture_digest(pixels) != picture_digest(pixels + 1)
