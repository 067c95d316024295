from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autopatch.kernels import PixelMetrics, pixel_metrics, region_weighted_average_precision
from autopatch.kernels.operators.pixel_metrics import check_metrics_error
from autopatch.kernels.reference import metrics as reference

FIXTURES = Path(__file__).with_name("fixtures")
CASES: list[dict[str, Any]] = json.loads((FIXTURES / "metrics.json").read_text())
TYPES = ("good", "scratch", "hole", "scratch", "good", "stain", "hole", "hole")

Problem = tuple[torch.Tensor, torch.Tensor, Sequence[str]]


def problem(
    *,
    images: int = 8,
    height: int = 24,
    width: int = 24,
    density: float = 0.15,
    smooth: bool = True,
    seed: int = 0,
) -> Problem:
    """Scores that rise on anomalies, masks of blobs (or of loose pixels), and types."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(images, 1, height, width, generator=generator)
    if smooth:
        noise = torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)
    masks = noise[:, 0] > noise.flatten().quantile(1 - density)
    types = [TYPES[i % len(TYPES)] for i in range(images)]
    for image, name in enumerate(types):
        masks[image] &= name != "good"
    scores = torch.randn(images, height, width, generator=generator) + 1.5 * masks
    return scores, masks, types


def assert_matches(found: PixelMetrics, expected: dict[str, float]) -> None:
    values = found.as_dict()
    assert list(values) == ["rwAP", "AP", "AUROC", "partial_AUROC", "AUPRO"]
    for name, value in values.items():
        assert math.isclose(value, expected[name], rel_tol=1e-12, abs_tol=1e-12), name


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "metrics.npz") as file:
        return dict(file)


@pytest.mark.parametrize(
    "case", [case for case in CASES if "expected" in case], ids=lambda case: case["name"]
)
def test_original_values(case: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    scores = arrays[f"{case['id']:02d}_scores"]
    masks = arrays[f"{case['id']:02d}_masks"]
    found = pixel_metrics(scores, masks, case["types"])
    expected = case["expected"]
    for name in ("AP", "AUROC", "partial_AUROC"):
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-6)
    assert found.rwAP == pytest.approx(expected["wAP"], abs=1e-6)
    if expected["wAP"] != case["wAP_if_4_connectivity"]:
        assert abs(found.rwAP - case["wAP_if_4_connectivity"]) > 1e-4
    assert region_weighted_average_precision(scores, masks, case["types"]) == found.rwAP


def test_cases_the_original_cannot_take(arrays: dict[str, np.ndarray]) -> None:
    case = next(case for case in CASES if case["name"] == "error_no_good_image")
    scores, masks = (arrays[f"{case['id']:02d}_{part}"] for part in ("scores", "masks"))
    found = pixel_metrics(scores, masks, case["types"])
    original = case["original_float32"]["before_error"]
    for name in ("AP", "AUROC", "partial_AUROC"):
        assert getattr(found, name) == pytest.approx(original[name], abs=1e-6)
    assert_matches(
        found,
        reference.pixel_metrics(torch.from_numpy(scores), torch.from_numpy(masks), case["types"]),
    )
    case = next(case for case in CASES if case["name"] == "error_no_anomalous_pixel")
    scores, masks = (arrays[f"{case['id']:02d}_{part}"] for part in ("scores", "masks"))
    with pytest.raises(ValueError, match=r"^`masks` have no anomalous pixel$"):
        pixel_metrics(scores, masks, case["types"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [0.01, 0.15, 0.6])
@pytest.mark.parametrize("smooth", [True, False], ids=["blobs", "loose pixels"])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (7, 33), (1, 50), (50, 1), (3, 8)])
def test_agrees_with_the_reference(
    dtype: torch.dtype, density: float, smooth: bool, height: int, width: int
) -> None:
    for seed in range(4):
        scores, masks, types = problem(
            height=height, width=width, density=density, smooth=smooth, seed=seed
        )
        masks[1, 0, 0] = True
        scores = scores.to(dtype)
        assert_matches(
            pixel_metrics(scores, masks, types), reference.pixel_metrics(scores, masks, types)
        )


@pytest.mark.parametrize("levels", [1, 2, 5, 256])
def test_ties(levels: int) -> None:
    scores, masks, types = problem()
    scores = scores - scores.min()
    scores = (scores / scores.max() * (levels - 1)).round()
    expected = reference.pixel_metrics(scores, masks, types)
    assert_matches(pixel_metrics(scores, masks, types), expected)
    assert_matches(pixel_metrics(scores.to(torch.uint8), masks, types), expected)
    if levels == 1:
        assert pixel_metrics(scores, masks, types) == PixelMetrics(
            rwAP=pytest.approx(masks.double().mean().item(), rel=1e-12),
            AP=pytest.approx(masks.double().mean().item(), rel=1e-12),
            AUROC=0.5,
            partial_AUROC=0.5,
            AUPRO=pytest.approx(0.15, rel=1e-12),
        )


@pytest.fixture(scope="module", params=["none", "tied", "heavy tail", "huge range"])
def a_million_pixels(request: pytest.FixtureRequest) -> tuple[Problem, dict[str, float]]:
    """A problem, and the reference's metrics."""
    scores, masks, types = problem(images=40, height=160, width=160, density=0.05)
    if request.param == "tied":
        scores = scores.round(decimals=1)
    elif request.param == "heavy tail":
        scores = scores.exp().pow(4)
    elif request.param == "huge range":
        scores = scores.double().pow(301)
    return (scores, masks, types), reference.pixel_metrics(scores, masks, types)


