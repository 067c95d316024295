"""The detector: fit on good images, predict on new ones, saved in one file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save

from autopatch.data import EVALUATION_SIZE, load_images
from autopatch.detector.memory import MemoryBank, images_at_a_time, total_flops
from autopatch.detector.threshold import Threshold, calibrate
from autopatch.errors import InputError
from autopatch.progress import Progress
from autopatch.supernet import Architecture, Subnet, Supernet, read_safetensors

_RECALIBRATED_AT_A_TIME = 16  # images: the result depends on it
_FORMAT = 2
_SUBNET_PREFIX = "subnet."


@dataclass(frozen=True)
class Prediction:
    """What a detector says of N images.

    Attributes:
        maps: Anomaly maps, `[N, S, S]`, float32: squared distances, not bounded. On the detector's
            device, as all three are.
        scores: Image scores, `[N]`, float32: the maximum of each map. An image's score depends on
            the images beside it by no more than rounding, some 1e-6 of its value.
        anomalous: Whether each score is above the threshold, `[N]`, bool.
    """

    maps: torch.Tensor
    scores: torch.Tensor
    anomalous: torch.Tensor


class Detector:
    """A subnet, the memory bank of its patch features, and a threshold; made by `fit` or `load`.

    Attributes:
        architecture: What was fitted.
        subnet: The backbone, cut after the deepest level used.
        memory: The memory bank.
        threshold: When an image is called anomalous.
        calibration_scores: Image scores of the calibration images, `[n]`.
        usual_distance: Median over the pixels of the calibration maps, where a color scale starts.
        evaluation_size: Side of the anomaly maps.
        fitted_on: `images_digest` of the images of bank and threshold.
    """

    def __init__(
        self,
        *,
        architecture: Architecture,
        subnet: Subnet,
        memory: MemoryBank,
        threshold: Threshold,
        calibration_scores: torch.Tensor,
        usual_distance: float,
        evaluation_size: int,
        fitted_on: str,
    ) -> None:
        self.architecture = architecture
        self.subnet = subnet
        self.memory = memory
        self.threshold = threshold
        self.calibration_scores = calibration_scores
        self.usual_distance = usual_distance
        self.evaluation_size = evaluation_size
        self.fitted_on = fitted_on

    @classmethod
    def fit(
        cls,
        supernet: Supernet,
        architecture: Architecture,
        images: Sequence[Path],
        *,
        calibration: Sequence[Path],
        false_alarm_rate: float = 0.05,
        seed: int = 0,
        evaluation_size: int = EVALUATION_SIZE,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> Detector:
        """Builds the memory bank from good images and sets the threshold on others.

        Args:
            supernet: The backbone.
            architecture: One of its architectures.
            images: Good images for the bank.
            calibration: Good images, none of them in `images`, for the threshold.
            false_alarm_rate: Share of good images that may be called anomalous.
            seed: Of the bank's sample and coreset.
            evaluation_size: Side of the anomaly maps.
            device: Where backbone and bank are kept and everything but the reading of images runs.
            progress: Told of every batch of images.

        Raises:
            InputError: An image cannot be read, a list is empty, or the architecture is that of
                another backbone.
        """
        if not images:
            raise InputError("`images` is empty, expected good images to fit the bank on")
        if not calibration:
            raise InputError("`calibration` is empty, expected good images for the threshold")
        subnet = cut_subnet(supernet, architecture, images, device)
        good = feature_maps(subnet, architecture.image_size, images, _told(progress, "fit"))
        try:
            memory = MemoryBank.fit(
                stack_maps(good, len(images)),
                architecture.patch_sizes,
                bank_size=architecture.bank_size,
                seed=seed,
            )
        except ValueError as error:
            raise InputError(f"the architecture cannot be fitted: {error}") from error
        maps = torch.cat(
            [
                memory.anomaly_maps(batch, evaluation_size)
                for batch in feature_maps(
                    subnet, architecture.image_size, calibration, _told(progress, "calibrate")
                )
            ]
        )
        scores = maps.flatten(1).amax(dim=1)
        return cls(
            architecture=architecture,
            subnet=subnet,
            memory=memory,
            threshold=calibrate(scores.tolist(), false_alarm_rate=false_alarm_rate),
            calibration_scores=scores.cpu(),
            usual_distance=float(maps.median()),
            evaluation_size=evaluation_size,
            fitted_on=images_digest([*images, *calibration]),
        )

    @property
    def device(self) -> torch.device:
        """Where backbone and bank are."""
        return self.memory.bank.device

    @property
    def total_flops(self) -> int:
        """FLOPs an image: the backbone's and those of the nearest neighbors."""
        (height, width), backbone_flops = self.subnet.cost(self.architecture.image_size)
        rows, channels = self.memory.bank.shape
        return total_flops(backbone_flops, height * width, rows, channels)

    def predict(
        self, images: Sequence[Path] | torch.Tensor, *, progress: Progress | None = None
    ) -> Prediction:
        """Anomaly maps, scores and verdicts of images.

        Args:
            images: Image files, or uint8 `[N, 3, S, S]` at the architecture's image size, as
                `autopatch.data.load_images` gives them.
            progress: Told of every batch of images.

        Raises:
            InputError: A file is not a readable image.
            ValueError: The tensor has another shape or dtype.
        """
        size = self.architecture.image_size
        if isinstance(images, torch.Tensor) and (
            images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != (3, size, size)
        ):
            raise ValueError(
                f"`images` is {images.dtype} {list(images.shape)}, expected torch.uint8 "
                f"[N, 3, {size}, {size}]"
            )
        maps = [
            self.memory.anomaly_maps(batch, self.evaluation_size)
            for batch in feature_maps(self.subnet, size, images, _told(progress, "predict"))
        ]
        side = self.evaluation_size
        every_map = torch.cat(maps) if maps else torch.empty(0, side, side, device=self.device)
        scores = every_map.flatten(1).amax(dim=1)
        return Prediction(every_map, scores, scores > self.threshold.value)

    def save(self, path: Path) -> None:
        """Writes one safetensors file that holds all `load` needs; it appears whole or not at all.

        Raises:
            InputError: The file cannot be written.
        """
        header, state = self.subnet.to_header(), self.subnet.state_dict()
        tensors = {_SUBNET_PREFIX + name: value for name, value in state.items()}
        tensors |= {"bank": self.memory.bank, "calibration_scores": self.calibration_scores}
        document = {
            "format": _FORMAT,
            "architecture": self.architecture.to_json(),
            "subnet": header,
            "threshold": asdict(self.threshold),
            "usual_distance": self.usual_distance,
            "evaluation_size": self.evaluation_size,
            "fitted_on": self.fitted_on,
        }
        unfinished = path.with_name(f".{path.name}.partial")
        try:
            unfinished.write_bytes(
                save(
                    {name: value.cpu().contiguous() for name, value in tensors.items()},
                    metadata={"autopatch_detector": json.dumps(document)},
                )
            )
            unfinished.replace(path)
        except (OSError, SafetensorError) as error:
            unfinished.unlink(missing_ok=True)
            raise InputError(f"{path}: cannot be written: {error}") from error

    @classmethod
    def load(cls, path: Path, *, device: torch.device | str = "cpu") -> Detector:
        """Reads a file that `save` wrote, on whichever device.

        Args:
            path: The file.
            device: Where to predict.

        Raises:
            InputError: The file is missing, damaged, or not a detector.
        """
        document, tensors = _read(path)
        try:
            threshold = dict(document["threshold"])
            threshold["interval"] = tuple(threshold["interval"])
            architecture = Architecture.from_json(document["architecture"])
            state = {
                name.removeprefix(_SUBNET_PREFIX): value
                for name, value in tensors.items()
                if name.startswith(_SUBNET_PREFIX)
            }
            detector = cls(
                architecture=architecture,
                subnet=Subnet.restore(document["subnet"], state).to(device),
                memory=MemoryBank(tensors["bank"].to(device), architecture.patch_sizes),
                threshold=Threshold(**threshold),
                calibration_scores=tensors["calibration_scores"],
                usual_distance=float(document["usual_distance"]),
                evaluation_size=int(document["evaluation_size"]),
                fitted_on=str(document["fitted_on"]),
            )
            detector._check()
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: a detector file with a damaged header ({type(error).__name__}: {error})"
            ) from error
        return detector

    def _check(self) -> None:
        """Raises ValueError where the parts do not belong together."""
        levels = tuple(level.index for level in self.subnet.levels)
        if levels != self.architecture.levels:
            raise ValueError(f"levels {levels} for those of {self.architecture}")
        channels = sum(level.channels for level in self.subnet.levels)
        if self.memory.bank.shape[1] != channels:
            raise ValueError(f"a bank of {self.memory.bank.shape[1]} columns, expected {channels}")
        numbers = (self.threshold.value, self.usual_distance)
        if not all(math.isfinite(number) for number in numbers) or self.evaluation_size < 1:
            raise ValueError("numbers out of range")


