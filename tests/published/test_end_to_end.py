"""The published method on real images, and the same again in plain torch, from its description.

The second computation shares nothing with autopatch: it starts from the parameters of a published
study, the published names of the weights and the image files. It runs in float64, so that the
deviations are autopatch's own and not those of two float32 computations.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from autopatch.data import MVTecAD, Reading, make_split
from autopatch.detector import Detector
from autopatch.published.network import OnceForAllMobileNetV3
from autopatch.published.once_for_all import PUBLISHED, OnceForAllSupernet
from autopatch.published.space import published_space
from autopatch.search import CandidateEvaluator, resolve_objectives

try:
    from skimage.measure import label
except ImportError:
    label = None

SHARED = Path(__file__).parents[3] / "shared"
NAMES = {"1.0": "ofa_mbv3_d234_e346_k357_w1.0", "1.2": "ofa_mbv3_d234_e346_k357_w1.2"}
WEIGHT_SEEDS = {"1.0": 3101, "1.2": 3102}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224
OF_EACH_WIDTH = 3
DRAW_SEED = 7174  # leaves stage 0, where most of the time goes, out of three of the six
RELATIVE = 1e-5
SPACE = published_space()


def draw():
    """Genomes of the published space, equally many of each width."""
    random = np.random.default_rng(DRAW_SEED)
    drawn = {name: [] for name in NAMES.values()}
    while any(len(genomes) < OF_EACH_WIDTH for genomes in drawn.values()):
        genome = SPACE.sample(random)
        genomes = drawn[study_parameters(genome)["supernet_name"]]
        if len(genomes) < OF_EACH_WIDTH:
            genomes.append(genome)
    return [genome for genomes in drawn.values() for genome in genomes]


def study_parameters(genome):
    """The contents of a trial of a published study."""
    genes = zip(SPACE.genes, genome, strict=True)
    return {gene.name: gene.choices[choice] for gene, choice in genes}


# The original, in plain torch.


@dataclass
class Expected:
    """What the original gives for one architecture.

    Attributes:
        flops: Of one image.
        bank: Patches of the fit images, `[N * H * W, D]`.
        scores: Of the patches of the scored images, `[N, H, W]`.
        maps: The same at the side of the images.
        metrics: By name.
    """

    flops: int
    bank: torch.Tensor
    scores: torch.Tensor
    maps: torch.Tensor
    metrics: dict[str, float]


def in_eights(channels):
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class OriginalNetwork:
    """The published supernet at one setting of its stages; counts FLOPs as the original does.

    Attributes:
        flops: Of everything that was run, for one image.
    """

    def __init__(self, state, parameters):
        self.state = state
        self.parameters = parameters
        self.flops = 0

    def conv(self, x, weight, *, bias=None, stride=1, groups=1):
        padding = weight.shape[-1] // 2
        y = F.conv2d(x, weight, bias, stride=stride, padding=padding, groups=groups)
        self.flops += 2 * y[0].numel() * weight[0].numel()
        self.flops += 0 if bias is None else y[0].numel()
        return y

    def norm(self, x, name):
        statistics = [
            self.state[f"{name}.{each}"][: x.shape[1]]
            for each in ("running_mean", "running_var", "weight", "bias")
        ]
        self.flops += 2 * x[0].numel()
        return F.batch_norm(x, *statistics, training=False, eps=1e-5)

    def relu(self, x):
        self.flops += x[0].numel()
        return F.relu(x)

    def relu6(self, x):
        self.flops += x[0].numel()
        return F.relu6(x)

    def h_sigmoid(self, x):
        return self.relu6(x + 3) / 6

    def h_swish(self, x):
        return x * self.relu6(x + 3) / 6

    def kernels(self, name, channels, size):
        kernels = self.state[f"{name}.conv.weight"][:channels]
        for large, small in ((7, 5), (5, 3)):
            if size <= small:
                middle = kernels[:, :, 1:-1, 1:-1].reshape(channels, small**2)
                matrix = self.state[f"{name}.{large}to{small}_matrix"]
                kernels = F.linear(middle, matrix).reshape(channels, 1, small, small)
                self.flops += 2 * middle.numel() * small**2
        return kernels

    def squeeze_excite(self, x, name):
        channels = x.shape[1]
        inside = in_eights(channels // 4)
        weights, biases = (
            [self.state[f"{name}.fc.{layer}.{kind}"] for layer in ("reduce", "expand")]
            for kind in ("weight", "bias")
        )
        y = x.mean((2, 3), keepdim=True)
        y = self.relu(self.conv(y, weights[0][:inside, :channels], bias=biases[0][:inside]))
        y = self.conv(y, weights[1][:channels, :inside], bias=biases[1][:channels])
        return x * self.h_sigmoid(y)

    def first_layers(self, images):
        x = self.conv(images, self.state["first_conv.conv.weight"], stride=2)
        x = self.h_swish(self.norm(x, "first_conv.bn"))
        name = "blocks.0.conv"
        y = self.conv(x, self.state[f"{name}.depth_conv.conv.weight"], groups=x.shape[1])
        y = self.relu(self.norm(y, f"{name}.depth_conv.bn"))
        y = self.conv(y, self.state[f"{name}.point_linear.conv.weight"])
        return x + self.norm(y, f"{name}.point_linear.bn")

    def block(self, x, number):
        stage, place = divmod(number - 1, 4)
        name = f"blocks.{number}.conv"
        activation = self.relu if stage < 2 else self.h_swish
        stride = (2, 2, 2, 1, 2)[stage] if place == 0 else 1
        channels = x.shape[1] * self.parameters[f"stage_{stage}_expand_ratio"]
        size = self.parameters[f"stage_{stage}_kernel_size"]

        weight = self.state[f"{name}.inverted_bottleneck.conv.conv.weight"][:channels]
        y = self.conv(x, weight)
        y = activation(self.norm(y, f"{name}.inverted_bottleneck.bn.bn"))
        kernels = self.kernels(f"{name}.depth_conv.conv", channels, size)
        y = self.conv(y, kernels, stride=stride, groups=channels)
        y = activation(self.norm(y, f"{name}.depth_conv.bn.bn"))
        if stage in (1, 3, 4):
            y = self.squeeze_excite(y, f"{name}.depth_conv.se")
        weight = self.state[f"{name}.point_linear.conv.conv.weight"][:, :channels]
        y = self.conv(y, weight)
        y = self.norm(y, f"{name}.point_linear.bn.bn")
        return y if place == 0 else x + y

    def feature_maps(self, images):
        """Outputs of the selected blocks; blocks after the last selected one are skipped."""
        chosen = [self.parameters[f"stage_{stage}_block"] for stage in range(5)]
        last = max(block for block in chosen if block is not None)
        maps = []
        x = self.first_layers(images)
        for stage, block in enumerate(chosen):
            first = 4 * stage + 1
            depth = 2 if block is None else max(2, block - first + 1)
            for number in range(first, first + depth):
                x = self.block(x, number)
                if number == block:
                    maps.append(x)
                if number == last:
                    return maps
        raise AssertionError("the last block is not run")


def read(samples):
    images = []
    for sample in samples:
        with Image.open(sample.image) as file:
            resized = file.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        images.append(np.asarray(resized) / 255)
    pixels = (np.stack(images) - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def read_masks(samples):
    masks = np.zeros((len(samples), SIDE, SIDE), bool)
    for mask, sample in zip(masks, samples, strict=True):
        if sample.mask is not None:
            with Image.open(sample.mask) as file:
                resized = file.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            mask[:] = np.asarray(resized) > 0
    return masks


def patch_features(maps, patch_sizes):
    """Patches of all images, `[N, H, W, D]`."""
    size = max(m.shape[-2:] for m in maps)
    pooled = [
        F.avg_pool2d(m, p, stride=1, padding=int((p - 1) / 2))
        for m, p in zip(maps, patch_sizes, strict=True)
    ]
    resized = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in pooled]
    return torch.cat([m.permute(0, 2, 3, 1) for m in resized], dim=-1)


def nearest_distances(queries, bank):
    # The expanded form cancels, which leaves some 1e-13 of float64; it only picks the neighbor.
    squares = bank.square().sum(dim=1)
    distances = []
    for some in queries.split(512):
        nearest = torch.addmm(squares, some, bank.T, alpha=-2).argmin(dim=1)
        distances.append((some - bank[nearest]).square().sum(dim=1))
    return torch.cat(distances)


def regions(mask):
    if label is not None:
        return label(mask, connectivity=2)
    return ndimage.label(mask, structure=np.ones((3, 3)))[0]


def region_weights(masks, types):
    labels = [regions(mask) for mask in masks]
    areas = [np.bincount(each.ravel())[1:] for each in labels]
    counts = dict.fromkeys(types, 0)
    for kind, each in zip(types, areas, strict=True):
        counts[kind] += len(each)
    del counts["good"]
    mean_count = np.mean(list(counts.values()))
    mean_area = np.mean(np.concatenate(areas))
    weights = np.ones(masks.shape)
    for image, kind in enumerate(types):
        for region, area in enumerate(areas[image], start=1):
            weight = mean_area / area * mean_count / counts[kind]
            weights[image][labels[image] == region] = weight
    return weights


def metrics(maps, masks, types):
    scores, truth = maps.numpy().ravel(), masks.ravel()
    weights = region_weights(masks, types).ravel()
    return {
        "AUROC": roc_auc_score(truth, scores),
        "partial_AUROC": roc_auc_score(truth, scores, max_fpr=0.3),
        "AP": average_precision_score(truth, scores),
        "rwAP": average_precision_score(truth, scores, sample_weight=weights),
    }


def original(state, parameters, fit, scored):
    network = OriginalNetwork({name: each.double() for name, each in state.items()}, parameters)
    patch_sizes = [
        parameters[f"stage_{stage}_patch_size"]
        for stage in range(5)
        if parameters[f"stage_{stage}_block"] is not None
    ]
    bank = patch_features(network.feature_maps(read(fit)), patch_sizes).flatten(0, 2)
    flops = network.flops
    patches = patch_features(network.feature_maps(read(scored)), patch_sizes)
    scores = nearest_distances(patches.flatten(0, 2), bank).reshape(patches.shape[:3])
    maps = F.interpolate(scores[:, None], size=(SIDE, SIDE), mode="bilinear", align_corners=False)[
        :, 0
    ]
    types = [sample.type for sample in scored]
    return Expected(flops, bank, scores, maps, metrics(maps, read_masks(scored), types))


# autopatch, held to it.


@pytest.fixture(scope="module")
def states(seeded_tensor):
    path = SHARED / "fixtures" / "ofa_state_dict.json"
    if not path.is_file():
        pytest.skip(f"the names of the published weights are not here: {path}")
    widths = json.loads(path.read_text())
    return {
        NAMES[width]: {
            name: seeded_tensor(name, shape, seed)
            for name, (shape, _) in widths[width]["keys"].items()
        }
        for width, seed in WEIGHT_SEEDS.items()
    }


@pytest.fixture(scope="module")
def supernet(states):
    networks = {}
    for width, name in NAMES.items():
        networks[name] = OnceForAllMobileNetV3(float(width))
        networks[name].load_state_dict(states[name])
        networks[name].eval().requires_grad_(False)
    return OnceForAllSupernet("ofa_mbv3", networks, provenance="fixture weights")


@pytest.fixture(scope="module")
def split():
    folder = SHARED / "data" / "magnetic_tile"
    if not folder.is_dir():
        pytest.skip(f"the real images are not here: {folder}")
    whole = make_split(MVTecAD.scan(folder), protocol="autopatch", shots=1, reserve=4)
    # The brute-force search takes fit times scored images: 2 and 5 of them, rather than 87 and 31,
    # keep the test affordable. Scored are a good image, one of each of the 3 types, and a second of
    # one type from the reserve, so that types have different numbers of regions.
    return replace(
        whole,
        fit=whole.fit[:2],
        holdout=whole.holdout[:1],
        reserved_unused=whole.reserved_unused[:1],
    )


def assert_close(found, expected):
    """Asserts a deviation of no more than `RELATIVE` of the largest value."""
    assert found.shape == expected.shape
    limit = RELATIVE * float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=limit)


def test_the_architectures_cover_the_space():
    architectures = [SPACE.decode(genome) for genome in draw()]
    for stage in range(5):
        patch_sizes = [
            patch_size
            for each in architectures
            for level, patch_size in zip(each.backbone.levels, each.head.patch_sizes, strict=True)
            if (level - 1) // 4 == stage
        ]
        assert 0 < len(patch_sizes) < len(architectures)
        assert {patch_size % 2 for patch_size in patch_sizes} == {0, 1}
        for name, choices in (("kernel_size", {3, 5, 7}), ("expand_ratio", {3, 4, 6})):
            values = [each.backbone.setting[name] for each in architectures]
            assert {each[stage] for each in values if len(each) > stage} == choices


@pytest.mark.parametrize("genome", draw(), ids=lambda genome: "-".join(map(str, genome)))
def test_an_architecture(genome, states, supernet, split):
    architecture, parameters = SPACE.decode(genome), study_parameters(genome)
    scored = (*split.holdout, *split.validation, *split.reserved_unused)
    expected = original(states[parameters["supernet_name"]], parameters, split.fit, scored)

    evaluator = CandidateEvaluator(
        supernet,
        fit=split.fit,
        scored=scored,
        objectives=resolve_objectives((PUBLISHED.cost, "rwAP")),
        evaluation_size=SIDE,
        reading=Reading(mask_resize=split.mask_resize),
    )
    evaluation = evaluator(architecture)
    found = {name: evaluation.metrics[name] for name in expected.metrics}
    assert found == pytest.approx(expected.metrics, rel=RELATIVE, abs=0)
    assert evaluation.values == {
        "published_flops": expected.flops,
        "rwAP": evaluation.metrics["rwAP"],
    }

    detector = Detector.fit(
        [sample.image for sample in split.fit],
        supernet=supernet,
        architecture=architecture,
        calibration=[split.holdout[0].image],
    )
    paths = [sample.image for sample in scored]
    prediction = detector.predict(paths)
    assert_close(detector.memory.bank, expected.bank)
    assert_close(prediction.anomaly_map, expected.maps)
    assert_close(prediction.pred_score, expected.maps.flatten(1).amax(dim=1))
    detector.upsampling.size = expected.scores.shape[-1]  # maps of the patch scores themselves
    assert_close(detector.predict(paths).anomaly_map, expected.scores)
