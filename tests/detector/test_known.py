"""Known defects, and further good images, of a detector."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from autopatch.data import MVTecAD, Sample, draw_textures, load_images, to_mask
from autopatch.detector import Architecture, Defect, Detector, Head, Input
from autopatch.detector.folds import draw_folds
from autopatch.detector.known import ROWS_PER_IMAGE
from autopatch.errors import InputError
from autopatch.kernels import nearest_neighbors
from autopatch.supernet import Backbone, Supernet, load_supernet

NAME = "timm:test_efficientnet"
ARCHITECTURE = Architecture(Input(64), Backbone(NAME, (1, 3)), Head((3, 2), 60, defects=0.5))
OFF = replace(ARCHITECTURE, head=replace(ARCHITECTURE.head, defects=None))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MVTecAD:
    folder = tmp_path_factory.mktemp("textures") / "data"
    draw_textures(folder, seed=6, image_size=64, train=16, test_good=3, per_type=3)
    return MVTecAD.scan(folder)


@pytest.fixture(scope="module")
def anomalous(data: MVTecAD) -> list[Sample]:
    return [sample for sample in data.test if sample.label]


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return load_supernet(NAME, "random", seed=2)


@pytest.fixture(scope="module")
def fitted(data: MVTecAD, supernet: Supernet) -> Detector:
    return fit(data, supernet)


@pytest.fixture
def detector(fitted: Detector, tmp_path: Path) -> Detector:
    """A copy without known defects."""
    fitted.save(tmp_path / "fitted.safetensors")
    return Detector.load(tmp_path / "fitted.safetensors")


def fit(
    data: MVTecAD,
    supernet: Supernet,
    *defects: Sample | Defect,
    architecture: Architecture = OFF,
    apart: bool = True,
) -> Detector:
    """A detector whose threshold is set by images apart from those of the bank, or by folds."""
    images = [sample.image for sample in data.train]
    return Detector.fit(
        images[:10],
        supernet=supernet,
        architecture=architecture,
        calibration=images[10:] if apart else None,
        defects=defects,
    )


def state_of(detector: Detector) -> dict[str, object]:
    state = detector.state_dict()
    return {
        name: value.tolist() if isinstance(value, torch.Tensor) else value
        for name, value in state.items()
        if not name.startswith("extractor")
    }


@pytest.mark.parametrize("apart", [True, False])
def test_a_fit_with_defects_is_a_fit_and_an_update(
    data: MVTecAD, supernet: Supernet, anomalous: list[Sample], apart: bool
) -> None:
    shots = anomalous[:3]
    at_once = fit(data, supernet, *shots, apart=apart)
    detector = fit(data, supernet, apart=apart)
    assert at_once.architecture == ARCHITECTURE
    detector.update(defects=shots)
    assert state_of(detector) == state_of(at_once)
    assert [image.name for image in detector.known] == [
        f"{shot.type}/{shot.image.name}" for shot in shots
    ]
    assert [image.type for image in detector.known] == [shot.type for shot in shots]
    assert sum(image.defect_rows for image in detector.known) == len(detector.defects) > 0
    one_by_one = fit(data, supernet, architecture=ARCHITECTURE, apart=apart)
    for shot in shots:
        one_by_one.update(defects=[shot])
    assert state_of(one_by_one) == state_of(at_once)


@pytest.mark.parametrize("neighbors", [1, 3])
@pytest.mark.parametrize("apart", [True, False])
def test_removing_takes_back_what_adding_did(
    data: MVTecAD, supernet: Supernet, anomalous: list[Sample], apart: bool, neighbors: int
) -> None:
    architecture = replace(ARCHITECTURE, head=replace(ARCHITECTURE.head, neighbors=neighbors))
    plain = fit(data, supernet, architecture=architecture, apart=apart)
    untouched = state_of(plain)
    plain.update(defects=anomalous[:1], good=[data.test[0].image])
    assert plain.calibration_scores.tolist() != untouched["calibration_scores"]
    plain.update(remove=[image.name for image in plain.known])
    # Without defects, their usual distance is unused.
    assert state_of(plain) | {"_extra_state": None} == untouched | {"_extra_state": None}
    assert asdict(plain.threshold) == untouched["_extra_state"]["threshold"]
    detector = fit(data, supernet, anomalous[0], architecture=architecture, apart=apart)
    before = state_of(detector)
    detector.update(defects=anomalous[1:4], good=[data.test[0].image])
    assert state_of(detector) != before
    names = [image.name for image in detector.known]
    assert names[-1] == f"good/{data.test[0].image.name}"
    detector.update(remove=names[1:])
    assert state_of(detector) == before
    detector.update(defects=[anomalous[2]], remove=names[:1])
    other = fit(data, supernet, anomalous[2], architecture=architecture, apart=apart)
    assert state_of(detector) == state_of(other)


def test_scores_and_threshold_are_those_of_both_banks(
    data: MVTecAD, supernet: Supernet, anomalous: list[Sample]
) -> None:
    detector = fit(data, supernet, *anomalous[:2])
    pixels = load_images([sample.image for sample in data.train[10:]], 64)
    patches = detector.extractor(pixels)
    rows = patches.flatten(0, 2)
    good = nearest_neighbors(rows, detector.memory.bank)[0][:, 0].double()
    defect = nearest_neighbors(rows, detector.defects.bank)[0][:, 0].double()
    usual = good.median()
    assert detector.defects.usual == pytest.approx(float(usual), rel=1e-6)
    scores = good * (usual / (defect + usual)).sqrt()
    maps = torch.nn.functional.interpolate(
        scores.reshape(len(pixels), 1, *patches.shape[1:3]), size=(224, 224), mode="bilinear"
    )
    torch.testing.assert_close(
        detector.calibration_scores.double(), maps.flatten(1).amax(1), rtol=1e-5, atol=0
    )
    assert detector.threshold.value in detector.calibration_scores.tolist()


@pytest.mark.parametrize("neighbors", [1, 4])
def test_folds_are_scored_with_what_known_images_add(
    data: MVTecAD, supernet: Supernet, anomalous: list[Sample], neighbors: int
) -> None:
    head = replace(ARCHITECTURE.head, bank_size=None, neighbors=neighbors)
    architecture = replace(ARCHITECTURE, head=head)
    detector = fit(data, supernet, architecture=architecture, apart=False)
    unusual = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    train = [sample.image for sample in data.train[:10]]
    detector.update(defects=anomalous[:2], good=[unusual])
    assert detector.known[2].good_rows > 10
    patches = detector.extractor(load_images(train, 64))
    images, height, width, _ = patches.shape
    rows = patches.flatten(0, 2)
    bank = detector.memory.bank
    fitted, added = bank[: len(rows)], bank[len(rows) :]
    torch.testing.assert_close(fitted, rows, rtol=1e-4, atol=1e-5)
    good = torch.empty(images, height * width, dtype=torch.float64)
    for fold in draw_folds([(i,) for i in range(images)], 0):
        others = [i for i in range(images) if i not in fold]
        known = torch.cat([patches[others].flatten(0, 2), added])
        inside = patches[list(fold)].flatten(0, 2)
        nearest = torch.cdist(inside.double(), known.double()).square()
        nearest = nearest.topk(neighbors, largest=False).values
        good[list(fold)] = nearest.mean(dim=1).reshape(len(fold), -1)
    defect = nearest_neighbors(rows, detector.defects.bank)[0][:, 0].double()
    usual = good.median()
    assert detector.defects.usual == pytest.approx(float(usual), rel=1e-4)
    scores = good.flatten() * (usual / (defect + usual)).sqrt()
    maps = torch.nn.functional.interpolate(
        scores.reshape(images, 1, height, width), size=(224, 224), mode="bilinear"
    )
    torch.testing.assert_close(
        detector.calibration_scores.double(), maps.flatten(1).amax(1), rtol=1e-4, atol=0
    )
    assert detector.calibration_scores.min() > 1e-3


def test_the_rows_come_from_under_the_mask(
    data: MVTecAD, supernet: Supernet, fitted: Detector, anomalous: list[Sample]
) -> None:
    shot = anomalous[0]
    detector = fit(data, supernet, shot)
    patches = fitted.extractor(_pixels(shot))[0]
    distances = nearest_neighbors(patches.flatten(0, 1), detector.defects.bank)[0]
    known = (distances < 1e-9).reshape(patches.shape[:2]).numpy()
    mask = to_mask(shot.mask).resize(known.shape, Image.Resampling.BOX)
    assert known.any()
    assert (np.asarray(mask)[known] > 0).all()
    # The good rows are farther from the bank than its covering radius.
    good = detector.memory.bank[len(fitted.memory) :]
    assert len(good) == detector.known[0].good_rows
    if len(good):
        assert nearest_neighbors(good, fitted.memory.bank)[0].sqrt().min() > fitted.radius


def test_known_defects_are_found_more_surely(
    data: MVTecAD, supernet: Supernet, fitted: Detector, anomalous: list[Sample]
) -> None:
    shot = anomalous[0]
    detector = fit(data, supernet, shot)
    before, after = (d.predict(shot.image) for d in (fitted, detector))
    margin = [float(p.pred_score) / p.threshold for p in (before, after)]
    assert margin[1] > margin[0]


def test_a_detector_with_known_defects_is_saved(
    data: MVTecAD, supernet: Supernet, anomalous: list[Sample], tmp_path: Path
) -> None:
    detector = fit(data, supernet, *anomalous[:2])
    detector.save(tmp_path / "detector.safetensors")
    loaded = Detector.load(tmp_path / "detector.safetensors")
    assert state_of(loaded) == state_of(detector)
    images = [sample.image for sample in data.test]
    assert torch.equal(loaded.predict(images).anomaly_map, detector.predict(images).anomaly_map)
    loaded.update(remove=[detector.known[0].name])
    assert state_of(loaded) == state_of(fit(data, supernet, anomalous[1]))


def test_an_image_adds_no_more_rows_than_its_share(
    data: MVTecAD, supernet: Supernet, fitted: Detector
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[:40] = True
    detector = fit(data, supernet, Defect(picture, mask))
    (known,) = detector.known
    assert known.name == "defect/0"
    assert known.defect_rows == ROWS_PER_IMAGE
    assert 0 < known.good_rows <= ROWS_PER_IMAGE
    assert len(detector.memory) == len(fitted.memory) + known.good_rows


def test_names_stay_unique(detector: Detector, anomalous: list[Sample]) -> None:
    detector.update(
        defects=[Defect(sample.image, sample.mask, name="mine") for sample in anomalous[:3]]
    )
    assert [image.name for image in detector.known] == ["mine", "mine (2)", "mine (3)"]
    detector.update(remove=["mine (2)"])
    assert [image.name for image in detector.known] == ["mine", "mine (3)"]


def test_a_fit_names_its_defects_as_an_update_does(
    data: MVTecAD, supernet: Supernet, anomalous: list[Sample]
) -> None:
    named = [Defect(sample.image, sample.mask, name="mine") for sample in anomalous[:2]]
    assert [image.name for image in fit(data, supernet, *named).known] == ["mine", "mine (2)"]
    with pytest.raises(InputError, match="the detector knows this picture as 'mine'"):
        fit(data, supernet, named[0], named[0])


def test_a_good_image_that_was_called_anomalous(
    fitted: Detector, detector: Detector, data: MVTecAD
) -> None:
    unusual = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    assert fitted.predict(unusual).pred_label
    detector.update(good=[unusual])
    assert detector.architecture.head.defects is None  # no defect is known
    before, after = (float(d.predict(unusual).pred_score) for d in (fitted, detector))
    assert after < before
    assert len(detector.defects) == 0


def _pixels(sample: Sample) -> torch.Tensor:
    image = Image.open(sample.image).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, d: {"remove": ["x"]}, "`remove` names 'x', expected one of the known images: "),
        (lambda s, d: {"defects": [s[0], s[0]]}, "the detector knows this picture as "),
        (lambda s, d: {"defects": [s[0]]}, "the detector knows this picture as "),
        (
            lambda s, d: {"good": [d.train[12].image]},
            "good/012.png: this picture is one of the good images that set the threshold",
        ),
        (lambda s, d: {"defects": [d.test[0]]}, "`type` of a defect is 'good'"),
        (
            lambda s, d: {"defects": [Defect(s[1].image, np.ones((9, 8), bool))]},
            "the mask is 8 x 9 pixels, expected 64 x 64 as the image",
        ),
        (
            lambda s, d: {"defects": [Defect(s[1].image, np.zeros((64, 64), bool))]},
            "no anomalous pixel",
        ),
        (lambda s, d: {"defects": [Defect("x.png", s[1].mask)]}, "x.png: no such file"),
    ],
)
def test_updates_that_are_refused(
    detector: Detector, anomalous: list[Sample], data: MVTecAD, change, message: str
) -> None:
    detector.update(defects=[anomalous[0]])
    before = state_of(detector)
    with pytest.raises(InputError, match=message) as error:
        detector.update(**change(anomalous, data))
    assert "\n" not in str(error.value)
    assert state_of(detector) == before


def test_an_exported_detector_with_known_defects(
    data: MVTecAD, supernet: Supernet, anomalous: list[Sample]
) -> None:
    detector = fit(data, supernet, anomalous[0])
    pixels = load_images([sample.image for sample in data.test[:2]], 64)
    exported = torch.export.export(detector, (pixels,)).module()
    for one, other in zip(exported(pixels), detector(pixels), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
