import copy
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import autopatch
from autopatch.data import (
    Reading,
    Remarks,
    draw_textures,
    image_digests,
    load_images,
    pixels_digest,
)
from autopatch.detector import (
    Architecture,
    Defect,
    Detector,
    Head,
    ImagePrediction,
    Input,
    MemoryBank,
    calibrate,
    patchcore_architecture,
    stack_maps,
)
from autopatch.detector.folds import FOLDS, draw_folds, related_images
from autopatch.errors import InputError
from autopatch.supernet import Backbone, load_supernet, tensors_sha256

NAME = "timm:test_efficientnet"
ARCHITECTURE = Architecture(Input(64), Backbone(NAME, (1, 3)), Head((3, 2), 60))


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
def supernet():
    return load_supernet(NAME, "random", seed=2)


@pytest.fixture(scope="module")
def detector(supernet, good):
    return fit(supernet, good[:12], calibration=good[12:])


def fit(supernet, images, *, architecture=ARCHITECTURE, **options):
    options = {"seed": 3} | options
    return Detector.fit(images, supernet=supernet, architecture=architecture, **options)


@pytest.fixture
def saved(detector, tmp_path):
    detector.save(tmp_path / "detector.safetensors")
    return tmp_path / "detector.safetensors"


def test_a_threshold_of_another_device_is_told(supernet, good, tmp_path, caplog):
    fitted = fit(supernet, good[:12], calibration=good[12:])
    assert fitted.calibrated_on == "cpu"
    fitted.save(tmp_path / "cpu.safetensors")
    assert Detector.load(tmp_path / "cpu.safetensors").calibrated_on == "cpu"
    assert caplog.messages == []
    fitted.calibrated_on = "cuda"
    fitted.save(tmp_path / "cuda.safetensors")
    assert Detector.load(tmp_path / "cuda.safetensors").calibrated_on == "cuda"
    (message,) = caplog.messages
    assert message.startswith("the threshold was set on cuda; scores on cpu can differ")


def test_a_loaded_detector_is_the_saved_one(detector, saved, new, supernet):
    loaded = Detector.load(str(saved))
    before, after = detector.predict(new), loaded.predict(new)
    assert torch.equal(before.anomaly_map, after.anomaly_map)
    assert torch.equal(before.pred_score, after.pred_score)
    assert torch.equal(before.pred_label, after.pred_label)
    assert torch.equal(detector.calibration_scores, loaded.calibration_scores)
    assert loaded.threshold == detector.threshold
    assert loaded.usual_score == detector.usual_score
    assert loaded.evaluation_size == detector.evaluation_size
    assert loaded.architecture == detector.architecture
    assert loaded.total_flops == detector.total_flops
    assert loaded.data_digest == detector.data_digest
    assert loaded.reading == detector.reading == Reading(bit_depth=8)
    assert loaded.provenance == detector.provenance
    assert loaded.weights_sha256 == detector.weights_sha256 == supernet.weights_sha256
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


TOLERANCE = 1e-4  # of the largest distance and of the threshold, between devices


def test_a_detector_says_the_same_on_every_device(detector, saved, supernet, good, new, device):
    fitted = fit(supernet, good[:12], calibration=good[12:], device=device)
    loaded = Detector.load(saved, device=device)
    moved = Detector.load(saved).to(device)
    expected = detector.predict(new)
    for on_device in (fitted, loaded, moved):
        assert on_device.device.type == device.type
        found = on_device.predict(new)
        tensors = (found.anomaly_map, found.pred_score, found.pred_label, found.pred_mask)
        assert {t.device.type for t in tensors} == {device.type}
        largest = float(expected.anomaly_map.max())
        torch.testing.assert_close(
            found.anomaly_map.cpu(), expected.anomaly_map, rtol=0, atol=TOLERANCE * largest
        )
    fitted.save(saved)
    threshold = Detector.load(saved).threshold.value
    assert threshold == pytest.approx(detector.threshold.value, rel=TOLERANCE)


@pytest.mark.cuda
def test_a_threshold_of_a_cpu_holds_on_a_gpu_whatever_torch_is_set_to(detector, saved, new):
    images = [*new, *new]
    expected = detector.predict(images).pred_score
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = Detector.load(saved, device="cuda").predict(images).pred_score.cpu()
    finally:
        torch.set_float32_matmul_precision(before)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=0)
    threshold = detector.threshold.value
    clear = (expected - threshold).abs() > TOLERANCE * threshold
    assert torch.equal((found > threshold)[clear], (expected > threshold)[clear])