def images_digest(paths: Sequence[Path]) -> str:
    """Hash of the contents of images, in any order and wherever they lie.

    Raises:
        InputError: A file cannot be read.
    """
    try:
        digests = sorted(hashlib.sha256(path.read_bytes()).digest() for path in paths)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return hashlib.sha256(b"".join(digests)).hexdigest()


def stack_maps(batches: Iterable[Sequence[torch.Tensor]], count: int) -> list[torch.Tensor]:
    """Feature maps of `count` images, channels last, from batches; without a second copy of all."""
    stacked: list[torch.Tensor] = []
    first = 0
    for batch in batches:
        if not stacked:
            stacked = [
                torch.empty(
                    (count, *m.shape[1:]),
                    dtype=m.dtype,
                    device=m.device,
                    memory_format=torch.channels_last,
                )
                for m in batch
            ]
        for whole, part in zip(stacked, batch, strict=True):
            whole[first : first + len(part)] = part
        first += len(batch[0])
    return stacked


def cut_subnet(
    supernet: Supernet,
    architecture: Architecture,
    good: Sequence[Path],
    device: torch.device | str = "cpu",
) -> Subnet:
    """The subnet of an architecture, ready for use.

    Args:
        supernet: The backbones.
        architecture: One of its architectures.
        good: Images that batch norm is recalibrated on, where the supernet asks for that.
        device: Where it is to run.
    """
    subnet = supernet.get_active_subnet(architecture).to(device)
    if supernet.recalibrate_batch_norm:
        # Batches count alike, so they are of one size, give or take an image.
        count = math.ceil(len(good) / _RECALIBRATED_AT_A_TIME)
        ends = [len(good) * i // count for i in range(count + 1)]
        subnet.recalibrate(
            subnet.normalize(load_images(good[first:end], architecture.image_size).to(device))
            for first, end in pairwise(ends)
        )
    return subnet


def feature_maps(
    subnet: Subnet,
    image_size: int,
    images: Sequence[Path] | torch.Tensor,
    told: Callable[[int, int], None] | None = None,
) -> Iterator[list[torch.Tensor]]:
    """Feature maps of images, batch by batch, on the subnet's device.

    Args:
        subnet: The backbone.
        image_size: Side the files are resized to.
        images: Files, or uint8 `[N, 3, S, S]` of that size.
        told: Called after every batch with how many images are done, and how many there are.
    """
    at_a_time = images_at_a_time(subnet.device)
    for first in range(0, len(images), at_a_time):
        batch = images[first : first + at_a_time]
        pixels = batch if isinstance(batch, torch.Tensor) else load_images(batch, image_size)
        with torch.inference_mode():
            maps = subnet(subnet.normalize(pixels.to(subnet.device)))
        yield maps
        if told is not None:
            told(min(first + at_a_time, len(images)), len(images))


def _told(progress: Progress | None, step: str) -> Callable[[int, int], None] | None:
    return None if progress is None else partial(progress, step)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {found}, expected a detector (.safetensors)")
    metadata, tensors = read_safetensors(path)
    text = metadata.get("autopatch_detector")
    if text is None:
        raise InputError(f"{path}: a safetensors file, but not a detector of autopatch")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: a detector file with a damaged header ({error})") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise InputError(
            f"{path}: a detector of another format, expected {_FORMAT}; update autopatch"
        )
    return document, tensors