def test_a_million_pixels_and_any_number_of_threads(
    a_million_pixels: tuple[Problem, dict[str, float]], isa: str
) -> None:
    (scores, masks, types), expected = a_million_pixels
    found = [pixel_metrics(scores, masks, types, num_threads=threads) for threads in (1, 2, 3)]
    assert_matches(found[0], expected)
    assert found[0] == found[1] == found[2]
    assert found[0] == pixel_metrics(scores, masks, types)


def test_scores_beyond_float32_are_told_apart() -> None:
    masks = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    scores = torch.tensor([[[1.0, 1.0 + 1e-15]]], dtype=torch.float64)
    assert pixel_metrics(scores, masks, ["a"]).AUROC == 1
    assert pixel_metrics(scores.float(), masks, ["a"]).AUROC == 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_exact(dtype: torch.dtype) -> None:
    scores, masks, types = problem()
    scores = scores.to(dtype)
    assert pixel_metrics(scores, masks, types) == pixel_metrics(scores.double(), masks, types)


def test_every_type_with_a_region_weighs_the_same() -> None:
    _, masks, types = problem()
    weights, overlaps = reference.pixel_weights(masks, types)
    assert weights[masks].sum().item() == pytest.approx(masks.sum().item(), rel=1e-12)
    assert overlaps.sum().item() == pytest.approx(1, rel=1e-12)
    # Constant scores: the precision is the share of the weight, whatever the shapes.
    found = pixel_metrics(torch.zeros(masks.shape), masks, types)
    assert found.rwAP == pytest.approx(found.AP, rel=1e-12)
    # A type without a region lowers the weight of the others by its share.
    found = pixel_metrics(torch.zeros(masks.shape), masks, ["dent", *types[1:]])
    positives, negatives = masks.sum().item(), (~masks).sum().item()
    weight = positives * 3 / 4
    assert found.rwAP == pytest.approx(weight / (weight + negatives), rel=1e-12)