def test_prediction(detector, new):
    prediction = detector.predict(new)
    limit = detector.threshold.value
    assert prediction.anomaly_map.shape == (len(new), 224, 224)
    assert torch.equal(prediction.pred_score, prediction.anomaly_map.flatten(1).amax(dim=1))
    assert prediction.pred_label.tolist() == [s > limit for s in prediction.pred_score.tolist()]
    assert torch.equal(prediction.pred_mask, prediction.anomaly_map > limit)


def test_a_prediction_iterates_over_its_images(detector, new):
    prediction = detector.predict(new)
    assert len(prediction) == len(new)
    images = list(prediction)
    assert len(images) == len(new)
    for i, image in enumerate(images):
        assert isinstance(image, ImagePrediction)
        assert torch.equal(image.anomaly_map, prediction.anomaly_map[i])
        assert image.pred_score == float(prediction.pred_score[i])
        assert image.pred_label is bool(prediction.pred_label[i])
        assert torch.equal(image.pred_mask, prediction.pred_mask[i])
    assert prediction[-1].pred_score == images[-1].pred_score


def test_a_score_at_the_threshold_is_good(detector, new):
    maps = detector.predict(new[:1]).anomaly_map
    score = maps.flatten(1).amax(dim=1)
    # 0.1 lies below the float32 nearest to it.
    for scores, limit in ((score, float(score)), (torch.tensor([0.1]), 0.1)):
        prediction = replace(detector.predict([]), pred_score=scores, threshold=limit)
        prediction = replace(prediction, anomaly_map=maps)
        assert not prediction.pred_label.any()
        assert not prediction[0].pred_label


def as_hwc(path, dtype):
    values = np.asarray(Image.open(path).convert("RGB"))
    if dtype == np.uint16:
        return values.astype(np.uint16)
    return values if dtype == np.uint8 else (values / 255).astype(dtype)


def test_images_of_any_kind_say_what_their_files_say(detector, new):
    expected = detector.predict(new).anomaly_map
    opened = [Image.open(path) for path in new]
    arrays = [as_hwc(path, np.uint8) for path in new]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    for images in (
        [str(path) for path in new],
        tuple(new),
        (path for path in new),
        opened,
        arrays,
        np.stack(arrays),
        [as_hwc(path, np.uint16) for path in new],
        [as_hwc(path, np.float32) for path in new],
        [as_hwc(path, np.float64) for path in new],
        tensors,
        torch.stack(tensors),
        torch.stack(tensors).float() / 255,
        [new[0], str(new[1]), opened[2], arrays[3], tensors[4], *new[5:]],
    ):
        assert torch.equal(detector.predict(images).anomaly_map, expected)


def test_one_image_of_any_kind(detector, new):
    array = as_hwc(new[0], np.uint8)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = detector.predict(new[:1]).anomaly_map
    for image in (new[0], str(new[0]), Image.open(new[0]), array, tensor, tensor[None]):
        found = detector.predict(image)
        assert len(found) == 1
        assert torch.equal(found.anomaly_map, expected)


def test_images_of_a_folder(detector, root):
    inside = sorted((root / "test").rglob("*.png"))
    expected = detector.predict(inside).anomaly_map
    for folder in (root / "test", str(root / "test")):
        assert torch.equal(detector.predict(folder).anomaly_map, expected)


def test_images_of_other_sizes_are_resized(detector, new, tmp_path):
    with Image.open(new[0]) as image:
        wide = image.convert("RGB").resize((90, 70))
    wide.save(tmp_path / "wide.png")
    on_file = detector.predict(tmp_path / "wide.png").anomaly_map
    assert torch.equal(detector.predict(np.asarray(wide)).anomaly_map, on_file)
    assert torch.equal(detector.predict([wide]).anomaly_map, on_file)


def test_pixels_of_the_architectures_size_are_taken_as_they_are(detector, new):
    pixels = load_images(new, ARCHITECTURE.input.size)
    expected = detector.predict(new)
    assert torch.equal(detector.predict(pixels).anomaly_map, expected.anomaly_map)
    maps, scores = detector(pixels)
    assert torch.equal(maps, expected.anomaly_map)
    assert torch.equal(scores, expected.pred_score)


def test_an_image_alone_scores_as_in_a_batch(detector, new):
    together = detector.predict(new).pred_score
    alone = torch.cat([detector.predict([path]).pred_score for path in new])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=0)


