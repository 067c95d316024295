"""A small run, and the same run again in plain torch, NumPy and scikit-learn."""

import json
import math

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from autopatch.data import MVTecAD, draw_textures, make_split
from autopatch.detector import Detector, Head, score_maps
from autopatch.search import CandidateEvaluator, Plan, Study, compose_space, load_trials, search
from autopatch.supernet import load_supernet

NAME = "test_efficientnet"
MEAN, STD = (0.45, 0.4, 0.5), (0.2, 0.25, 0.3)
SEED = 7
SIDE = 224


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = timm.create_model(NAME, features_only=True).eval()
        for module in model.modules():  # statistics of their own, so that a mix-up would show
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def run(model, tmp_path_factory):
    """Searches, fits and saves with autopatch."""
    folder = tmp_path_factory.mktemp("run")
    weights = folder / "weights.safetensors"
    metadata = {
        "timm_model": NAME,
        "timm_kwargs": "{}",
        "mean": json.dumps(MEAN),
        "std": json.dumps(STD),
    }
    save_file(model.state_dict(), weights, metadata=metadata)
    data = draw_textures(folder / "data", seed=2, image_size=80, train=14, test_good=3, per_type=5)
    split = make_split(MVTecAD.scan(data), shots=2, reserve=3, seed=SEED)
    supernet = load_supernet(f"timm:{NAME}", str(weights))
    choices = {"image_size": (64, 96), "patch_size": (1, 2, 3, 5), "bank_size": (30, 90)}
    # The calculation by hand knows no optional genes.
    space = compose_space(supernet, choices=Head.off_choices() | choices)
    evaluator = CandidateEvaluator(
        supernet, fit=split.fit, scored=(*split.holdout, *split.validation)
    )
    plan = Plan(space, evaluations=8, seed=SEED, population=4)
    with Study.create(folder / "study.db", plan) as study:
        front = search(evaluator, study)
    detector = Detector.fit(
        [sample.image for sample in split.fit],
        supernet=supernet,
        architecture=front.pick.architecture,
        calibration=[sample.image for sample in split.holdout],
        seed=SEED,
    )
    detector.save(folder / "detector.safetensors")
    return {
        "split": split,
        "trials": load_trials(folder / "study.db"),
        "detector": Detector.load(folder / "detector.safetensors"),
    }