def flood_fill(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """8-connected regions by their definition."""
    left = set(zip(*(axis.tolist() for axis in mask.nonzero()), strict=True))
    regions = []
    while left:
        region, edge = set(), {left.pop()}
        while edge:
            region |= edge
            edge = {
                (y + dy, x + dx) for y, x in edge for dy in (-1, 0, 1) for dx in (-1, 0, 1)
            } & left
            left -= edge
        regions.append(region)
    return regions


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_aupro_by_every_threshold(decimals: int) -> None:
    scores, masks, types = problem(images=4, height=12, width=15, seed=3)
    scores = scores.round(decimals=decimals)
    images, marked = scores.numpy(), masks.numpy()
    regions = [(image, region) for image in range(4) for region in flood_fill(marked[image])]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(images.flatten().tolist()), reverse=True):
        above = images >= np.float32(threshold)
        rate = above[~marked].mean()
        overlap = [np.mean([above[image][p] for p in region]) for image, region in regions]
        points.append((float(rate), float(np.mean(overlap))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 > x0 and x0 < 0.3:
            stop = min(x1, 0.3)
            area += (stop - x0) * (y0 + (y1 - y0) * (stop - x0) / (x1 - x0) / 2)
    found = pixel_metrics(scores, masks, types)
    assert math.isclose(found.AUPRO, area / 0.3, rel_tol=1e-12)


@pytest.mark.parametrize("shape", ["spiral", "comb", "nested", "checkerboard", "snake"])
def test_regions_of_winding_shapes(shape: str) -> None:
    mask = np.zeros((17, 19), dtype=np.uint8)
    if shape == "spiral":
        for ring in range(0, 8, 2):
            mask[ring, ring : 19 - ring] = 1
            mask[ring : 17 - ring, 18 - ring] = 1
            mask[16 - ring, ring : 19 - ring] = 1
            mask[ring + 2 : 17 - ring, ring] = 1
            mask[ring + 2, ring : ring + 2] = 1
    elif shape == "comb":  # teeth that meet in the last row only
        mask[:, ::2] = 1
        mask[-1] = 1
        mask[5, 7:12] = 0
    elif shape == "nested":
        for ring in range(0, 8, 2):
            mask[ring : 17 - ring, ring : 19 - ring] = 1
            mask[ring + 1 : 16 - ring, ring + 1 : 18 - ring] = 0
    elif shape == "checkerboard":
        mask[::2, ::2] = 1
        mask[1:8:2, 1::2] = 1
    else:  # diagonal steps
        for x in range(19):
            mask[abs(x % 16 - 8), x] = 1
    masks = torch.from_numpy(np.stack([mask, mask[::-1, ::-1]]))
    scores, _, _ = problem(images=2, height=17, width=19)
    for image in range(2):
        labels = reference.label_regions(masks[image : image + 1])[0].numpy()
        regions = flood_fill(masks[image].numpy())
        assert labels.max() == len(regions)
        for region in regions:
            assert len({labels[pixel] for pixel in region}) == 1
    assert_matches(
        pixel_metrics(scores, masks, ["a", "b"]),
        reference.pixel_metrics(scores, masks, ["a", "b"]),
    )


def test_agrees_with_scikit_learn() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    average_precision = sklearn_metrics.average_precision_score
    roc_auc = sklearn_metrics.roc_auc_score
    for seed in range(3):
        scores, masks, types = problem(seed=seed)
        scores = scores.round(decimals=2)
        labels, values = masks.flatten().numpy(), scores.flatten().numpy()
        weights = reference.pixel_weights(masks, types)[0].flatten().numpy()
        found = pixel_metrics(scores, masks, types).as_dict()
        del found["AUPRO"]  # not in scikit-learn
        expected = {
            "rwAP": average_precision(labels, values, sample_weight=weights),
            "AP": average_precision(labels, values),
            "AUROC": roc_auc(labels, values),
            "partial_AUROC": roc_auc(labels, values, max_fpr=0.3),
        }
        assert found == pytest.approx(expected, rel=1e-12)


def test_regions_are_those_of_scikit_image() -> None:
    measure = pytest.importorskip("skimage.measure")
    for smooth in (True, False):
        _, masks, _ = problem(smooth=smooth, density=0.3)
        labels = reference.label_regions(masks).numpy()
        for image in range(len(masks)):
            expected = measure.label(masks[image].numpy(), connectivity=2)
            pairs = set(zip(labels[image].flat, expected.flat, strict=True))
            assert len(pairs) == len(np.unique(expected)) == len(np.unique(labels[image]))


def test_infinities_are_ordered_like_numbers() -> None:
    scores, masks, types = problem()
    flat = scores.flatten()
    order = flat.argsort()
    with_infinities = flat.clone()
    with_infinities[order[:100]] = -torch.inf
    with_infinities[order[-100:]] = torch.inf
    finite = flat.clone()
    finite[order[:100]] = -1e30
    finite[order[-100:]] = 1e30
    for dtype in (torch.float32, torch.float64):
        assert pixel_metrics(
            with_infinities.view_as(scores).to(dtype), masks, types
        ) == pixel_metrics(finite.view_as(scores).to(dtype), masks, types)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_of_zero_are_equal_and_negative_scores_ordered(dtype: torch.dtype) -> None:
    masks = torch.tensor([[[1, 0, 1, 0]]], dtype=torch.uint8)
    zeros = torch.tensor([[[0.0, -0.0, -0.0, 0.0]]], dtype=dtype)
    assert pixel_metrics(zeros, masks, ["a"]).AUROC == 0.5
    scores = torch.tensor([[[-1.0, -2.0, 1e-40, -1e-40]]], dtype=dtype)
    assert pixel_metrics(scores, masks, ["a"]).AUROC == 0.75


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("pixel", [0, 1])
def test_nan_is_refused(dtype: torch.dtype, sign: int, pixel: int) -> None:
    scores, masks, types = problem()
    scores, masks = scores.to(dtype), masks.to(torch.uint8)
    masks[5, 3, 3] = pixel  # the NaN may be of an anomalous or a normal pixel
    scores[5, 3, 3] = math.copysign(math.nan, sign)
    with pytest.raises(ValueError, match=r"^`scores` contain NaN, first in image 5$"):
        pixel_metrics(scores, masks, types)


def test_without_a_normal_pixel() -> None:
    scores, _, _ = problem(images=2)
    found = pixel_metrics(scores, np.ones((2, 24, 24), dtype=bool), ["a", "b"])
    assert found.rwAP == found.AP == 1
    assert math.isnan(found.AUROC)
    assert math.isnan(found.partial_AUROC)
    assert math.isnan(found.AUPRO)
    single = pixel_metrics(np.zeros((1, 1, 1)), np.ones((1, 1, 1), dtype=bool), ["a"])
    assert single.rwAP == single.AP == 1


def test_perfect_and_inverted_scores() -> None:
    _, masks, types = problem()
    perfect = pixel_metrics(masks.float(), masks, types).as_dict()
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0), rel=1e-12)
    inverted = pixel_metrics(-masks.float(), masks, types)
    assert inverted.AUROC == inverted.AUPRO == 0


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0), (0, 0, 0)])
def test_no_pixel_at_all(shape: tuple[int, int, int]) -> None:
    types = ["good", "a"][: shape[0]]
    with pytest.raises(ValueError, match=r"^`masks` have no anomalous pixel$"):
        pixel_metrics(np.zeros(shape), np.zeros(shape, dtype=bool), types)