def test_the_threshold_is_an_order_statistic_of_the_calibration_scores(detector, good):
    scores = detector.predict(good[12:]).pred_score.sort().values
    assert detector.threshold.images == len(scores)
    assert detector.threshold.value == pytest.approx(float(scores[-1]), rel=1e-5)
    torch.testing.assert_close(detector.calibration_scores.sort().values, scores, rtol=1e-5, atol=0)


def test_good_images_alone_are_enough(supernet, good, root, new):
    folder = fit(supernet, root / "train" / "good", data_digest="of a folder")
    text = fit(supernet, str(root / "train" / "good"))
    files = fit(supernet, good)
    other = fit(supernet, good, seed=4)
    expected = files.predict(new).anomaly_map
    for detector in (folder, text):
        assert torch.equal(detector.predict(new).anomaly_map, expected)
        assert detector.threshold == files.threshold
        assert torch.equal(detector.calibration_distances, files.calibration_distances)
    # The seed draws the folds, which concern only the threshold.
    assert torch.equal(other.predict(new).anomaly_map, expected)
    assert not torch.equal(other.calibration_scores, files.calibration_scores)
    assert files.threshold.images == len(good)
    assert folder.data_digest == "of a folder"
    assert text.data_digest == files.data_digest == pixels_digest(good)


@pytest.mark.parametrize(
    "head", [Head((3, 2), None), Head((3, 2), 60), Head((3, 2), 40, neighbors=3)]
)
def test_all_images_are_in_the_bank_and_each_is_scored_without_itself(supernet, good, new, head):
    architecture = replace(ARCHITECTURE, head=head)
    detector = fit(supernet, good, architecture=architecture)
    whole = fit(supernet, good, architecture=architecture, calibration=new)
    assert torch.equal(detector.memory.bank, whole.memory.bank)
    if head.bank_size is None:
        assert float(detector.predict(good).pred_score.max()) < 1e-6
        assert detector.calibration_scores.min() > 1e-3
    folds = draw_folds(related_images(image_digests(good), [None] * len(good)), 3)
    assert len(folds) == FOLDS
    for fold in folds:
        inside = [good[i] for i in fold]
        others = [path for i, path in enumerate(good) if i not in fold]
        by_hand = fit(supernet, others, architecture=architecture, calibration=inside)
        for name in ("calibration_scores", "calibration_distances"):
            found = getattr(detector, name)[list(fold)]
            torch.testing.assert_close(found, getattr(by_hand, name), rtol=1e-4, atol=1e-6)
    assert detector.threshold == calibrate(detector.calibration_scores.tolist())


