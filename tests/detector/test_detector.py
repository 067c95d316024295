import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from autopatch.data import draw_textures, load_images
from autopatch.detector import Detector, images_digest, stack_maps
from autopatch.errors import InputError
from autopatch.supernet import Architecture, load_supernet

NAME = "timm:tf_mobilenetv3_small_075"
ARCHITECTURE = Architecture(NAME, 64, (1, 3), (3, 2), 60)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textures") / "data"
    return draw_textures(folder, seed=6, image_size=64, train=22, test_good=3, per_type=3)


@pytest.fixture(scope="module")
def good(root):
    return sorted((root / "train" / "good").iterdir())


@pytest.fixture(scope="module")
def new(root):
    return sorted((root / "test").rglob("*.png"))


@pytest.fixture(scope="module")
def detector(good):
    supernet = load_supernet(NAME, "random", seed=2)
    return Detector.fit(supernet, ARCHITECTURE, good[:12], calibration=good[12:], seed=3)


@pytest.fixture
def saved(detector, tmp_path):
    detector.save(tmp_path / "detector.safetensors")
    return tmp_path / "detector.safetensors"


def test_a_loaded_detector_is_the_saved_one(detector, saved, new):
    loaded = Detector.load(saved)
    before, after = detector.predict(new), loaded.predict(new)
    assert torch.equal(before.maps, after.maps)
    assert torch.equal(before.scores, after.scores)
    assert torch.equal(before.anomalous, after.anomalous)
    assert loaded.threshold == detector.threshold
    assert loaded.architecture == detector.architecture
    assert loaded.total_flops == detector.total_flops
    assert loaded.fitted_on == detector.fitted_on
    assert loaded.subnet.provenance == detector.subnet.provenance
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_detector_says_the_same_on_every_device(
    detector, saved, good, new, device, exact_convolutions
):
    supernet = load_supernet(NAME, "random", seed=2)
    fitted = Detector.fit(
        supernet, ARCHITECTURE, good[:12], calibration=good[12:], seed=3, device=device
    )
    loaded = Detector.load(saved, device=device)
    expected = detector.predict(new)
    for on_device in (fitted, loaded):
        assert on_device.device.type == device.type
        found = on_device.predict(new)
        assert {t.device.type for t in (found.maps, found.scores, found.anomalous)} == {device.type}
        largest = float(expected.maps.max())
        torch.testing.assert_close(found.maps.cpu(), expected.maps, rtol=0, atol=1e-4 * largest)
    fitted.save(saved)
    assert Detector.load(saved).threshold.value == pytest.approx(detector.threshold.value, rel=1e-4)


def test_prediction(detector, new):
    prediction = detector.predict(new)
    assert prediction.maps.shape == (len(new), 224, 224)
    assert torch.equal(prediction.scores, prediction.maps.flatten(1).amax(dim=1))
    assert prediction.anomalous.tolist() == [
        score > detector.threshold.value for score in prediction.scores.tolist()
    ]


def test_pixels_in_place_of_files(detector, new):
    pixels = load_images(new, ARCHITECTURE.image_size)
    assert torch.equal(detector.predict(pixels).maps, detector.predict(new).maps)


def test_an_image_alone_scores_as_in_a_batch(detector, new):
    together = detector.predict(new).scores
    alone = torch.cat([detector.predict([path]).scores for path in new])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=0)


def test_the_threshold_is_an_order_statistic_of_the_calibration_scores(detector, good):
    scores = detector.predict(good[12:]).scores.sort().values
    assert detector.threshold.images == len(scores)
    assert detector.threshold.value == pytest.approx(float(scores[-1]), rel=1e-5)


def test_no_images(detector, good):
    assert detector.predict([]).maps.shape == (0, 224, 224)
    supernet = load_supernet(NAME, "random")
    for images, calibration, name in ([], good, "images"), (good, [], "calibration"):
        with pytest.raises(InputError, match=f"`{name}` is empty"):
            Detector.fit(supernet, ARCHITECTURE, images, calibration=calibration)


def test_architecture_of_another_backbone(good):
    other = Architecture("timm:resnet18", 64, (1,), (3,), 10)
    with pytest.raises(InputError, match=r"timm:resnet18.*tf_mobilenetv3"):
        Detector.fit(load_supernet(NAME, "random"), other, good, calibration=good)


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 65, 64, dtype=torch.uint8)]
)
def test_pixels_that_do_not_fit(detector, images):
    with pytest.raises(ValueError, match=r"expected torch.uint8 \[N, 3, 64, 64\]"):
        detector.predict(images)


@pytest.mark.parametrize("length", [0, 4, 100, 0.5, -1])
def test_truncated_file(saved, length):
    data = saved.read_bytes()
    end = int(length * len(data)) if isinstance(length, float) else length
    saved.write_bytes(data[:end])
    with pytest.raises(InputError, match="truncated or not a safetensors file"):
        Detector.load(saved)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Detector.load(tmp_path / "none.safetensors")


def rewrite(path, *, tensors=None, **changes):
    """The file with other tensors or header entries; None removes an entry."""
    with safe_open(path, framework="pt") as file:
        document = json.loads(file.metadata()["autopatch_detector"])
    document = {k: v for k, v in (document | changes).items() if v is not None}
    contents = load_file(path) | (tensors or {})
    save_file(contents, path, metadata={"autopatch_detector": json.dumps(document)})


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": {"bank": torch.zeros(4, 5)}},
        {"tensors": {"subnet.backbone.conv_stem.weight": torch.zeros(2, 2)}},
        {"evaluation_size": "x"},
        {"evaluation_size": 0},
        {"usual_distance": None},
        {"threshold": {"value": 1.0}},
        {"format": 99},
        {"architecture": ARCHITECTURE.to_json() | {"levels": [1, 2]}},
    ],
)
def test_damaged_contents(saved, changes):
    rewrite(saved, **changes)
    with pytest.raises(InputError) as error:
        Detector.load(saved)
    assert str(error.value).startswith(str(saved))
    assert "\n" not in str(error.value)


def test_digest_of_images(good, tmp_path):
    assert images_digest(good[:3]) == images_digest(good[2::-1])
    assert images_digest(good[:3]) != images_digest(good[:2])
    moved = tmp_path / "moved.png"
    moved.write_bytes(good[0].read_bytes())
    assert images_digest([moved]) == images_digest([good[0]])


def test_stacked_maps_are_those_of_the_batches():
    batches = [[torch.randn(n, 3, 4, 4), torch.randn(n, 2, 2, 2)] for n in (4, 4, 1)]
    stacked = stack_maps(batches, 9)
    for i, whole in enumerate(stacked):
        assert torch.equal(whole, torch.cat([batch[i] for batch in batches]))
        assert whole.is_contiguous(memory_format=torch.channels_last)
