from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autopatch.data import (
    GOOD,
    PROTOCOLS,
    Dataset,
    MVTecAD,
    Sample,
    Split,
    SplitProtocol,
    check,
    load_masks,
    make_split,
)
from autopatch.errors import InputError

MakeDataset = Callable[..., Path]
ROOT = Path("dataset")
GOOD_ROLES = ("fit", "holdout")


def samples(folder: str, groups: list[str | None]) -> tuple[Sample, ...]:
    kind = Path(folder).name
    return tuple(
        Sample(
            ROOT / folder / f"{index:03d}.png",
            kind,
            None if kind == GOOD else ROOT / "ground_truth" / kind / f"{index:03d}_mask.png",
            group,
        )
        for index, group in enumerate(groups)
    )


def dataset_of(*, train: int = 40, test_good: int = 10, crack: int = 9, dent: int = 7) -> MVTecAD:
    return MVTecAD(
        ROOT,
        samples("train/good", [None] * train),
        samples("test/good", [None] * test_good)
        + samples("test/crack", [None] * crack)
        + samples("test/dent", [None] * dent),
    )


def grouped_dataset(seed: int, groups: int = 40) -> MVTecAD:
    """Groups of mixed roles: train and test, good and both types."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> list[str | None]:
        return [f"g{index}" for index in rng.integers(0, groups, count)]

    return MVTecAD(
        ROOT,
        samples("train/good", draw(60)),
        samples("test/good", draw(8))
        + samples("test/crack", draw(12))
        + samples("test/dent", draw(12)),
    )


def of_type(part: tuple[Sample, ...], kind: str) -> list[Sample]:
    return [sample for sample in part if sample.type == kind]


def assert_refused(dataset: MVTecAD, pattern: str, **options: Any) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        make_split(dataset, **{"shots": 1, **options})
    assert "\n" not in str(caught.value)


def test_random_roles_divide_the_data() -> None:
    dataset = dataset_of()
    split = make_split(dataset, shots=1)
    assert (len(split.fit), len(split.holdout), len(split.calibration)) == (32, 8, 0)
    assert split.good == split.fit + split.holdout
    assert sorted(split.fit + split.holdout, key=str) == sorted(dataset.train, key=str)
    assert [sample.type for sample in split.validation] == ["crack", "dent"]
    assert len(split.reserved_unused) == 6
    assert sorted(split.validation + split.reserved_unused + split.test, key=str) == sorted(
        dataset.test, key=str
    )
    assert len(of_type(split.test, GOOD)) == 10
    assert len(of_type(split.test, "crack")) == 5
    assert split.notes == ()


@pytest.mark.parametrize("protocol", ["random", "autopatch"])
def test_test_part_does_not_depend_on_shots(protocol: str) -> None:
    splits = [make_split(dataset_of(), shots=shots, protocol=protocol) for shots in range(5)]
    assert len({split.test for split in splits}) == 1
    assert len({split.fit + split.holdout for split in splits}) == 1
    for shots, split in enumerate(splits):
        for kind in ("crack", "dent"):
            chosen = of_type(split.validation, kind)
            assert len(chosen) == shots
            reserved = chosen + of_type(split.reserved_unused, kind)
            assert reserved == of_type(splits[4].validation, kind)


def test_seed_decides_the_random_order() -> None:
    dataset = dataset_of()
    assert make_split(dataset, shots=2, seed=3) == make_split(dataset, shots=2, seed=3)
    splits = [make_split(dataset, shots=2, seed=seed) for seed in range(4)]
    for role in ("fit", "holdout", "validation", "test"):
        assert len({getattr(split, role) for split in splits}) > 1


def test_known_order() -> None:
    """The order of a seed is part of what a stored result means."""
    split = make_split(dataset_of(), shots=2, seed=0)
    assert [int(sample.image.stem) for sample in split.validation] == [2, 3, 2, 1]
    assert [int(sample.image.stem) for sample in split.holdout] == [1, 5, 15, 21, 22, 24, 31, 33]


def test_reserve_zero() -> None:
    dataset = dataset_of()
    split = make_split(dataset, shots=0, reserve=0)
    assert split.test == dataset.test
    assert split.validation == split.reserved_unused == ()


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_never_divided(seed: int) -> None:
    dataset = grouped_dataset(seed)
    reference = make_split(dataset, shots=0, seed=seed)
    for shots in (1, 4):
        split = make_split(dataset, shots=shots, seed=seed)
        parts = [
            {sample.group for sample in part}
            for part in (
                split.fit,
                split.holdout,
                split.calibration,
                split.validation + split.reserved_unused,
                split.test,
            )
        ]
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert split.test == reference.test
        for kind in dataset.types:
            assert len(of_type(split.validation, kind)) == shots
            assert len(of_type(split.validation + split.reserved_unused, kind)) >= 4
            assert of_type(split.test, kind)
    test_groups = {sample.group for sample in dataset.test}
    left_out = sum(sample.group in test_groups for sample in dataset.train)
    assert left_out > 0
    used = sum(len(getattr(split, role)) for role in GOOD_ROLES)
    assert used == 60 - left_out
    assert (
        f"left out {left_out} of the 60 images of train/good: their groups have test images, too"
    ) in split.notes
    lost = 8 - len(of_type(split.test, GOOD))
    assert any(note.startswith(f"left out {lost} of the 8") for note in split.notes) == bool(lost)


def test_good_roles_keep_their_sizes_with_groups() -> None:
    dataset = replace(
        dataset_of(), train=samples("train/good", [f"t{index // 3}" for index in range(60)])
    )
    split = make_split(dataset, shots=1)
    # 12 images are whole groups of three.
    assert [len(getattr(split, role)) for role in GOOD_ROLES] == [48, 12]


def test_groups_that_leave_no_test_image() -> None:
    dataset = replace(
        dataset_of(),
        test=samples("test/good", ["a", "b"]) + samples("test/dent", ["c"] * 3 + ["d"] * 3),
    )
    assert_refused(dataset, "whole groups of the type 'dent' leave no image to test")
    make_split(dataset, shots=1, reserve=3)


def test_groups_that_leave_no_good_test_image() -> None:
    dataset = replace(
        dataset_of(),
        test=samples("test/good", ["a", "a"])
        + samples("test/crack", ["a", "b"])
        + samples("test/dent", ["a", "c", "d"]),
    )
    refused = []
    for seed in range(10):
        try:
            make_split(dataset, shots=1, reserve=1, seed=seed)
        except InputError as error:
            refused.append(str(error))
    assert 0 < len(refused) < 10
    (message,) = set(refused)
    assert "test/good: the groups of all 2 images lie in the reserve" in message


def test_without_test_good() -> None:
    dataset = dataset_of(test_good=0)
    split = make_split(dataset, shots=1)
    good = of_type(split.test, GOOD)
    assert [len(getattr(split, role)) for role in GOOD_ROLES] == [24, 8]
    assert len(good) == 8
    assert not set(good) & set(split.fit + split.holdout)
    (note,) = split.notes
    assert "no good images to test: 8 images of train/good" in note


def test_smallest_training_folder() -> None:
    split = make_split(dataset_of(train=4), shots=1)
    assert [len(getattr(split, role)) for role in GOOD_ROLES] == [2, 2]
    assert_refused(dataset_of(train=3), "train/good: 3 images.*fit 1; expected at least 2")
    assert_refused(dataset_of(train=5, test_good=0), "train/good: 5 images.*fit 1; expected")
    one_group = replace(dataset_of(), train=samples("train/good", ["a"] * 40))
    assert_refused(one_group, "40 images, 40 of them usable in 1 groups.*fit 0")


def test_a_data_set_without_anomalies() -> None:
    dataset = replace(dataset_of(), test=())
    split = make_split(dataset, shots=0)
    assert [len(getattr(split, role)) for role in GOOD_ROLES] == [24, 8]
    assert [sample.type for sample in split.test] == [GOOD] * 8
    assert split.validation == split.reserved_unused == ()


def test_arguments_out_of_range() -> None:
    dataset = dataset_of()
    assert_refused(dataset, "`shots` is -1", shots=-1)
    assert_refused(dataset, "`reserve` is -1", reserve=-1)
    assert_refused(dataset, "`seed` is -1", seed=-1)
    assert_refused(dataset, "`shots` is 5, expected at most the `reserve` of 4", shots=5)
    assert_refused(dataset, "protocol is 'sorted', expected one of 'random'", protocol="sorted")


@pytest.mark.parametrize("protocol", ["random", "autopatch"])
def test_too_few_anomalies(protocol: str) -> None:
    assert_refused(
        dataset_of(dent=2),
        "`shots` is 3, but the type 'dent' has only 2 images",
        shots=3,
        protocol=protocol,
    )
    assert_refused(
        dataset_of(dent=4), "`reserve` is 4, but the type 'dent' has 4 images", protocol=protocol
    )


def test_published_order() -> None:
    dataset = dataset_of()
    split = make_split(dataset, shots=2, seed=9, protocol="autopatch")
    assert split.holdout == dataset.train[:10]
    assert split.fit == dataset.train[10:]
    assert split.calibration == split.holdout
    assert split.good == split.fit
    assert split.validation == samples("test/crack", [None] * 2) + samples("test/dent", [None] * 2)
    assert split.test == (
        samples("test/good", [None] * 10)
        + samples("test/crack", [None] * 9)[4:]
        + samples("test/dent", [None] * 7)[4:]
    )
    (note,) = split.notes
    assert "threshold is set on the 10 hold-out images" in note


def test_published_order_refuses_groups_and_small_sets() -> None:
    assert_refused(grouped_dataset(0), "'autopatch' with groups", protocol="autopatch")
    assert_refused(dataset_of(test_good=0), "0 good images to test", protocol="autopatch")
    assert_refused(
        dataset_of(train=11),
        "10 good images to test and 11 to train on, expected .* 2 more than that to train on",
        protocol="autopatch",
    )


def test_legacy_order(tmp_path: Path) -> None:
    dataset = dataset_of(train=40, test_good=10)
    names = [sample.image.name for sample in dataset.train]
    np.random.default_rng(3).shuffle(names)
    order = tmp_path / "order.txt"
    order.write_text("\n".join(names) + "\n")
    split = make_split(dataset, shots=2, protocol="autopatch", legacy_order=order)
    assert [sample.image.name for sample in split.holdout] == names[:10]
    assert [sample.image.name for sample in split.fit] == names[10:]
    assert split.calibration == split.holdout
    # Anomalies are sorted in the published code, too.
    alike = make_split(dataset, shots=2, protocol="autopatch")
    for role in ("validation", "reserved_unused", "test"):
        assert getattr(split, role) == getattr(alike, role)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: [*names, "040.png"], "line 41 is '040.png', expected the name"),
        (lambda names: [*names, names[1]], "line 41 names '001.png' again"),
        (lambda names: names[2:], "lacks 2 of the 40 images"),
    ],
)
def test_legacy_orders_that_do_not_name_each_image_once(
    tmp_path: Path, change: Callable[[list[str]], list[str]], message: str
) -> None:
    dataset = dataset_of(train=40)
    order = tmp_path / "order.txt"
    order.write_text("\n".join(change([sample.image.name for sample in dataset.train])))
    with pytest.raises(InputError, match=message) as caught:
        make_split(dataset, shots=1, protocol="autopatch", legacy_order=order)
    assert str(order) in str(caught.value)


def test_legacy_orders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        make_split(dataset_of(), shots=1, protocol="autopatch", legacy_order=tmp_path / "absent")
    with pytest.raises(InputError, match=r"`legacy_order` is .* `protocol` 'random'"):
        make_split(dataset_of(), shots=1, legacy_order=tmp_path / "absent")


@dataclass
class Listed:
    """A data set of another layout: all images in one folder."""

    root: Path
    train: Sequence[Sample]
    test: Sequence[Sample]
    types: tuple[str, ...] = ("crack", "dent")
    notes: tuple[str, ...] = ()


def listed(root: Path, dataset: Dataset) -> Listed:
    return Listed(
        root,
        tuple(replace(s, image=root / f"train_{s.image.name}") for s in dataset.train),
        tuple(replace(s, image=root / f"{s.type}_{s.image.name}") for s in dataset.test),
    )


@pytest.mark.parametrize("protocol", ["random", "autopatch"])
def test_data_sets_of_another_layout(protocol: str) -> None:
    dataset = dataset_of()
    expected = make_split(dataset, shots=2, protocol=protocol)
    other = listed(ROOT, dataset)
    split = make_split(other, shots=2, protocol=protocol)
    in_lists = replace(other, train=list(other.train), test=list(other.test))
    assert make_split(in_lists, shots=2, protocol=protocol) == split
    for role, part in split.roles.items():
        assert [(s.type, s.image.name[-7:]) for s in part] == [
            (s.type, s.image.name) for s in expected.roles[role]
        ]


def test_messages_about_data_sets_of_another_layout() -> None:
    root = Path("images")
    split = make_split(listed(root, dataset_of(test_good=0)), shots=1)
    assert split.notes == (
        "no good images to test: 8 images of images become the good images of the test set",
    )
    with pytest.raises(InputError, match=r"^images: 3 images, 3 of them usable"):
        make_split(listed(root, dataset_of(train=3)), shots=1)


def test_data_sets_of_another_layout_are_checked(make_dataset: MakeDataset) -> None:
    scanned = MVTecAD.scan(make_dataset())
    dataset = Listed(scanned.root, scanned.train, scanned.test)
    assert check(dataset).problems == ()
    dataset.train[0].image.write_bytes(b"")
    (problem,) = check(dataset).problems
    assert "000.png: not an image" in problem
    assert load_masks(dataset.test, 8).any()


def test_registered_protocol() -> None:
    asked: dict[str, Any] = {}
    expected = make_split(dataset_of(), shots=1)

    def choose(dataset: Dataset, **options: Any) -> Split:
        asked.update(options, dataset=dataset)
        return expected

    PROTOCOLS.register("mine", SplitProtocol(choose))
    try:
        dataset = dataset_of()
        assert make_split(dataset, shots=2, seed=3, protocol="mine") is expected
        assert asked.pop("dataset") is dataset
        assert asked == {"shots": 2, "reserve": 4, "seed": 3, "legacy_order": None}
        assert_refused(dataset, "`shots` is 5", shots=5, protocol="mine")
    finally:
        PROTOCOLS.unregister("mine")


def test_roles() -> None:
    split = make_split(dataset_of(), shots=1)
    assert list(split.roles) == [
        "fit",
        "holdout",
        "calibration",
        "validation",
        "reserved_unused",
        "test",
    ]
    assert split.roles["fit"] is split.fit


def test_json_round_trip(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset()
    dataset = MVTecAD.scan(root, group_regex=r"\d+")
    dataset = replace(dataset, train=tuple(replace(s, group=f"t{s.group}") for s in dataset.train))
    split = make_split(dataset, shots=1, seed=5)
    document = json.loads(json.dumps(split.to_json(root)))
    assert all(not Path(entry["path"]).is_absolute() for entry in document["test"])
    assert Split.from_json(document, root) == split

    moved = root.rename(tmp_path / "moved")
    again = Split.from_json(document, moved)
    assert again.to_json(moved) == document
    assert again.fit[0].image.is_relative_to(moved)

    (moved / document["fit"][0]["path"]).unlink()
    with pytest.raises(InputError, match=rf"moved/{document['fit'][0]['path']}: missing"):
        Split.from_json(document, moved)


def test_json_mistakes(make_dataset: MakeDataset, tmp_path: Path) -> None:
    root = make_dataset()
    split = make_split(MVTecAD.scan(root), shots=1)
    with pytest.raises(InputError, match="not under"):
        split.to_json(tmp_path / "elsewhere")
    document = split.to_json(root)
    with pytest.raises(InputError, match="split: no entry 'test'"):
        Split.from_json({key: value for key, value in document.items() if key != "test"}, root)
    for change in ({"seed": "x"}, {"fit": 3}, {"fit": [3]}, {"fit": [{"path": 3, "type": GOOD}]}):
        with pytest.raises(InputError, match="split: "):
            Split.from_json({**document, **change}, root)


def test_magnetic_tile(shared_data: Path) -> None:
    dataset = MVTecAD.scan(shared_data / "magnetic_tile", group_regex=r"num_(\d{3})")
    split = make_split(dataset, shots=1)
    assert len(split.validation) == 3
    assert len(split.fit) > 3 * len(split.holdout) > 36
    published = make_split(
        MVTecAD.scan(shared_data / "magnetic_tile"), shots=1, protocol="autopatch"
    )
    assert (len(published.fit), len(published.holdout)) == (87, 28)
    assert len(published.test) == 28 + 15 + 14 + 5