def test_anomalous_pixels_in_a_good_image() -> None:
    scores, masks, types = problem()
    masks[4, 1, 2] = True
    with pytest.raises(
        ValueError, match=r'^`masks` have anomalous pixels in image 4, whose type is "good"$'
    ):
        pixel_metrics(scores, masks, types)


def test_any_value_but_zero_is_anomalous() -> None:
    scores, masks, types = problem()
    values = masks.to(torch.uint8) * torch.arange(1, 256)[torch.arange(masks.numel()) % 255].view(
        masks.shape
    ).to(torch.uint8)
    assert pixel_metrics(scores, values, types) == pixel_metrics(scores, masks, types)


class OtherArray:
    """An array of a library that is neither torch nor NumPy."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


def test_arrays_of_other_libraries_and_layouts() -> None:
    scores, masks, types = problem(width=20)
    expected = pixel_metrics(scores, masks, types)
    assert pixel_metrics(scores.numpy(), masks.numpy(), types) == expected
    other = OtherArray(masks.to(torch.uint8))
    assert pixel_metrics(OtherArray(scores), other, types) == expected
    wide_scores, wide_masks = torch.zeros(8, 24, 40), torch.zeros(8, 24, 40, dtype=torch.bool)
    wide_scores[..., ::2], wide_masks[..., ::2] = scores, masks
    assert pixel_metrics(wide_scores[..., ::2], wide_masks[..., ::2], types) == expected
    turned = scores.transpose(1, 2).contiguous().transpose(1, 2)
    assert pixel_metrics(turned, masks.numpy()[::-1].copy()[::-1], types) == expected
    assert pixel_metrics(scores.requires_grad_(), masks, np.array(types)) == expected


def test_sizes_that_do_not_fit() -> None:
    scores, masks, types = problem()
    with pytest.raises(ValueError, match=r"^`scores` has shape \[24, 24\], expected \[N, H, W\]$"):
        pixel_metrics(scores[0], masks[0], types)
    with pytest.raises(
        ValueError, match=r"^`masks` has shape \[8, 24, 23\], `scores` has shape \[8, 24, 24\]$"
    ):
        pixel_metrics(scores, masks[..., 1:], types)
    with pytest.raises(ValueError, match=r"^`types` has 7 entries, `scores` has 8 images$"):
        pixel_metrics(scores, masks, types[1:])
    with pytest.raises(ValueError, match=r"^`num_threads` is 0, expected at least 1$"):
        pixel_metrics(scores, masks, types, num_threads=0)


def test_dtypes_that_do_not_fit() -> None:
    scores, masks, types = problem()
    with pytest.raises(TypeError, match=r"^`scores` has dtype int64, expected float32, float64"):
        pixel_metrics(scores.long(), masks, types)
    with pytest.raises(TypeError, match=r"^`masks` has dtype float32, expected bool or uint8$"):
        pixel_metrics(scores, masks.float(), types)
    with pytest.raises(TypeError, match=r"^`scores` is a list, expected a torch tensor"):
        pixel_metrics([[[1.0]]], masks, types)


def test_operator() -> None:
    scores, masks, types = problem()
    names = sorted(set(types) - {"good"})
    indices = [names.index(name) if name != "good" else -1 for name in types]
    arguments = (scores, masks, torch.tensor(indices, dtype=torch.int32), len(names), 0)
    operator = torch.ops.autopatch.pixel_metrics
    torch.library.opcheck(operator.default, arguments)
    values = operator(*arguments)
    assert values.dtype == torch.float64
    *metrics, error = values.tolist()
    assert PixelMetrics(*metrics) == pixel_metrics(scores, masks, types)
    assert error == 0
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), values)


def random_scores(
    kind: str, shape: tuple[int, int, int], generator: torch.Generator
) -> torch.Tensor:
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "constant":
        return torch.full(shape, 0.5)
    if kind == "tied":
        return scores.round().float()
    if kind == "subnormal":
        return (scores * 4).round().float() * 1e-45
    if kind == "zeros and infinities":
        choices = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-45, -1e-45, 3e38])
        return choices[torch.randint(len(choices), shape, generator=generator)]
    if kind == "crowded":  # one cell, one bin hold nearly all keys
        scores = 1 + 1e-12 * scores
        scores[0, 0, 0], scores[-1, -1, -1] = -1e300, 1e300
        return scores
    if kind == "8-bit":
        return (scores * 40 + 128).clamp(0, 255).to(torch.uint8)
    return scores.to(
        {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(kind, torch.float32)
    )


@pytest.mark.parametrize(
    "kind",
    [
        "constant",
        "tied",
        "subnormal",
        "zeros and infinities",
        "crowded",
        "8-bit",
        "float16",
        "bfloat16",
        "float32",
    ],
)
def test_random_small_problems_and_any_number_of_threads(kind: str, isa: str) -> None:
    generator = torch.Generator().manual_seed(7)
    for _ in range(40):
        sizes = torch.randint(1, 12, (3,), generator=generator).tolist()
        shape = (sizes[0], sizes[1], sizes[2])
        masks = torch.rand(shape, generator=generator) < torch.rand(1, generator=generator)
        masks[0, 0, 0], masks[-1, -1, -1] = True, False
        if masks.numel() == 1:
            continue
        types = [("scratch", "hole")[i % 2] for i in range(shape[0])]
        scores = random_scores(kind, shape, generator)
        found = pixel_metrics(scores, masks, types, num_threads=1)
        assert_matches(found, reference.pixel_metrics(scores, masks, types))
        assert pixel_metrics(scores, masks, types, num_threads=3) == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [0.02, 0.9])
def test_many_keys_far_apart_and_crowded(dtype: torch.dtype, density: float, isa: str) -> None:
    """Bins of every fill level, marks far from their bins, and scores before and after every
    key."""
    generator = torch.Generator().manual_seed(11)
    shape = (4, 150, 150)
    scores = torch.randn(shape, generator=generator, dtype=torch.float64)
    scores = torch.where(
        torch.rand(shape, generator=generator) < 0.5, 1 + 1e-5 * scores, scores.exp().pow(9)
    ).to(dtype)
    masks = torch.rand(shape, generator=generator) < density
    masks.view(-1)[scores.flatten().argmin()] = False
    masks.view(-1)[scores.flatten().argmax()] = False
    types = ["a", "b", "a", "b"]
    found = [pixel_metrics(scores, masks, types, num_threads=n) for n in (1, 2, 5)]
    assert_matches(found[0], reference.pixel_metrics(scores, masks, types))
    assert found[0] == found[1] == found[2]
    masks.fill_(True)
    masks[0, 0, 0] = False  # one region of an image, keys of nearly all pixels
    assert_matches(
        pixel_metrics(scores, masks, types), reference.pixel_metrics(scores, masks, types)
    )


@pytest.fixture(scope="module", params=["distinct", "tied"])
def many_positives(request: pytest.FixtureRequest) -> tuple[Problem, dict[str, float]]:
    """More anomalous pixels than are processed together, and the reference's metrics."""
    scores, masks, types = problem(images=240, height=80, width=90, density=0.95)
    masks[:, ::20] = masks[:, :, ::20] = False  # the reference takes long to label large regions
    assert len(scores[masks].unique()) > 2 * 2**19
    if request.param == "tied":
        scores[torch.rand(scores.shape, generator=torch.Generator().manual_seed(2)) < 0.5] = 0.25
    return (scores, masks, types), reference.pixel_metrics(scores, masks, types)


