"""Benchmarks of the metrics of anomaly maps: rwAP including the labeling of regions, and all
metrics at once."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from autopatch.data import GOOD, MVTecAD, load_masks
from autopatch.kernels import pixel_metrics, reference, region_weighted_average_precision
from features import SHARED

REAL_MASKS = SHARED / "data" / "magnetic_tile"
SIDE = 224
GRID = 28  # number of patches along a side of a score map

Label = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Problem:
    """Score maps and masks.

    Attributes:
        data: Description of the masks.
        scores: `[N, H, W]`.
        masks: `[N, H, W]`, bool.
        types: Anomaly type of each image.
        target: Target ratio to the best peer; None if there is no target.
        rwAP: Expected value, computed by sorting every pixel.
    """

    data: str
    scores: torch.Tensor
    masks: torch.Tensor
    types: list[str]
    target: float | None
    rwAP: float  # noqa: N815

    @classmethod
    def make(cls, images: int, dtype: torch.dtype, target: float | None) -> Problem:
        ndimage = pytest.importorskip("scipy.ndimage")
        data, masks, types = masks_of(images)
        scores = score_maps(masks)
        if dtype == torch.uint8:
            low, high = scores.aminmax()
            scores = scores.sub(low).mul(255 / (high - low)).round().to(torch.uint8)

        def label(mask: np.ndarray) -> np.ndarray:
            labels: np.ndarray = ndimage.label(mask, np.ones((3, 3)))[0]
            return labels

        problem = cls(data, scores, masks, types, target, rwAP=0.0)
        value = by_numpy(problem, problem.weights(label))
        return cls(data, scores, masks, types, target, value)

    @property
    def task(self) -> dict[str, Any]:
        kind = "8-bit" if self.scores.dtype == torch.uint8 else "float"
        return {
            "group": f"rwAP: {round(self.scores.numel() / 1e6)} M pixels, {kind} scores",
            "work": 1e-6 * self.scores.numel(),
            "unit": "Mpixel/s",
            "floor": {"read": 1e-9 * self.scores.numel() * (self.scores.element_size() + 1)},
            "data": f"{self.data}, smooth scores",
            "target": self.target,
        }

    @property
    def is_large(self) -> bool:
        return self.scores.numel() > 10_000_000

    def weights(self, label: Label) -> np.ndarray:
        """Weight of each pixel in rwAP, `[N, H, W]`."""
        masks = self.masks.numpy()
        labels = {i: label(masks[i]) for i, name in enumerate(self.types) if name != GOOD}
        areas = {i: np.bincount(found.ravel())[1:] for i, found in labels.items()}
        counts = Counter({name: 0 for name in self.types if name != GOOD})
        for i, sizes in areas.items():
            counts[self.types[i]] += len(sizes)
        mean_area = np.concatenate(list(areas.values())).mean()
        mean_count = sum(counts.values()) / len(counts)
        weights = np.ones(masks.shape)
        for i, found in labels.items():
            of_region = mean_area / areas[i] * (mean_count / counts[self.types[i]])
            weights[i] = np.concatenate([[1.0], of_region])[found]
        return weights


def masks_of(images: int) -> tuple[str, torch.Tensor, list[str]]:
    """Masks and their types: real masks, mirrored when repeated, or synthetic blobs."""
    if not REAL_MASKS.is_dir():
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(images, 1, GRID, GRID, generator=generator)
        blobs = smooth(noise) > 1.7
        masks = interpolate(blobs.float(), size=SIDE, mode="bilinear")[:, 0] > 0.5
        types = [(GOOD, "crack", "dent")[i % 3] for i in range(images)]
        masks[::3] = False
        return "blobs", masks, types
    samples = MVTecAD.scan(REAL_MASKS).test
    found = load_masks(samples, SIDE).bool()
    flips: list[list[int]] = [[], [1], [2], [1, 2]]
    rounds = -(-images // len(samples))
    turned = [found.flip(flips[i % len(flips)]) for i in range(rounds)]
    types = [sample.type for sample in samples] * rounds
    return "magnetic_tile masks", torch.cat(turned)[:images].contiguous(), types[:images]


def smooth(maps: torch.Tensor) -> torch.Tensor:
    return 3 * avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def score_maps(masks: torch.Tensor) -> torch.Tensor:
    """Score maps like a detector's: enlarged patch distances, high on only some of the anomalies.
    Scores are at most 1, because torchmetrics takes others for logits and rounds their sigmoids to
    1."""
    generator = torch.Generator().manual_seed(0)
    noise = smooth(torch.randn(len(masks), 1, GRID, GRID, generator=generator))
    contrast = 3 * torch.rand(len(masks), 1, 1, 1, generator=generator)
    inside = interpolate(masks[:, None].float(), size=GRID, mode="area").sqrt()
    patches = (6 + noise + contrast * inside).square()
    return interpolate(patches / patches.max(), size=SIDE, mode="bilinear")[:, 0].contiguous()


def by_numpy(problem: Problem, weights: np.ndarray) -> float:
    scores = problem.scores.numpy().ravel()
    # A stable sort is a radix sort for 8 bits, but slower than the default for floats.
    order = np.argsort(scores, kind="stable" if scores.dtype == np.uint8 else None)[::-1]
    ordered = scores[order]
    last_of_ties = np.append(ordered[1:] != ordered[:-1], True)
    of_pixel = weights.ravel()[order]
    all_found = of_pixel.cumsum()[last_of_ties]
    found = (of_pixel * problem.masks.numpy().ravel()[order]).cumsum()[last_of_ties]
    return float((np.diff(found, prepend=0) * (found / all_found)).sum() / found[-1])


def by_torch(problem: Problem, weights: np.ndarray) -> float:
    ordered, order = problem.scores.flatten().sort(descending=True)
    last_of_ties = torch.cat([ordered[1:] != ordered[:-1], torch.ones(1, dtype=torch.bool)])
    of_pixel = torch.from_numpy(weights).flatten()[order]
    all_found = of_pixel.cumsum(0)[last_of_ties]
    found = (of_pixel * problem.masks.flatten()[order]).cumsum(0)[last_of_ties]
    gained = found.diff(prepend=found.new_zeros(1))
    return float((gained * (found / all_found)).sum() / found[-1])


def by_scikit_learn(problem: Problem, weights: np.ndarray) -> float:
    metrics = pytest.importorskip("sklearn.metrics")
    value: float = metrics.average_precision_score(
        problem.masks.numpy().ravel(), problem.scores.numpy().ravel(), sample_weight=weights.ravel()
    )
    return value


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "5M_float": lambda: Problem.make(100, torch.float32, target=40.0),
    "5M_8bit": lambda: Problem.make(100, torch.uint8, target=60.0),
    "39M_float": lambda: Problem.make(778, torch.float32, target=40.0),
    "39M_8bit": lambda: Problem.make(778, torch.uint8, target=60.0),
}


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return PROBLEMS[request.param]()


@pytest.fixture(scope="module")
def all_at_once() -> tuple[Problem, dict[str, float]]:
    """A problem and the reference's metrics."""
    problem = PROBLEMS["5M_float"]()
    return problem, reference.pixel_metrics(problem.scores, problem.masks, problem.types)