def read(samples, size):
    images = []
    for sample in samples:
        with Image.open(sample.image) as file:
            resized = file.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        images.append(np.asarray(resized, np.float32) / 255)
    pixels = (np.stack(images) - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def read_masks(samples):
    masks = []
    for sample in samples:
        mask = np.zeros((SIDE, SIDE), bool)
        if sample.mask is not None:
            with Image.open(sample.mask) as file:
                labels, count = ndimage.label(np.asarray(file.convert("L")) > 0, np.ones((3, 3)))
            for region in range(1, count + 1):
                mask |= resized(labels == region)
        masks.append(mask)
    return np.stack(masks)


def resized(region):
    """The pixels that a region covers most; their number matches its area."""
    finest = math.lcm(SIDE, len(region))
    fine = np.kron(region, np.ones((finest // len(region),) * 2))
    share = fine.reshape(SIDE, finest // SIDE, SIDE, finest // SIDE).mean(axis=(1, 3))
    levels = sorted(set(share[share > 0]), reverse=True)
    return share >= min(levels, key=lambda level: abs((share >= level).sum() - share.sum()))


def patch_features(model, architecture, samples):
    with torch.no_grad():
        every_level = model(read(samples, architecture.input.size))
    maps = [every_level[level].double() for level in architecture.backbone.levels]
    size = max(m.shape[-2:] for m in maps)
    pooled = [
        F.avg_pool2d(m, p, stride=1, padding=int((p - 1) / 2))
        for m, p in zip(maps, architecture.head.patch_sizes, strict=True)
    ]
    resized = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in pooled]
    return torch.cat(resized, dim=1).permute(0, 2, 3, 1)  # [N, H, W, D]


def squared_distances(a, b):
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def memory_bank(patches, size):
    rows = patches.flatten(0, 2)
    if size >= len(rows):
        return rows
    picks = [int((rows - rows.mean(dim=0)).square().sum(dim=1).argmin())]
    nearest = squared_distances(rows[picks], rows)[0]
    while len(picks) < size:
        picks.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, squared_distances(rows[picks[-1:]], rows)[0])
    return rows[picks]


def anomaly_maps(model, architecture, fit, samples):
    bank = memory_bank(patch_features(model, architecture, fit), architecture.head.bank_size)
    patches = patch_features(model, architecture, samples)
    nearest = squared_distances(patches.flatten(0, 2), bank).amin(dim=1)
    scores = nearest.reshape(len(samples), 1, *patches.shape[1:3])
    size = (SIDE, SIDE)
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[:, 0].numpy()


def metrics(maps, masks, types):
    regions = [ndimage.label(mask, structure=np.ones((3, 3)))[0] for mask in masks]
    areas = [np.bincount(labels.ravel())[1:] for labels in regions]
    kinds = sorted(set(types) - {"good"})
    counts = {
        kind: sum(len(a) for a, t in zip(areas, types, strict=True) if t == kind) for kind in kinds
    }
    mean_area = np.concatenate(areas).mean()
    mean_count = np.mean(list(counts.values()))
    weights = np.ones(maps.shape)
    for image, (labels, kind) in enumerate(zip(regions, types, strict=True)):
        for region, area in enumerate(areas[image], start=1):
            weights[image][labels == region] = mean_area / area * mean_count / counts[kind]
    truth, scores = masks.ravel(), maps.ravel()
    found = {
        "rwAP": average_precision_score(truth, scores, sample_weight=weights.ravel()),
        "AP": average_precision_score(truth, scores),
        "AUROC": roc_auc_score(truth, scores),
        "partial_AUROC": roc_auc_score(truth, scores, max_fpr=0.3),
        "AUPRO": per_region_overlap_area(maps, masks, regions, areas),
    }
    anomalous = [kind != "good" for kind in types]
    found["image_AUROC"] = roc_auc_score(anomalous, maps.reshape(len(maps), -1).max(axis=1))
    return found


def per_region_overlap_area(maps, masks, regions, areas):
    # The overlap of a region rises by 1 / area at each of its pixels: a weight that sums to the
    # number of regions, so that the curve is a ROC curve with those weights.
    weights = np.ones(maps.shape)
    for image, labels in enumerate(regions):
        for region, area in enumerate(areas[image], start=1):
            weights[image][labels == region] = 1 / area
    order = np.argsort(-maps.ravel(), kind="stable")
    scores, truth = maps.ravel()[order], masks.ravel()[order]
    last_of_ties = np.append(np.diff(scores) != 0, True)
    overlap = np.cumsum(weights.ravel()[order] * truth)[last_of_ties]
    false = np.cumsum(~truth)[last_of_ties]
    overlap, false = np.append(0, overlap / overlap[-1]), np.append(0, false / false[-1])
    at_limit = np.interp(0.3, false, overlap)
    inside = false < 0.3
    return auc(np.append(false[inside], 0.3), np.append(overlap[inside], at_limit)) / 0.3


def total_flops(model, architecture, fit_images):
    deepest = model.feature_info.module_name()[architecture.backbone.levels[-1]]
    macs = []

    def count(module, _inputs, output):
        kernel = math.prod(module.weight.shape[1:])  # channels of a group x height x width
        macs.append(output[0].numel() * kernel)

    hooks = []
    for name, module in model.named_modules():
        stage = name.split(".")[:2]
        before = not name.startswith("blocks.") or int(stage[1]) <= int(deepest.split(".")[1])
        if isinstance(module, torch.nn.Conv2d) and before:
            hooks.append(module.register_forward_hook(count))
    size = architecture.input.size
    with torch.no_grad():
        maps = model(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    chosen = [maps[level] for level in architecture.backbone.levels]
    queries = max(math.prod(m.shape[2:]) for m in chosen)
    channels = sum(m.shape[1] for m in chosen)
    bank_rows = min(architecture.head.bank_size, fit_images * queries)
    return 2 * sum(macs) + 2 * queries * bank_rows * channels


def test_every_candidate_of_the_search(model, run):
    split = run["split"]
    scored = (*split.holdout, *split.validation)
    masks, types = read_masks(scored), [sample.type for sample in scored]
    assert len(run["trials"]) == 8
    for trial in run["trials"]:
        maps = anomaly_maps(model, trial.architecture, split.fit, scored)
        found = trial.evaluation.metrics
        expected = metrics(maps, masks, types)
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4)
        values = trial.evaluation.values
        assert values["total_flops"] == total_flops(model, trial.architecture, len(split.fit))
        assert values["rwAP"] == trial.evaluation.metrics["rwAP"]


def test_the_saved_detector(model, run):
    split, detector = run["split"], run["detector"]
    prediction = detector.predict([sample.image for sample in split.test])
    expected = anomaly_maps(model, detector.architecture, split.fit, split.test)
    np.testing.assert_allclose(
        prediction.anomaly_map, expected, rtol=1e-4, atol=1e-6 * expected.max()
    )
    np.testing.assert_allclose(prediction.pred_score, expected.max(axis=(1, 2)), rtol=1e-4)

    masks, types = read_masks(split.test), [sample.type for sample in split.test]
    found = score_maps(prediction.anomaly_map, torch.from_numpy(masks), types)
    assert found == pytest.approx(metrics(expected, masks, types), rel=1e-4)

    calibration = anomaly_maps(model, detector.architecture, split.fit, split.holdout)
    highest = calibration.max(axis=(1, 2)).max()  # too few images for less than the maximum
    assert detector.threshold.value == pytest.approx(highest, rel=1e-4)
    assert prediction.pred_label.tolist() == (expected.max(axis=(1, 2)) > highest).tolist()