def test_images_of_a_group_are_in_one_fold(supernet, good):
    every_patch = replace(ARCHITECTURE, head=Head((3, 2), None))
    images = [
        *good[:8],
        *(Image.open(path).transpose(Image.Transpose.ROTATE_90) for path in good[:8]),
    ]
    same = [str(i % 8) for i in range(16)]
    alone = fit(supernet, images, architecture=every_patch)
    for seed in range(2):
        grouped = fit(supernet, images, architecture=every_patch, groups=same, seed=seed)
        folds = draw_folds(related_images(image_digests(images), same), seed)
        for fold in folds:
            assert {i % 8 for i in fold if i < 8} == {i % 8 for i in fold if i >= 8}
            by_hand = fit(
                supernet,
                [image for i, image in enumerate(images) if i not in fold],
                architecture=every_patch,
                calibration=[images[i] for i in fold],
            )
            found = grouped.calibration_scores[list(fold)]
            torch.testing.assert_close(found, by_hand.calibration_scores, rtol=1e-4, atol=1e-6)
    assert torch.equal(grouped.memory.bank, alone.memory.bank)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": ["a"]}, "`groups` has 1 entries, expected 6, one for each image"),
        ({"groups": ["a"] * 6}, "`images` has 6, all related by their groups, expected at least 2"),
        (
            {"groups": ["a", "b"] * 3, "calibration": [0]},
            "`groups` is given with `calibration`, expected one of the two",
        ),
    ],
)
def test_groups_that_do_not_fit(supernet, good, options, message):
    with pytest.raises(InputError, match=message) as error:
        fit(supernet, good[:6], **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("apart", [False, True])
def test_every_step_is_told(supernet, good, apart):
    told = []
    calibration = good[12:] if apart else None
    fit(
        supernet,
        good[:12],
        calibration=calibration,
        defects=[Defect(good[0], np.eye(64, dtype=bool))] if apart else (),
        progress=lambda *step: told.append(step),
    )
    last = {step: (done, total) for step, done, total in told}
    assert last == {
        "read": (10, 10) if apart else (12, 12),
        "fit": (12, 12),
        "choose the memory bank": (60, 60),
        **({"known defects": (1, 1)} if apart else {"score folds": (12, 12)}),
        "calibrate": (10, 10) if apart else (12, 12),
    }
    if not apart:
        scored = [done for step, done, _ in told if step == "score folds"]
        assert scored == sorted(scored)
        assert scored[0] == 0
        assert len(set(scored)) == FOLDS + 1


def test_the_default_detector(good, new):
    detector = Detector.fit(good[:6])
    assert detector.architecture == patchcore_architecture(load_supernet(), images=6)
    assert "weights of autopatch_s in this package" in detector.provenance
    assert detector.predict(new[:2]).anomaly_map.shape == (2, 224, 224)
    assert detector.threshold.images == 6


def test_a_supernet_by_name(good, monkeypatch):
    asked = []

    def load(name):
        asked.append(name)
        return load_supernet(name, "random")

    monkeypatch.setattr("autopatch.detector.detector.load_supernet", load)
    detector = Detector.fit(good[:6], supernet=NAME)
    assert asked == [NAME]
    assert detector.architecture.backbone.levels == (2, 3)


def test_no_images(detector, supernet, good):
    empty = detector.predict([])
    assert empty.anomaly_map.shape == (0, 224, 224)
    assert empty.pred_label.shape == (0,)
    assert list(empty) == []
    for images, calibration, name in ([], good, "images"), (good, [], "calibration"):
        with pytest.raises(InputError, match=f"`{name}` is empty"):
            fit(supernet, images, calibration=calibration)


def test_one_image_cannot_set_the_threshold(supernet, good):
    with pytest.raises(InputError, match="`images` has 1, expected at least 2 that are not rel"):
        fit(supernet, good[:1])
    two = fit(supernet, good[:2])
    assert two.threshold.images == 2
    assert "too few calibration images, 19 are needed" in two.threshold.describe()


def test_images_that_are_not_there(detector, supernet, tmp_path):
    for use in (detector.predict, lambda images: fit(supernet, images)):
        with pytest.raises(InputError, match="nowhere: no such file or folder"):
            use(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"nowhere\.png: no such file"):
        detector.predict([tmp_path / "nowhere.png"])
    with pytest.raises(InputError, match="no image in this folder"):
        detector.predict(tmp_path)


def test_paths_that_cannot_be_looked_up(detector, supernet, good):
    for use in (detector.predict, lambda path: fit(supernet, path), Detector.load):
        with pytest.raises(InputError, match="x: cannot be read: File name too long"):
            use("x" * 300)
    with pytest.raises(InputError, match="x: cannot be read: File name too long"):
        detector.predict([good[0], "x" * 300])


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there(supernet, good, saved, device):
    for use in (
        lambda: Detector.load(saved, device=device),
        lambda: fit(supernet, good, device=torch.device(device) if device == "meta" else device),
    ):
        with pytest.raises(InputError, match=f"`device` is '{device}', "):
            use()


def test_architecture_of_another_backbone(supernet, good):
    other = Architecture(Input(64), Backbone("timm:resnet18", (1,)), Head((3,), 10))
    with pytest.raises(InputError, match=r"timm:resnet18.*timm:test_efficientnet"):
        fit(supernet, good[:12], architecture=other, calibration=good[12:])


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 2, 64, 64, dtype=torch.uint8),
        torch.zeros(64, 64, dtype=torch.uint8),
        torch.full((1, 3, 64, 64), 2.0),
        torch.zeros(1, 3, 64, 64, dtype=torch.int64),
        np.zeros((64, 64, 5), np.uint8),
        [3],
        3,
    ],
)
def test_pixels_that_do_not_fit(detector, images):
    with pytest.raises(InputError) as error:
        detector.predict(images)
    assert str(error.value).removeprefix("`").startswith("images")
    assert "\n" not in str(error.value)


def test_a_state_of_another_bank_is_taken_over_whole(supernet, good, new):
    one = fit(supernet, good[:12], calibration=good[12:])
    larger = replace(ARCHITECTURE, head=Head((3, 2), 90))
    other = fit(supernet, good[:14], architecture=larger, calibration=good[14:], seed=1)
    assert len(one.memory) != len(other.memory)
    assert len(one.calibration_scores) != len(other.calibration_scores)
    one.load_state_dict(copy.deepcopy(other.state_dict()))
    expected, found = other.predict(new), one.predict(new)
    assert torch.equal(found.anomaly_map, expected.anomaly_map)
    assert torch.equal(found.pred_label, expected.pred_label)
    assert torch.equal(one.calibration_scores, other.calibration_scores)
    assert one.threshold == other.threshold
    assert one.usual_score == other.usual_score
    assert one.data_digest == other.data_digest
    assert one.architecture == other.architecture
    # The two do not share memory.
    one.memory.bank.zero_()
    assert torch.equal(other.predict(new).anomaly_map, expected.anomaly_map)