def time_peer(
    problem: Problem,
    measure: Callable[..., Any],
    label: Label,
    curve: Callable[[Problem, np.ndarray], float],
) -> None:
    found = measure(
        lambda: curve(problem, problem.weights(label)),
        rounds=1 if problem.is_large else None,
        **problem.task,
    )
    assert found == pytest.approx(problem.rwAP, rel=1e-9)


def rwap_of(problem: Problem) -> float:
    return region_weighted_average_precision(problem.scores, problem.masks, problem.types)


def label_by_cv2(mask: np.ndarray) -> np.ndarray:
    labels: np.ndarray = pytest.importorskip("cv2").connectedComponents(
        mask.view(np.uint8), connectivity=8
    )[1]
    return labels


def bench_cv2_torch(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    time_peer(problem, measure, label_by_cv2, by_torch)


def bench_cv2_numpy(problem: Problem, measure: Callable[..., Any]) -> None:
    time_peer(problem, measure, label_by_cv2, by_numpy)


def bench_cv2_scikit_learn(problem: Problem, measure: Callable[..., Any]) -> None:
    time_peer(problem, measure, label_by_cv2, by_scikit_learn)


def only_five_million(problem: Problem) -> None:
    if problem.is_large:
        pytest.skip("slow")


def bench_skimage_torch(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    skimage = pytest.importorskip("skimage.measure")
    only_five_million(problem)
    time_peer(problem, measure, lambda mask: skimage.label(mask, connectivity=2), by_torch)


def bench_cc3d_torch(problem: Problem, measure: Callable[..., Any], threads: int) -> None:
    cc3d = pytest.importorskip("cc3d")
    only_five_million(problem)
    time_peer(
        problem, measure, lambda mask: cc3d.connected_components(mask, connectivity=8), by_torch
    )


def bench_cv2_numpy_bincount(problem: Problem, measure: Callable[..., Any]) -> None:
    """Counts the 256 values instead of sorting."""
    if problem.scores.dtype != torch.uint8:
        pytest.skip("not 8-bit")

    def count() -> float:
        weights = problem.weights(label_by_cv2).ravel()
        scores, positive = problem.scores.numpy().ravel(), problem.masks.numpy().ravel()
        negatives = np.bincount(scores[~positive], minlength=256)[::-1].cumsum()
        gained = np.bincount(scores[positive], weights[positive], minlength=256)[::-1]
        found = gained.cumsum()
        with np.errstate(invalid="ignore"):
            return float(np.nansum(gained * (found / (found + negatives))) / found[-1])

    assert measure(count, **problem.task) == pytest.approx(problem.rwAP, rel=1e-9)


def bench_autopatch_rwap(
    problem: Problem, measure: Callable[..., Any], isa: str, threads: int
) -> None:
    found = measure(lambda: rwap_of(problem), **problem.task)
    assert found == pytest.approx(problem.rwAP, rel=1e-12)


def time_all(
    all_at_once: tuple[Problem, dict[str, float]],
    measure: Callable[..., Any],
    function: Callable[[], dict[str, float]],
    tolerance: float,
) -> None:
    """Times a function that computes some of the reference's metrics, and compares the results."""
    problem, expected = all_at_once
    task = problem.task | {"group": "pixel_metrics: 5 M pixels, all at once", "target": 20.0}
    found = measure(function, **task)
    assert found == pytest.approx({name: expected[name] for name in found}, rel=tolerance)


def bench_anomalib_3_of_5_metrics(
    all_at_once: tuple[Problem, dict[str, float]], measure: Callable[..., Any], threads: int
) -> None:
    """The metrics that anomalib has: AUROC, area under the precision-recall curve and AUPRO."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        aupr, aupro, auroc = (
            pytest.importorskip(f"anomalib.metrics.{name}") for name in ("aupr", "aupro", "auroc")
        )
    scores, masks = all_at_once[0].scores, all_at_once[0].masks.int()
    metrics = {"AUROC": auroc._AUROC(), "AP": aupr._AUPR(), "AUPRO": aupro._AUPRO()}

    def evaluate() -> dict[str, float]:
        for metric in metrics.values():
            metric.reset()
            metric.update(scores, masks)
        return {name: float(metric.compute()) for name, metric in metrics.items()}

    # Sums are in float32, and the precision-recall curve has straight segments.
    time_all(all_at_once, measure, evaluate, tolerance=1e-2)


def bench_adeval_3_of_5_metrics(
    all_at_once: tuple[Problem, dict[str, float]],
    measure: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The metrics that adeval has, in 1000 bins: AUROC, area under the precision-recall curve and
    AUPRO."""
    adeval = pytest.importorskip("adeval")
    monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)  # removed in NumPy 2.4
    scores, masks = all_at_once[0].scores.numpy(), all_at_once[0].masks.numpy().view(np.uint8)

    def evaluate() -> dict[str, float]:
        auroc, aupr, aupro = adeval.auroc_aupr_aupro(scores, masks)
        return {"AUROC": auroc, "AP": aupr, "AUPRO": aupro}

    time_all(all_at_once, measure, evaluate, tolerance=5e-2)


def bench_torchmetrics_3_of_5_metrics(
    all_at_once: tuple[Problem, dict[str, float]], measure: Callable[..., Any], threads: int
) -> None:
    """The metrics that torchmetrics has: AP, AUROC and partial AUROC."""
    functional = pytest.importorskip("torchmetrics.functional.classification")
    scores, masks = all_at_once[0].scores.flatten(), all_at_once[0].masks.flatten().int()

    def evaluate() -> dict[str, float]:
        return {
            "AP": float(functional.binary_average_precision(scores, masks)),
            "AUROC": float(functional.binary_auroc(scores, masks)),
            "partial_AUROC": float(functional.binary_auroc(scores, masks, max_fpr=0.3)),
        }

    time_all(all_at_once, measure, evaluate, tolerance=1e-2)


def bench_autopatch_all(
    all_at_once: tuple[Problem, dict[str, float]],
    measure: Callable[..., Any],
    isa: str,
    threads: int,
) -> None:
    problem, _ = all_at_once
    time_all(
        all_at_once,
        measure,
        lambda: pixel_metrics(problem.scores, problem.masks, problem.types).as_dict(),
        tolerance=1e-12,
    )