def test_more_distinct_scores_than_are_looked_at_together(
    many_positives: tuple[Problem, dict[str, float]], isa: str
) -> None:
    (scores, masks, types), expected = many_positives
    found = pixel_metrics(scores, masks, types, num_threads=1)
    assert_matches(found, expected)
    assert found == pixel_metrics(scores.double(), masks, types, num_threads=3)


@pytest.mark.parametrize(
    ("dtype", "threads"),
    [
        (torch.float32, 1),
        (torch.float32, 100),
        (torch.float64, 2),
        (torch.float64, 100),
        (torch.float16, 1),
        (torch.float16, 2),
    ],
)
def test_memory_is_bounded(
    dtype: torch.dtype, threads: int, memory_taken: Callable[[Callable[[], object]], int]
) -> None:
    scores = torch.randn(4, 750, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    masks = torch.ones(scores.shape, dtype=torch.bool)
    masks[0, :2] = False
    small = partial(pixel_metrics, scores[:, :40], masks[:, :40], ["a"] * 4, num_threads=threads)
    small()  # what torch and the threads take at first use
    taken = memory_taken(
        lambda: pixel_metrics(scores, masks, ["a"] * 4, num_threads=threads),
    )
    assert taken < 44 * 2**20  # 15 bytes a pixel


def test_few_pixels_take_little_memory(
    memory_taken: Callable[[Callable[[], object]], int],
) -> None:
    scores = torch.linspace(0, 1, 32).reshape(2, 4, 4).half()
    masks = scores > 0.8
    measure = partial(pixel_metrics, scores, masks, ["a", "a"])
    measure(num_threads=16)  # what torch and the threads take at first use
    assert memory_taken(lambda: measure(num_threads=16)) < 6 * 2**20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pixel", [0, 1])
def test_nan_of_half_precision_is_refused(dtype: torch.dtype, pixel: int) -> None:
    scores, masks, types = problem()
    scores, masks = scores.to(dtype), masks.to(torch.uint8)
    masks[5, 3, 3], scores[5, 3, 3] = pixel, -math.nan
    with pytest.raises(ValueError, match=r"^`scores` contain NaN, first in image 5$"):
        pixel_metrics(scores, masks, types)


def on_cuda(scores: torch.Tensor, masks: torch.Tensor, types: Sequence[str]) -> PixelMetrics:
    return pixel_metrics(scores.cuda(), masks.cuda(), types)


def test_millions_of_positives_of_one_score_are_summed_without_loss() -> None:
    masks = torch.rand(40, 223, 225, generator=torch.Generator().manual_seed(0)) < 0.9
    found = pixel_metrics(torch.ones(masks.shape), masks, ["dent"] * 40)
    # All pixels are found at once, and a type's weigh as many as there are.
    share = int(masks.sum()) / masks.numel()
    assert math.isclose(found.rwAP, share, rel_tol=1e-13)
    assert math.isclose(found.AP, share, rel_tol=1e-13)


@pytest.mark.cuda
@pytest.mark.parametrize("density", [0.01, 0.15, 0.6])
@pytest.mark.parametrize("smooth", [True, False], ids=["blobs", "loose pixels"])
@pytest.mark.parametrize(("height", "width"), [(24, 24), (7, 33), (1, 50), (50, 1), (3, 8)])
def test_cuda_agrees_with_the_reference(
    density: float, smooth: bool, height: int, width: int
) -> None:
    scores, masks, types = problem(height=height, width=width, density=density, smooth=smooth)
    masks[1, 0, 0] = True
    expected = reference.pixel_metrics(scores, masks, types)
    assert_matches(on_cuda(scores, masks, types), expected)
    assert_matches(on_cuda(scores.double(), masks.byte(), types), expected)


@pytest.mark.cuda
@pytest.mark.parametrize(
    "kind",
    [
        "constant",
        "tied",
        "subnormal",
        "zeros and infinities",
        "crowded",
        "8-bit",
        "float16",
        "bfloat16",
        "float32",
    ],
)
@pytest.mark.parametrize("density", [0.0001, 0.03, 0.5, 0.9])
def test_cuda_equals_the_cpu_on_many_pixels(kind: str, density: float) -> None:
    _, masks, types = problem(images=40, height=223, width=225, density=density)
    masks[1, 100, 100] = True
    generator = torch.Generator().manual_seed(9)
    scores = random_scores(kind, (40, 223, 225), generator)
    if kind in ("float32", "float16", "bfloat16"):
        scores += masks
    expected = pixel_metrics(scores, masks, types)
    found = on_cuda(scores, masks, types)
    assert_matches(found, expected.as_dict())
    assert on_cuda(scores, masks, types) == found


def winding(size: int) -> torch.Tensor:
    """One region: a path that goes back and forth."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    return mask


@pytest.mark.cuda
@pytest.mark.parametrize("shape", ["full", "winding", "winding down", "checkerboard", "teeth"])
def test_cuda_equals_the_cpu_on_large_regions(shape: str) -> None:
    size = 801
    mask = torch.ones(size, size, dtype=torch.bool)
    if shape.startswith("winding"):
        mask = winding(size)
        mask = mask.T if shape == "winding down" else mask
    elif shape == "checkerboard":
        mask = torch.arange(size * size).view(size, size) % 2 == 0
    elif shape == "teeth":
        mask[:-1, 1::2] = False
    masks = torch.stack([mask, mask.flip(0), torch.zeros_like(mask), mask.flip(1)])
    masks[1, 300:, 400] = False
    scores = torch.randn(masks.shape, generator=torch.Generator().manual_seed(0)) + masks
    types = ["a", "b", "good", "a"]
    found = on_cuda(scores, masks, types)
    assert_matches(found, pixel_metrics(scores, masks, types).as_dict())


@pytest.mark.cuda
def test_cuda_without_a_normal_pixel() -> None:
    scores, masks = torch.rand(2, 30, 30), torch.ones(2, 30, 30, dtype=torch.bool)
    found = on_cuda(scores, masks, ["a", "b"])
    assert found.rwAP == pytest.approx(1, rel=1e-12)
    assert found.AP == 1
    assert all(math.isnan(x) for x in (found.AUROC, found.partial_AUROC, found.AUPRO))


@pytest.mark.cuda
def test_cuda_of_strided_and_misaligned_tensors() -> None:
    scores, masks, types = problem(images=9, height=61, width=47)
    expected = pixel_metrics(scores[1:], masks[1:], types[1:]).as_dict()
    on_device = scores.cuda(), masks.cuda()
    assert_matches(pixel_metrics(on_device[0][1:], on_device[1][1:], types[1:]), expected)
    turned = on_device[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert_matches(pixel_metrics(turned[1:], on_device[1][1:], types[1:]), expected)


@pytest.mark.cuda
def test_cuda_refuses_what_the_cpu_refuses() -> None:
    scores, masks, types = problem()
    for pixel in (True, False):
        spoiled = scores.clone()
        spoiled[5:][masks[5:] == pixel] = math.nan
        first = 5 if bool((masks[5] == pixel).any()) else 6
        with pytest.raises(ValueError, match=rf"^`scores` contain NaN, first in image {first}$"):
            on_cuda(spoiled, masks, types)
    with pytest.raises(ValueError, match=r"^`masks` have no anomalous pixel$"):
        on_cuda(scores, torch.zeros_like(masks), types)
    with pytest.raises(ValueError, match=r"^`masks` have no anomalous pixel$"):
        on_cuda(scores[:0], masks[:0], [])
    spoiled_masks = masks.clone()
    spoiled_masks[4, 20, 3] = True
    with pytest.raises(
        ValueError, match=r'^`masks` have anomalous pixels in image 4, whose type is "good"$'
    ):
        on_cuda(scores, spoiled_masks, types)
    *metrics, error = torch.ops.autopatch.pixel_metrics(
        scores.cuda(), masks.cuda(), torch.full((8,), 2, dtype=torch.int32).cuda(), 2, 0
    ).tolist()
    assert all(math.isnan(value) for value in metrics)
    with pytest.raises(ValueError, match=r"^`type_indices` are not all in -1 to 1$"):
        check_metrics_error(int(error), 2)
    with pytest.raises(ValueError, match=r"^`masks` is on cpu, `scores` on cuda:0$"):
        pixel_metrics(scores.cuda(), masks, types)


@pytest.mark.cuda
def test_cuda_waits_once() -> None:
    scores, masks, types = problem()
    on_device = scores.cuda(), masks.cuda()
    pixel_metrics(*on_device, types)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # which warns of itself
        try:
            pixel_metrics(*on_device, types)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "called a synchronizing CUDA operation" in str(w.message)]
    assert len(waits) == 1


@pytest.mark.cuda
def test_cuda_work_is_queued_on_the_current_stream() -> None:
    scores, masks, types = problem()
    expected = pixel_metrics(scores, masks, types).as_dict()
    on_device, masks_on_device = -scores.cuda(), masks.cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        on_device.neg_()
        found = pixel_metrics(on_device, masks_on_device, types)
    assert_matches(found, expected)


@pytest.mark.cuda
def test_cuda_graph_of_metrics() -> None:
    scores, masks, types = problem()
    names = sorted(set(types) - {"good"})
    indices = torch.tensor(
        [names.index(name) if name != "good" else -1 for name in types], dtype=torch.int32
    )
    on_device = [tensor.cuda() for tensor in (scores, masks, indices)]
    torch.ops.autopatch.pixel_metrics(*on_device, len(names), 0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = torch.ops.autopatch.pixel_metrics(*on_device, len(names), 0)
    for seed in (1, 2):
        scores, masks, _ = problem(seed=seed, density=0.1 * seed)
        on_device[0].copy_(scores)
        on_device[1].copy_(masks)
        graph.replay()
        expected = pixel_metrics(scores, masks, types)
        assert_matches(PixelMetrics(*found.tolist()[:5]), expected.as_dict())
    on_device[0][3, 4, 5] = math.nan
    graph.replay()
    assert bool(found[:5].isnan().all())
    with pytest.raises(ValueError, match=r"^`scores` contain NaN, first in image 3$"):
        check_metrics_error(int(found[5]), len(names))