def test_a_loaded_state_brings_its_weights_and_leaves_the_supernet_alone(supernet, good, new):
    before = tensors_sha256(supernet.weights())
    one = fit(supernet, good[:12], calibration=good[12:])
    other = fit(load_supernet(NAME, "random", seed=9), good[:12], calibration=good[12:])
    one.load_state_dict(other.state_dict())
    assert torch.equal(one.predict(new).anomaly_map, other.predict(new).anomaly_map)
    assert one.weights_sha256 == other.weights_sha256 != supernet.weights_sha256
    assert one.provenance == other.provenance != supernet.provenance
    assert tensors_sha256(supernet.weights()) == before
    again = fit(supernet, good[:12], calibration=good[12:])
    assert not torch.equal(again.predict(new).anomaly_map, one.predict(new).anomaly_map)


def test_a_state_of_another_network_is_refused(supernet, good):
    one = fit(supernet, good[:12], calibration=good[12:])
    other = load_supernet(NAME, "random", timm_kwargs={"act_layer": "relu"})
    state = fit(other, good[:12], calibration=good[12:]).state_dict()
    with pytest.raises(ValueError, match=r"the state is of a subnet whose recipe is .*relu"):
        one.load_state_dict(state)
    assert one.weights_sha256 == supernet.weights_sha256


@pytest.mark.parametrize(
    "change",
    [
        {"input": Input(96)},
        {"head": Head((1, 7), 60)},
        {"backbone": Backbone(ARCHITECTURE.backbone.network, (1, 2))},
    ],
)
def test_a_state_of_another_architecture_is_refused(supernet, good, new, change):
    one = fit(supernet, good[:12], calibration=good[12:])
    other = fit(
        supernet, good[:12], architecture=replace(ARCHITECTURE, **change), calibration=good[12:]
    )
    before = one.predict(new).anomaly_map
    with pytest.raises(ValueError, match="the state is of"):
        one.load_state_dict(other.state_dict())
    assert torch.equal(one.predict(new).anomaly_map, before)


def test_a_bank_of_other_features_is_refused():
    bank = MemoryBank(torch.rand(5, 8))
    kept = bank.bank.clone()
    with pytest.raises(RuntimeError, match="size mismatch for bank"):
        bank.load_state_dict({"bank": torch.rand(5, 9)})
    assert torch.equal(bank.bank, kept)


def test_pixels_of_another_size_are_refused(detector):
    with pytest.raises(ValueError, match=r"shape \[1, 3, 100, 100\], expected \[N, 3, 64, 64\]"):
        detector(torch.zeros(1, 3, 100, 100, dtype=torch.uint8))


def test_half_precision(supernet, good, new):
    detector = fit(supernet, good[:12], calibration=good[12:])
    expected = detector.predict(new).anomaly_map
    found = detector.to(torch.bfloat16).predict(new).anomaly_map
    assert detector.memory.bank.dtype == torch.float32
    assert detector.calibration_distances.dtype == torch.float32
    assert torch.allclose(found, expected, rtol=0.2, atol=0.1 * float(expected.max()))


def test_some_of_a_prediction(detector, new):
    prediction = detector.predict(new)
    some = prediction[1:3]
    assert len(some) == 2
    assert torch.equal(some.anomaly_map, prediction.anomaly_map[1:3])
    assert [image.pred_score for image in some] == [prediction[i].pred_score for i in (1, 2)]


def test_a_folder_that_holds_more_than_good_images_is_refused(tmp_path):
    root = draw_textures(tmp_path / "data", image_size=64, train=8, test_good=1, per_type=1)
    with pytest.raises(InputError, match="contains train/good, so it is a whole data set"):
        Detector.fit(root)
    with pytest.raises(InputError, match="contains train/good"):
        Detector.fit(root / "train" / "good", calibration=str(root))


@pytest.mark.parametrize("rate", [0, 1, 1.5])
def test_a_rate_that_cannot_be_is_refused_before_any_work(rate):
    with pytest.raises(InputError, match="`false_alarm_rate` is"):
        Detector.fit("nowhere", false_alarm_rate=rate)


