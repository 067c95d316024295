"""Times whole detectors on a GPU: autopatch beside an equivalent in torch.

Both use the backbone mobilenetv2_100, levels of stride 8 and 16, patch size 3, 224 px, and a bank
of all patches of 115 images. They predict batches of 32 decoded images that are already on the GPU.
Images and weights come from `../shared`; if that is missing, from drawn textures and random
weights, which the table states.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from autopatch.data import MVTecAD, draw_textures, load_images
from autopatch.detector import Detector, patchcore_architecture
from autopatch.kernels import reference
from autopatch.supernet import Subnet, load_supernet
from cuda_timing import Report, allow_tf32, median_milliseconds
from features import SHARED

NETWORK = "mobilenetv2_100"
BANK_IMAGES = 115
BATCH = 32
CHUNK = 4096  # queries that the peers process at a time
TOLERANCE = 2e-3  # relative to the largest distance: the peers use the expanded form, also in TF32


def measure(report: Report) -> None:
    """Times prediction of a batch."""
    weights = SHARED / "weights" / f"{NETWORK}.safetensors"
    supernet = load_supernet(f"timm:{NETWORK}", str(weights) if weights.is_file() else "random")
    architecture = patchcore_architecture(supernet, images=BANK_IMAGES)
    assert architecture is not None
    architecture = replace(architecture, head=replace(architecture.head, bank_size=None))
    with tempfile.TemporaryDirectory() as folder:
        data = SHARED / "data" / "magnetic_tile"
        if not data.is_dir():
            data = Path(folder) / "textures"
            draw_textures(data)
        dataset = MVTecAD.scan(data)
        good = [sample.image for sample in dataset.train]
        good = [good[i % len(good)] for i in range(BANK_IMAGES)]
        detector = Detector.fit(
            good,
            supernet=supernet,
            architecture=architecture,
            calibration=[next(s.image for s in dataset.test if s.type == "good")],
            device="cuda",
        )
        paths = [sample.image for sample in dataset.test]
        batch = [paths[i % len(paths)] for i in range(2 * BATCH)]
        batches = load_images(batch, architecture.input.size).cuda().split(BATCH)
    rows, dim = detector.memory.bank.shape
    kind = f"{data.name}, {'trained' if weights.is_file() else 'RANDOM'} weights"
    work = f"{kind}: {BATCH} images, bank of {rows} x {dim}"
    subnet = supernet.get_active_subnet(architecture.backbone).cuda()
    bank = detector.memory.bank
    norms = bank.square().sum(dim=1)

    def torch_maps(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            maps = subnet(subnet.normalize(images))
            patches = reference.aggregate_patches(maps, [3] * len(maps))
            distances = torch.cat(
                [
                    torch.addmm(norms, chunk, bank.t(), alpha=-2).amin(dim=1)
                    + chunk.square().sum(dim=1)
                    for chunk in patches.split(CHUNK)
                ]
            )
            height, width = max(m.shape[-2:] for m in maps)
            return F.interpolate(
                distances.reshape(-1, 1, height, width),
                size=(detector.evaluation_size, detector.evaluation_size),
                mode="bilinear",
                align_corners=False,
            ).squeeze(1)

    def maps_of(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return detector(images)[0]

    expected = torch_maps(batches[0])
    for method, function, tf32, is_peer in [
        ("torch", torch_maps, False, True),
        ("torch, TF32 matmul", torch_maps, True, True),
        ("autopatch", maps_of, False, False),
    ]:
        with allow_tf32(tf32):
            error = float((function(batches[0]) - expected).abs().max() / expected.abs().max())
            calls: list[Callable[[], object]] = [partial(function, images) for images in batches]
            milliseconds = median_milliseconds(calls)
        report(
            operator="detector",
            work=work,
            method=method,
            is_peer=is_peer,
            milliseconds=milliseconds,
            achieved=f"{1e3 * BATCH / milliseconds:,.0f} images/s",
            error=error,
        )
        if not is_peer and not error <= TOLERANCE:
            raise AssertionError(f"maps differ by {error:.1e} of the largest distance")
    backbone = detector.extractor.subnet
    for stage, calls in [
        ("backbone", [partial(_inference, backbone, i) for i in batches]),
        ("after it", [partial(_rest, detector, _inference(backbone, i)) for i in batches]),
    ]:
        report(
            operator="detector",
            work=work,
            method=f"autopatch, {stage}",
            is_peer=False,
            milliseconds=median_milliseconds(calls),
            achieved="",
            error=None,
        )


def _inference(subnet: Subnet, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.inference_mode():
        return subnet(subnet.normalize(images))


def _rest(detector: Detector, maps: list[torch.Tensor]) -> torch.Tensor:
    return detector.head.anomaly_maps(maps)
