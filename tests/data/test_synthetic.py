"""Sets of synthetic anomalies on disk."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from autopatch.data import (
    DEFAULT_KINDS,
    DEFAULT_READING,
    GOOD,
    KINDS,
    Anomaly,
    MVTecAD,
    Reading,
    Sample,
    anomalies_digest,
    draw_anomalies,
    load_anomalies,
    load_masks,
    read_image,
    read_mask,
)
from autopatch.data.synthetic import drawing
from autopatch.data.synthetic.kinds import region_kind
from autopatch.data.synthetic.painting import RIM
from autopatch.errors import InputError

SIDE = 112


def surface(seed: int, height: int, width: int, channels: int) -> np.ndarray:
    """A rough surface, uint8 `[height, width, channels]`."""
    rng = np.random.default_rng(seed)
    rough = ndimage.gaussian_filter(rng.standard_normal((height, width, channels)), (1.5, 1.5, 0))
    return (120 + 25 * rough / rough.std()).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Nine color images of a rough surface, in groups of three."""
    folder = tmp_path_factory.mktemp("good")
    samples = []
    for index in range(9):
        path = folder / f"{index}.png"
        Image.fromarray(surface(index, SIDE, SIDE, 3)).save(path)
        samples.append(Sample(path, GOOD, group=f"part {index // 3}"))
    return samples


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Two images with a black square each, at different places."""
    folder = tmp_path_factory.mktemp("shots")
    samples = []
    for index in range(2):
        pixels, mask = surface(50 + index, SIDE, SIDE, 3), np.zeros((SIDE, SIDE), np.uint8)
        pixels[20 : 32 + 4 * index, 60:70] = 0
        mask[20 : 32 + 4 * index, 60:70] = 255
        files = folder / f"{index}.png", folder / f"{index}_mask.png"
        Image.fromarray(pixels).save(files[0])
        Image.fromarray(mask).save(files[1])
        samples.append(Sample(files[0], "hole", files[1]))
    return samples


@pytest.fixture(scope="module")
def drawn(
    good: list[Sample], shots: list[Sample], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[Anomaly, ...]]:
    """A folder with four anomalies of each kind, and the anomalies."""
    folder = tmp_path_factory.mktemp("drawn") / "set"
    return folder, draw_anomalies(good, folder, shots=shots, per_kind=4, seed=3)


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    """Registers kinds until the test ends."""
    names: list[str] = []

    def add(name: str, kind: object) -> None:
        KINDS.register(name, kind)
        names.append(name)

    yield add
    for name in names:
        KINDS.unregister(name)


def pixels_of(anomaly: Anomaly, reading: Reading = DEFAULT_READING) -> tuple[np.ndarray, ...]:
    """The good image, the image with the anomaly, and the mask."""
    before, after = (
        np.asarray(read_image(sample.image, reading), np.int64)
        for sample in (anomaly.source, anomaly.sample)
    )
    return before, after, np.asarray(read_mask(anomaly.sample.mask, reading)) > 0


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def assert_exact(anomaly: Anomaly, reading: Reading = DEFAULT_READING) -> None:
    """The mask covers the change up to the softened rim, beyond which nothing has changed."""
    before, after, mask = pixels_of(anomaly, reading)
    changed = (before != after).any(axis=2)
    unit = (mask.size**0.5) / 224
    rim = int(np.ceil(RIM * unit)) + 1
    assert mask.any()
    assert not (changed & ~ndimage.maximum_filter(mask, 2 * rim + 1)).any()
    assert np.abs(before - after).mean(axis=2)[mask].mean() > 2


def test_the_layout_is_that_of_mvtec(
    drawn: tuple[Path, tuple[Anomaly, ...]], tmp_path: Path, good: list[Sample]
) -> None:
    folder, anomalies = drawn
    kinds = (*DEFAULT_KINDS, "transplant")
    assert [each.sample.type for each in anomalies] == [kind for kind in kinds for _ in range(4)]
    assert anomalies[5].sample.image == folder / "test" / "texture" / "001.png"
    assert anomalies[5].sample.mask == folder / "ground_truth" / "texture" / "001_mask.png"
    root = shutil.copytree(folder, tmp_path / "data")
    (root / "train").mkdir()
    shutil.copytree(good[0].image.parent, root / "train" / "good")
    found = MVTecAD.scan(root)
    assert found.types == tuple(sorted(kinds))
    assert len(found.test) == len(anomalies)


def test_masks_are_exact_and_the_rest_is_unchanged(
    drawn: tuple[Path, tuple[Anomaly, ...]],
) -> None:
    for anomaly in drawn[1]:
        assert_exact(anomaly)


def test_the_mask_is_where_the_weight_is_at_least_one_half(
    tmp_path: Path, register: Callable[..., None]
) -> None:
    Image.new("RGB", (90, 70), (100, 100, 100)).save(tmp_path / "plain.png")
    register("paint", region_kind(lambda scene, place, *_: np.full((*place.shape, 1), 200.0)))
    sources = [Sample(tmp_path / "plain.png", GOOD)]
    rims = 0
    for anomaly in draw_anomalies(sources, tmp_path / "set", kinds=["paint"], per_kind=12):
        _, after, mask = pixels_of(anomaly)
        assert np.array_equal(after[..., 0] >= 150, mask)  # 100 + weight * 100
        assert after.min() == 100
        rims += int(((after > 100) & (after < 200)).sum())
    assert rims > 100


def test_the_same_arguments_give_the_same_files(
    drawn: tuple[Path, tuple[Anomaly, ...]],
    good: list[Sample],
    shots: list[Sample],
    tmp_path: Path,
) -> None:
    again = tmp_path / "again"
    draw_anomalies(good, again, shots=shots, per_kind=4, seed=3)
    first, second = contents(drawn[0]), contents(again)
    record = first.pop("anomalies.json"), second.pop("anomalies.json")
    assert first == second
    hashes = [[entry["sha256"] for entry in json.loads(each)["anomalies"]] for each in record]
    assert hashes[0] == hashes[1]
    assert anomalies_digest(drawn[0]) == anomalies_digest(again)
    other = tmp_path / "other"
    draw_anomalies(good, other, shots=shots, per_kind=4, seed=4)
    third = contents(other)
    assert all(first[name] != third[name] for name in first)
    assert anomalies_digest(other) != anomalies_digest(again)


def test_more_of_a_kind_and_fewer_kinds_change_no_other(
    drawn: tuple[Path, tuple[Anomaly, ...]], good: list[Sample], tmp_path: Path
) -> None:
    draw_anomalies(good, tmp_path / "set", kinds=["warp", "texture"], per_kind=6, seed=3)
    before, after = contents(drawn[0]), contents(tmp_path / "set")
    shared = [name for name in after if name in before and name != "anomalies.json"]
    assert len(shared) == 2 * 2 * 4
    assert all(before[name] == after[name] for name in shared)
    assert len(after) == 2 * 2 * 6 + 1


def test_the_good_images_are_used_in_turn(drawn: tuple[Path, tuple[Anomaly, ...]]) -> None:
    _, anomalies = drawn
    uses = Counter(anomaly.source.image for anomaly in anomalies)
    assert len(uses) == 9
    assert max(uses.values()) <= 5  # 28 anomalies on 9 images
    for kind in KINDS:
        assert len({each.source.image for each in anomalies if each.sample.type == kind}) == 4
    assert len({anomalies[number * 4].source.image for number in range(7)}) >= 6
    assert all(each.sample.group == each.source.group for each in anomalies)


def test_read_back(drawn: tuple[Path, tuple[Anomaly, ...]]) -> None:
    assert load_anomalies(drawn[0]) == drawn[1]


def test_read_back_after_a_move(good: list[Sample], tmp_path: Path) -> None:
    data = tmp_path / "before" / "good"
    shutil.copytree(good[0].image.parent, data)
    moved = [replace(sample, image=data / sample.image.name) for sample in good]
    draw_anomalies(moved, tmp_path / "before" / "set", kinds=["tone"], per_kind=2)
    (tmp_path / "before").rename(tmp_path / "after")
    for anomaly in load_anomalies(tmp_path / "after" / "set"):
        assert anomaly.source.image.parent == tmp_path / "after" / "good"
        assert_exact(anomaly)


@pytest.mark.parametrize("file", ["test/blur/001.png", "ground_truth/tone/003_mask.png"])
def test_changed_and_missing_files_are_found(
    drawn: tuple[Path, tuple[Anomaly, ...]], tmp_path: Path, file: str
) -> None:
    folder = shutil.copytree(drawn[0], tmp_path / "set")
    with (folder / file).open("ab") as stream:
        stream.write(b"0")
    with pytest.raises(InputError, match=f"{file}: changed since it was drawn"):
        load_anomalies(folder)
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file}: missing"):
        load_anomalies(folder)
    assert anomalies_digest(folder) == anomalies_digest(drawn[0])


def test_other_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"anomalies\.json: cannot be read"):
        load_anomalies(tmp_path)
    record = tmp_path / "anomalies.json"
    for text, message in (
        ("{", "not readable as JSON"),
        ("[]", "expected the record"),
        ('{"version": 2, "anomalies": []}', "version 2, expected 1"),
        ('{"version": 1, "anomalies": [{"kind": "blur"}]}', "expected the record"),
    ):
        record.write_text(text)
        for read in (load_anomalies, anomalies_digest):
            with pytest.raises(InputError, match=message):
                read(tmp_path)


def test_gray_images_stay_gray(tmp_path: Path, good: list[Sample], shots: list[Sample]) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(surface(1, 90, 120, 1)[..., 0]).save(path)
    anomalies = draw_anomalies(
        [Sample(path, GOOD)], tmp_path / "set", textures=good, shots=shots, per_kind=3
    )
    for anomaly in anomalies:
        assert_exact(anomaly)
        _, after, _ = pixels_of(anomaly)
        assert (after == after[..., :1]).all()


def test_images_of_16_bits_are_read_as_a_detector_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(surface(1, 80, 80, 1)[..., 0].astype(np.uint16) * 16).save(path)
    reading = Reading(bit_depth=12)
    for anomaly in draw_anomalies(
        [Sample(path, GOOD)], tmp_path / "set", per_kind=2, reading=reading
    ):
        before, _, _ = pixels_of(anomaly, reading)
        assert before.mean() > 100
        assert_exact(anomaly, reading)


@pytest.mark.parametrize("threshold", [None, 127, 254, 255, 5000])
def test_masks_are_above_any_threshold(
    tmp_path: Path, good: list[Sample], threshold: int | None
) -> None:
    reading = Reading(mask_threshold=threshold)
    (anomaly,) = draw_anomalies(good, tmp_path / "set", kinds=["tone"], per_kind=1, reading=reading)
    _, _, mask = pixels_of(anomaly, reading)
    assert 0 < mask.mean() < 0.06
    assert load_masks(anomaly.sample, SIDE, reading)[0].numpy().mean() == mask.mean()


@pytest.mark.parametrize("size", [(300, 40), (40, 300), (16, 16), (17, 33), (2100, 32)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = surface(1, size[1], size[0], 4)
    Image.fromarray(pixels, mode="RGBA").save(tmp_path / "odd.png")
    odd = [Sample(tmp_path / "odd.png", GOOD)]
    for anomaly in draw_anomalies(odd, tmp_path / "set", per_kind=3):
        with Image.open(anomaly.sample.image) as image:
            assert image.size == ((2048, 31) if size[0] > 2048 else size)
        if size[0] <= 2048:
            assert_exact(anomaly)


def test_too_small_images_are_refused(tmp_path: Path) -> None:
    Image.new("L", (15, 60)).save(tmp_path / "small.png")
    with pytest.raises(InputError, match=r"small\.png: 15 x 60 pixels, expected at least 16 x 16"):
        draw_anomalies([Sample(tmp_path / "small.png", GOOD)], tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["small.png"]


@pytest.mark.parametrize("place", [0, 1234, 2999])
def test_a_small_defect_of_a_large_shot_does_not_vanish(tmp_path: Path, place: int) -> None:
    mask = np.zeros((40, 3000), np.uint8)
    mask[17, place] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask).save(tmp_path / "shot.png")
    shot = drawing._shot(Sample(tmp_path / "shot.png", "a", tmp_path / "mask.png"), 1, Reading())
    assert shot.pixels.shape[:2] == shot.mask.shape == (27, 2048)
    ((row, column),) = np.argwhere(shot.mask)[:1]
    assert (row, column) == (17 * 27 // 40, place * 2048 // 3000)


def test_transplants_show_the_defect_of_their_shot(
    drawn: tuple[Path, tuple[Anomaly, ...]], shots: list[Sample]
) -> None:
    transplants = [each for each in drawn[1] if each.sample.type == "transplant"]
    assert [each.shot for each in transplants] == [*shots, *shots]
    assert all(each.shot is None for each in drawn[1] if each.sample.type != "transplant")
    for anomaly in transplants:
        before, after, mask = pixels_of(anomaly)
        area = 10 * (12 + 4 * shots.index(anomaly.shot))
        assert 0.4 * area < mask.sum() < 2.2 * area
        inner = ndimage.binary_erosion(mask, iterations=2)
        assert after[inner].mean() < 30
        assert before[inner].mean() > 90


def test_textures_come_from_the_given_images(good: list[Sample], tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (255, 0, 0)).save(tmp_path / "red.png")
    red = Sample(tmp_path / "red.png", GOOD)
    anomalies = draw_anomalies(
        good, tmp_path / "set", textures=[red], kinds=["texture"], per_kind=12
    )
    reddened = 0
    for anomaly in anomalies:
        before, after, mask = pixels_of(anomaly)
        change = (after - before)[mask].mean(axis=0)
        reddened += bool(change[0] > 10 and change[1] < -10 and change[2] < -10)
    assert 3 <= reddened <= 9  # half of the textures are drawn


def test_progress(good: list[Sample], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    draw_anomalies(
        good,
        tmp_path / "set",
        kinds=["blur", "tone"],
        per_kind=2,
        progress=lambda *step: told.append(step),
    )
    assert told == [("drawing anomalies", done, 4) for done in range(1, 5)]


def test_mistakes(good: list[Sample], shots: list[Sample], tmp_path: Path) -> None:
    for arguments, message in (
        ({"kinds": ["blur", "dirt"]}, "an entry of `kinds` is 'dirt', expected one of 'scratch'"),
        ({"kinds": ["blur", "blur"]}, "`kinds` has 'blur' twice"),
        ({"kinds": []}, "`kinds` is empty"),
        ({"kinds": ["transplant"]}, "`kinds` has 'transplant', which needs `shots`"),
        ({"shots": good}, "a shot without a mask"),
        ({"per_kind": 0}, "`per_kind` is 0, expected at least 1"),
        ({"seed": -1}, "`seed` is -1, expected at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            draw_anomalies(good, tmp_path / "set", **arguments)
    with pytest.raises(InputError, match="`good` is empty"):
        draw_anomalies([], tmp_path / "set")
    (tmp_path / "full").mkdir()
    with pytest.raises(InputError, match="full: cannot be written: it exists"):
        draw_anomalies(good, tmp_path / "full")
    broken = tmp_path / "broken.png"
    broken.write_bytes(good[0].image.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"broken\.png"):
        draw_anomalies([Sample(broken, GOOD)], tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.png", "full"]