def test_a_copy_says_the_same(detector, new):
    copied = copy.deepcopy(detector)
    assert torch.equal(copied.predict(new).anomaly_map, detector.predict(new).anomaly_map)


def test_nothing_of_a_detector_is_trained(detector, new):
    assert not detector.training
    assert not any(p.requires_grad for p in detector.parameters())
    assert not detector.predict(new[:1]).anomaly_map.requires_grad


def test_the_extractor_is_a_module_of_its_own(detector, supernet, good, new):
    pixels = load_images(new[:3], 64)
    features = detector.extractor(pixels)
    assert features.shape == (3, 16, 16, detector.memory.bank.shape[1])
    other = fit(load_supernet(NAME, "random", seed=9), good[:12], calibration=good[12:]).extractor
    assert not torch.equal(other(pixels), features)
    state = detector.extractor.state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    other.load_state_dict(state)
    assert torch.equal(other(pixels), features)
    # The detector is its parts.
    distances = MemoryBank(detector.memory.bank)(features.flatten(0, 2)).reshape(3, 16, 16)
    maps = torch.nn.functional.interpolate(
        distances[:, None], size=(224, 224), mode="bilinear", align_corners=False
    )
    assert torch.equal(maps[:, 0], detector.predict(new[:3]).anomaly_map)


def test_export_with_any_number_of_images(detector, new):
    pixels = load_images(new, 64)
    count = torch.export.Dim("images", min=1, max=64)
    program = torch.export.export(detector, (pixels[:3],), dynamic_shapes={"images": {0: count}})
    for images in (1, 3, len(new)):
        maps, scores = program.module()(pixels[:images])
        expected_maps, expected_scores = detector(pixels[:images])
        assert torch.equal(maps, expected_maps)
        assert torch.equal(scores, expected_scores)


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
        {"tensors": {"memory.bank": torch.zeros(4, 5)}},
        {"tensors": {"memory.bank": torch.full((4, 5), float("nan"))}},
        {"tensors": {"memory.bank": torch.zeros(5)}},
        {"tensors": {"extractor.subnet.network.conv_stem.weight": torch.zeros(2, 2)}},
        {"evaluation_size": "x"},
        {"evaluation_size": 0},
        {"tensors": {"calibration_sizes": torch.ones(10, dtype=torch.int64)}},
        {"tensors": {"calibration_scores": torch.ones(9)}},
        {"tensors": {"calibration_distances": torch.ones(9, 256, 1)}},
        {"usual_score": None},
        {"threshold": {"value": 1.0}},
        {"usual_score": float("nan")},
        {"data_digest": None},
        {"architecture": replace(ARCHITECTURE, backbone=Backbone(NAME, (1, 2))).to_json()},
        {"architecture": {"supernet": NAME, "image_size": 64}},
    ],
)
def test_damaged_contents(saved, changes):
    rewrite(saved, **changes)
    with pytest.raises(InputError) as error:
        Detector.load(saved)
    assert str(error.value).startswith(str(saved))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("number", "fragment"),
    [
        (6, "an earlier version of autopatch .format 6, expected 7.; fit it again"),
        (99, "a detector of autopatch 9.9.9, which is newer than .* update autopatch"),
        ("x", "damaged detector file .format 'x'"),
        (None, "damaged detector file .format None"),
        (True, "damaged detector file .format True"),
        (0, "damaged detector file .format 0"),
    ],
)
def test_other_formats(saved, number, fragment):
    rewrite(saved, format=number, autopatch="9.9.9")
    with pytest.raises(InputError, match=fragment) as error:
        Detector.load(saved)
    assert str(error.value).startswith(f"{saved}: ")
    assert ("update" in str(error.value)) == (number == 99)
    assert "\n" not in str(error.value)


def test_a_file_names_the_version_that_wrote_it(saved):
    with safe_open(saved, framework="pt") as file:
        document = json.loads(file.metadata()["autopatch_detector"])
    assert document["autopatch"] == autopatch.__version__
    assert len(document["subnet"]["weights_sha256"]) == 64


def test_stacked_maps_are_those_of_the_batches():
    batches = [[torch.randn(n, 3, 4, 4), torch.randn(n, 2, 2, 2)] for n in (4, 4, 1)]
    stacked = stack_maps(batches, 9)
    for i, whole in enumerate(stacked):
        assert torch.equal(whole, torch.cat([batch[i] for batch in batches]))
        assert whole.is_contiguous(memory_format=torch.channels_last)


def in_12_bits(path):
    """A file's 8-bit pixels as 12-bit values with the same high 8 bits."""
    return np.rint(as_hwc(path, np.float64) * 4095).astype(np.uint16)


@pytest.fixture(scope="module")
def deep_detector(supernet, good):
    return fit(supernet, [in_12_bits(p) for p in good[:12]], calibration=map(in_12_bits, good[12:]))


def test_the_bit_depth_is_that_of_the_images_fitted_on(
    detector, deep_detector, new, tmp_path, caplog
):
    assert deep_detector.reading == Reading(bit_depth=12)
    expected = detector.predict(new).anomaly_map
    deep_detector.save(tmp_path / "deep.safetensors")
    loaded = Detector.load(str(tmp_path / "deep.safetensors"))
    assert loaded.reading == deep_detector.reading
    for each in (deep_detector, loaded):
        assert torch.equal(each.predict([in_12_bits(p) for p in new]).anomaly_map, expected)
        assert torch.equal(each.predict(new).anomaly_map, expected)  # 8 bits are what they are
    assert caplog.messages == []
    other = copy.deepcopy(detector)
    other.load_state_dict(deep_detector.state_dict())
    assert other.reading == deep_detector.reading


def test_images_brighter_than_the_bit_depth_are_named(deep_detector, new, tmp_path, caplog):
    path = tmp_path / "bright.png"
    Image.fromarray(np.full((64, 64), 5000, np.uint16)).save(path)
    clipped = deep_detector.predict(str(path))
    (warning,) = caplog.messages
    assert warning == (
        "1 image is brighter than the bit depth allows (values up to 5000 are clipped at 4095): "
        f"{path}; fit again with `bit_depth` 14"
    )
    white = np.full((64, 64), 4095, np.uint16)
    assert torch.equal(clipped.anomaly_map, deep_detector.predict(white).anomaly_map)
    remarks = Remarks()
    deep_detector.predict(path, remarks=remarks)
    assert remarks.lines() == (warning,)
    assert caplog.messages == [warning]


def test_dropped_alpha_is_said_once_in_a_call(detector, supernet, good, new, caplog):
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    with_alpha = [np.dstack([as_hwc(path, np.uint8), ramp]) for path in (*good[:4], *new)]
    found = detector.predict(with_alpha[4:])
    (warning,) = caplog.messages
    assert warning.startswith(f"the alpha channel of {len(new)} images is dropped: images[0], ")
    assert torch.equal(found.anomaly_map, detector.predict(new).anomaly_map)
    caplog.clear()
    fit(supernet, with_alpha[:4], calibration=good[12:])
    (warning,) = caplog.messages
    assert "of 4 images is dropped" in warning


def test_few_grey_levels_are_warned_about(supernet, good, caplog):
    coarse = [in_12_bits(path) // 512 * 512 for path in good]
    fit(supernet, coarse[:12], calibration=coarse[12:])
    (warning,) = caplog.messages
    assert "gray levels at a bit depth of 12, expected 32 or more" in warning


def test_few_grey_levels_of_8_bits_are_warned_about(supernet, good, caplog):
    coarse = [as_hwc(path, np.uint8) // 64 * 64 for path in good]
    fit(supernet, coarse[:12], calibration=coarse[12:])
    (warning,) = caplog.messages
    assert "use 4 gray levels, expected 32 or more" in warning


def test_a_bit_depth_that_is_given_hides_no_warning(supernet, good, caplog):
    images = [in_12_bits(path) for path in good]
    given = Reading(bit_depth=16, exif="ignore")
    assert fit(supernet, images[:12], calibration=images[12:], reading=given).reading == given
    (warning,) = caplog.messages
    assert warning.endswith("give `bit_depth` 12")
    assert "gray levels at a bit depth of 16" in warning
    caplog.clear()
    ramp = np.tile(np.arange(64, dtype=np.uint16), (64, 1))
    images = [np.dstack([image, ramp]) for image in images]
    given = Reading(bit_depth=10)
    fit(supernet, images[:12], calibration=images[12:], reading=given)
    bright, alpha = caplog.messages
    assert re.match(
        r".* brighter than the bit depth .* clipped at 1023.*; give `bit_depth` 12$", bright
    )
    assert alpha.startswith("the alpha channel of 12 images is dropped")
    caplog.clear()
    fit(supernet, images[:12], calibration=images[12:], reading=given, warn=False)
    assert caplog.messages == []


def test_exif_is_applied_or_ignored_as_it_was_when_fitted(supernet, good, new, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = tmp_path / "turned.png"
    Image.open(new[0]).save(turned, exif=exif)
    for choice, expected in ("ignore", Image.open(new[0])), ("apply", Image.open(turned)):
        fitted = fit(supernet, good[:12], calibration=good[12:], reading=Reading(exif=choice))
        assert fitted.reading == Reading(bit_depth=8, exif=choice)
        found = fitted.predict(turned).anomaly_map
        plain = np.asarray(expected.convert("RGB"))
        if choice == "apply":
            plain = np.rot90(plain)
        assert torch.equal(found, fitted.predict(plain).anomaly_map)


def test_calibration_images_that_the_bank_knows_are_refused(supernet, good, tmp_path):
    copied = tmp_path / "copied.png"
    copied.write_bytes(good[3].read_bytes())
    with pytest.raises(InputError, match=rf"^22 of 22 `calibration` images .*: {good[0]} is "):
        fit(supernet, good, calibration=good)
    with pytest.raises(InputError, match=rf"^1 of 2 .*first: {copied} is {good[3]}; expected"):
        fit(supernet, good[:12], calibration=[good[15], copied])
    with pytest.raises(InputError, match=rf"^22 of 22 .*: {good[0]}"):
        fit(supernet, good[0].parent, calibration=str(good[0].parent))
    arrays = [as_hwc(path, np.uint8) for path in good[:4]]
    with pytest.raises(InputError, match=r"first: calibration\[0\] is images\[2\]"):
        fit(supernet, arrays, calibration=[Image.fromarray(arrays[2]), as_hwc(good[5], np.uint8)])

    # The same pictures in other bytes.
    resaved = tmp_path / "resaved.bmp"
    Image.open(good[3]).save(resaved)
    for same in resaved, Image.open(good[3]), as_hwc(good[3], np.uint8), as_hwc(good[3], float):
        with pytest.raises(InputError, match=rf"^1 of 2 `calibration` .* is {good[3]}; expected"):
            fit(supernet, good[:12], calibration=[same, good[15]])


def test_pictures_are_compared_as_they_are_read(supernet, good, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    turned = tmp_path / "turned.png"
    Image.open(good[0]).save(turned, exif=exif)
    fit(supernet, good[:3], calibration=[turned, good[4]])
    with pytest.raises(InputError, match="1 of 2 `calibration` images are among"):
        fit(supernet, good[:3], calibration=[turned, good[4]], reading=Reading(exif="ignore"))


@pytest.mark.parametrize("copies", [2, 4])
def test_copies_are_kept_together(supernet, good, tmp_path, caplog, copies):
    for path in good[:5]:
        for copy_ in range(copies):
            Image.open(path).save(tmp_path / f"{path.stem}-{copy_}.{('png', 'bmp')[copy_ % 2]}")
    every_patch = replace(ARCHITECTURE, head=Head((3, 2), None))
    for seed in range(3):
        caplog.clear()
        detector = fit(supernet, tmp_path, architecture=every_patch, seed=seed)
        assert detector.threshold.images == 5 * copies
        assert detector.calibration_scores.min() > 1e-3
        by_picture = detector.calibration_scores.reshape(5, copies)
        torch.testing.assert_close(by_picture, by_picture[:, :1].expand(5, copies))
        (line,) = caplog.messages
        assert line.startswith("the images show 5 pictures more than once: ")
        assert f"{tmp_path / good[0].stem}-0.png = {tmp_path / good[0].stem}-1.bmp" in line


def test_too_few_different_pictures(supernet, good):
    with pytest.raises(InputError, match="`images` has 6, all of the same picture, expected at"):
        fit(supernet, [good[0]] * 6)
    detector = fit(supernet, [*good[:2]] * 2)
    assert detector.threshold.images == 4
    assert detector.calibration_scores.min() > 1e-3


def test_deep_images_that_look_alike_in_8_bits_are_not_the_same(supernet):
    images = [np.full((64, 64), 1000 + 2 * step, np.uint16) for step in range(4)]
    fit(supernet, images[:2], calibration=images[2:], reading=Reading(bit_depth=16))


def test_one_folder_or_many(detector, root):
    folders = sorted((root / "test").iterdir())
    expected = detector.predict(root / "test").anomaly_map
    assert torch.equal(detector.predict(folders).anomaly_map, expected)
    assert torch.equal(detector.predict(map(str, folders)).anomaly_map, expected)
