"""The detector: fitted on good images, predicts on new ones, saved in one file."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from torch import nn

from autopatch import __version__
from autopatch.data import (
    DEFAULT_READING,
    EVALUATION_SIZE,
    GOOD,
    ImageInput,
    ImageReader,
    Reading,
    Remarks,
    Sample,
    as_images,
    decide,
    folder_images,
    folder_of_good,
    image_digests,
    joint_digest,
)
from autopatch.detector.architecture import Architecture
from autopatch.detector.calibration import Calibration, bank_distances, calibrate_head
from autopatch.detector.extractor import (
    GoodMaps,
    PatchAggregator,
    PatchFeatureExtractor,
    Repeatable,
    cut_subnet,
    feature_maps,
    images_at_a_time,
)
from autopatch.detector.folds import draw_folds, fold_distances, related_images
from autopatch.detector.head import DEFAULT_DEFECT_WEIGHT
from autopatch.detector.known import Defect, Known, KnownImage, examples, know
from autopatch.detector.memory import MemoryBank, total_flops
from autopatch.detector.packed import PackedImages, PackedMaps
from autopatch.detector.patchcore import patchcore_architecture
from autopatch.detector.prediction import Prediction
from autopatch.detector.scoring import FittedHead, fit_head
from autopatch.detector.threshold import Threshold, check_rate
from autopatch.errors import InputError, one_line
from autopatch.files import StrPath, path_kind, write_bytes_atomically
from autopatch.genes import is_integer
from autopatch.kernels import usable_device
from autopatch.progress import Progress
from autopatch.supernet import (
    Subnet,
    Supernet,
    load_supernet,
    read_safetensors,
    restore_subnet,
)
from autopatch.words import counted, first_names

logger = logging.getLogger(__name__)

_FORMAT = 7
_METADATA = "autopatch_detector"
_EXTRA_STATE = "_extra_state"
_STORED = ("calibration_files", "calibration_sizes", "calibration_distances", "calibration_scores")

Images = ImageInput | Iterable[ImageInput]
"""One or many images: paths, PIL images, HWC arrays or CHW tensors; or folders of images."""


class Detector(nn.Module):
    """A backbone, the memory bank of its patch features, and a threshold; made by `fit` or `load`.

    `.to(device)` moves the whole detector. `load_state_dict` loads the state of another detector of
    the same architecture, including the threshold.

    Attributes:
        architecture: The architecture.
        extractor: Computes patch features of images.
        memory: The memory bank: rows of the fit images, then those of known images.
        defects: The bank of known defects, in the order of the known images.
        known: The images that were added to the fit images: known defects and further good images.
        radius: Every patch of the fit images lies within this distance of the memory bank.
        score_steps: Steps on the distances.
        upsampling: Turns scores into anomaly maps, and may smooth them.
        map_steps: Steps on the anomaly maps.
        threshold: The score above which an image is called anomalous.
        calibration_files: The calibration images, see `PackedImages`. They and their distances are
            saved with the detector, so that the threshold can be set anew when defects are added.
        calibration_sizes: See `PackedImages`.
        calibration_distances: Squared distances of their patches to the nearest rows of a bank that
            was fitted without them, `[n, P, k]`, float32.
        calibration_scores: Image scores of the calibration images, `[n]`.
        calibrated_on: Type of the device that computed them, "cpu" or "cuda".
        usual_score: Median pixel of an anomaly map, the median over the calibration images; color
            scales start there.
        data_digest: Hash of the images it was fitted on.
        reading: How image files and arrays become pixels.
    """

    calibration_files: torch.Tensor
    calibration_sizes: torch.Tensor
    calibration_distances: torch.Tensor
    calibration_scores: torch.Tensor

    def __init__(
        self,
        *,
        architecture: Architecture,
        subnet: Subnet,
        head: FittedHead,
        known: Sequence[KnownImage],
        calibration_images: PackedImages,
        calibration_distances: torch.Tensor,
        calibration: Calibration,
        data_digest: str,
        reading: Reading,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.extractor = PatchFeatureExtractor(subnet, head.aggregator)
        self.memory = head.memory
        self.defects = head.defects
        self.radius = head.radius
        self.known = tuple(known)
        self.score_steps = head.score_steps
        self.upsampling = head.upsampling
        self.map_steps = head.map_steps
        self.register_buffer("calibration_files", calibration_images.files)
        self.register_buffer("calibration_sizes", calibration_images.sizes)
        self.register_buffer("calibration_distances", calibration_distances)
        self.register_buffer("calibration_scores", None)
        self._set_calibration(calibration)
        self.data_digest = data_digest
        self.reading = reading
        self.eval().requires_grad_(False)

    @classmethod
    def fit(
        cls,
        images: Images,
        *,
        supernet: Supernet | str | None = None,
        architecture: Architecture | None = None,
        calibration: Images | None = None,
        groups: Sequence[str | None] | None = None,
        defects: Iterable[Defect | Sample] = (),
        false_alarm_rate: float = 0.05,
        seed: int = 0,
        evaluation_size: int = EVALUATION_SIZE,
        data_digest: str | None = None,
        reading: Reading = DEFAULT_READING,
        warn: bool = True,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> Detector:
        """Builds the memory bank from good images and sets the threshold.

        All images are in the bank. For the threshold, they are divided into `FOLDS` folds, and each
        fold is scored by a bank that is chosen without it. Normalization and other steps are fitted
        on all images once. A detector is fitted faster, and its threshold rests on no
        approximation, see `calibrate`, if other good images are given as `calibration`.

        Args:
            images: Good images for the bank, one or many: paths of images or folders, PIL images,
                HWC arrays or CHW tensors.
            supernet: The supernet, or its name for `load_supernet`; autopatch_s if None.
            architecture: One of its architectures; the PatchCore baseline if None.
            calibration: Good images for the threshold, none of them in `images`. If None, folds of
                `images` set it.
            groups: Group of each of `images`, such as the part that it shows; None if it has none.
                Images of one group, and images that show the same picture, are in the same fold.
            defects: Images of known defects with their masks, see `update`.
            false_alarm_rate: Share of good images that may be called anomalous, between 0 and 1.
            seed: Seed of the folds.
            evaluation_size: Side of the anomaly maps, in pixels.
            data_digest: Hash of the data set that the images belong to. If it is given, calibration
                images are not compared with those of the bank; the caller must keep them apart. If
                None, the images are hashed.
            reading: How files and arrays become pixels. If it has no bit depth, it gets the
                smallest that holds all values of `images`.
            warn: Whether to log warnings about unusual images: few gray levels, values above the
                bit depth, dropped alpha channels.
            device: Device of the backbone and the bank. Everything except the reading of images
                runs there.
            progress: Called after every batch of images.

        Raises:
            InputError: An image cannot be read, there are fewer than two images that are not
                related, a calibration image is in the bank, `groups` has another length than
                `images` or is given beside `calibration`, a defect is wrong (see `update`), there
                is no such device, or the architecture does not belong to the supernet.
        """
        check_rate(false_alarm_rate)
        added = examples(defects, ())
        device = usable_device(device)
        good = _good_images(images)
        if not good:
            raise InputError("`images` is empty, expected good images to fit the bank on")
        folds = None
        if calibration is None:
            digests = image_digests(good, reading.exif)
            data_digest = data_digest or joint_digest(digests)
            folds = _folds(good, digests, groups, seed)
            calibrated = good
        else:
            if groups is not None:
                raise InputError(
                    "`groups` is given with `calibration`, expected one of the two: groups only "
                    "keep images in one fold"
                )
            calibrated = _good_images(calibration)
            if not calibrated:
                raise InputError("`calibration` is empty, expected good images for the threshold")
            if data_digest is None:
                digests = image_digests([*good, *calibrated], reading.exif)
                data_digest = joint_digest(digests)
                _refuse_twins(good, calibrated, digests)
        remarks = Remarks("give `bit_depth` {}")
        reading, warnings = decide(reading, good)
        if supernet is None or isinstance(supernet, str):
            supernet = load_supernet() if supernet is None else load_supernet(supernet)
        if architecture is None:
            architecture = patchcore_architecture(supernet, images=len(good))
            if architecture is None:
                raise InputError(
                    f"{supernet.name} has no levels of stride 8 and 16, expected an architecture"
                )
        reader = ImageReader(reading=reading, remarks=remarks)
        subnet = cut_subnet(supernet, architecture, good, device, reader=reader)
        told = _told(progress, "fit")
        height, width = supernet.grid(architecture.backbone, architecture.input.size)
        packed = PackedImages.of(
            reader.batches(calibrated, architecture.input, images_at_a_time(device)),
            len(calibrated),
            _told(progress, "read"),
        )
        maps = PackedMaps(subnet, packed, told=None if folds is None else told)
        maps_of_good = GoodMaps(
            Repeatable(partial(feature_maps, subnet, architecture.input, good, told, reader=reader))
            if folds is None
            else maps,
            channels=tuple(level.channels for level in subnet.levels),
            patches=len(good) * height * width,
            device=device,
        )
        try:
            head = fit_head(
                maps_of_good,
                architecture.head,
                size=evaluation_size,
                told=_told(progress, "choose the memory bank"),
            )
            if folds is None:
                told = _told(progress, "calibrate")
                distances = bank_distances(head, maps, len(packed), told)
            else:
                distances = fold_distances(
                    maps_of_good,
                    head.aggregator,
                    architecture.head,
                    folds,
                    told=_told(progress, "score folds"),
                )
        except ValueError as error:
            raise InputError(f"the architecture cannot be fitted: {error}") from error
        known = Known()
        if added:
            architecture = _with_defects(architecture)
            known = known.add(
                know(
                    added,
                    subnet=subnet,
                    preparation=architecture.input,
                    aggregator=head.aggregator,
                    memory=head.memory,
                    radius=head.radius,
                    calibration=packed,
                    reader=reader,
                    reading=reading,
                    told=_told(progress, "known defects"),
                )
            )
        head, measured = calibrate_head(
            head, known, maps, distances, false_alarm_rate, _told(progress, "calibrate")
        )
        if warn:
            for line in (*warnings, *remarks.lines()):
                logger.warning(line)
        detector = cls(
            architecture=architecture,
            subnet=subnet,
            head=head,
            known=known.images,
            calibration_images=packed,
            calibration_distances=distances,
            calibration=measured,
            data_digest=data_digest,
            reading=reading,
        )
        return detector.to(device)

    def update(
        self,
        *,
        defects: Iterable[Defect | Sample] = (),
        good: Images = (),
        remove: Iterable[str] = (),
        progress: Progress | None = None,
    ) -> None:
        """Adds known images to the detector, removes them, and sets the threshold anew.

        A defect adds the patches under its mask to the defect bank. Patches that look like them get
        higher scores, so anomalies of this kind are found more surely. The rest of the image, and
        further good images, such as parts that were called anomalous, add to the memory bank what
        it lacks. An image adds at most 100 rows to each bank. Nothing else changes, so removing an
        image takes back all that adding it did.

        If the architecture has no weight for known defects, it gets the weight 0.5.

        Args:
            defects: Images of known defects with their masks.
            good: Good images, one or many, see `fit`.
            remove: Names of known images to remove, see `known`.
            progress: Called after every batch of images.

        Raises:
            InputError: An image or a mask cannot be read, their sizes differ, a picture is known
                already or set the threshold, or there is no known image of a name. Nothing is
                changed then.
        """
        added = examples(defects, _list(good))
        packed = PackedImages(self.calibration_files.cpu(), self.calibration_sizes.cpu())
        fitted, known = Known.split(self.known, self.memory.bank, self.defects.bank)
        known = known.without(remove)
        architecture = self.architecture
        if added:
            if any(example.mask is not None for example in added):
                architecture = _with_defects(architecture)
            remarks = Remarks()
            known = known.add(
                know(
                    added,
                    subnet=self.extractor.subnet,
                    preparation=architecture.input,
                    aggregator=self.extractor.aggregator,
                    memory=MemoryBank(fitted),
                    radius=self.radius,
                    calibration=packed,
                    reader=ImageReader(reading=self.reading, remarks=remarks),
                    reading=self.reading,
                    told=_told(progress, "known images"),
                )
            )
            for line in remarks.lines():
                logger.warning(line)
        head, measured = calibrate_head(
            self.head.knowing(fitted, self.defects.bank[:0]),
            known,
            PackedMaps(self.extractor.subnet, packed),
            self.calibration_distances,
            self.threshold.target_rate,
            _told(progress, "calibrate"),
        )
        self.architecture, self.known = architecture, known.images
        self.memory, self.defects = head.memory, head.defects
        self._set_calibration(measured)

    def describe_known(self) -> str:
        """The known images, on one line, such as "knows 3 defects (2 crack, 1 hole) and 1 further
        good image"."""
        types = [image.type for image in self.known]
        defects = [kind for kind in types if kind != GOOD]
        parts = []
        if defects:
            by_type = ", ".join(f"{defects.count(kind)} {kind}" for kind in sorted(set(defects)))
            parts.append(f"{counted(len(defects), 'defect')} ({by_type})")
        if GOOD in types:
            parts.append(counted(types.count(GOOD), "further good image"))
        return f"knows {' and '.join(parts) or 'no defects'}"

    def _set_calibration(self, measured: Calibration) -> None:
        self.calibration_scores = measured.scores
        self.threshold = measured.threshold
        self.calibrated_on = measured.scores.device.type
        self.usual_score = measured.usual_score

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Anomaly maps and image scores of pixels. Works with `torch.export`.

        Args:
            images: uint8 `[N, 3, S, S]` at the architecture's image size, on the detector's device.

        Returns:
            Maps `[N, E, E]` and scores `[N]`, float32.

        Raises:
            ValueError: The images have another shape or dtype.
        """
        size = self.architecture.input.size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"`images` has shape {list(images.shape)}, expected [N, 3, {size}, {size}]; "
                "`predict` takes any"
            )
        maps = self.head.score(self.extractor(images))
        return maps, maps.flatten(1).amax(dim=1)

    def predict(
        self,
        images: Images,
        *,
        remarks: Remarks | None = None,
        progress: Progress | None = None,
    ) -> Prediction:
        """Anomaly maps, scores, labels and masks of images.

        Values above the detector's bit depth are clipped. A warning with the names of such images,
        and of images whose varying alpha channel is dropped, is logged.

        Args:
            images: One or many images of any size: paths of images or folders, PIL images, HWC
                arrays or CHW tensors. All are preprocessed alike.
            remarks: Collects notes on such images instead of logging them, for callers with
                several batches.
            progress: Called after every batch of images.

        Raises:
            InputError: A file is not a readable image, or an image has another shape or type.
        """
        told = _told(progress, "predict")
        noted = Remarks() if remarks is None else remarks
        maps, scores = [], []
        done = 0
        for pixels, total in self._batches(images, noted):
            with torch.inference_mode():
                batch_maps, batch_scores = self(pixels.to(self.device))
            maps.append(batch_maps)
            scores.append(batch_scores)
            done += len(pixels)
            if told is not None:
                told(done, total)
        if remarks is None:
            for line in noted.lines():
                logger.warning(line)
        side = self.evaluation_size
        return Prediction(
            torch.cat(maps) if maps else torch.empty(0, side, side, device=self.device),
            torch.cat(scores) if scores else torch.empty(0, device=self.device),
            self.threshold.value,
        )

    def _batches(self, images: Images, remarks: Remarks) -> Iterator[tuple[torch.Tensor, int]]:
        """Batches of pixels, each with the total number of images."""
        size = self.architecture.input.size
        at_a_time = images_at_a_time(self.device)
        if (
            isinstance(images, torch.Tensor)
            and images.dtype == torch.uint8
            and images.ndim == 4
            and images.shape[1:] == (3, size, size)
        ):  # already prepared
            yield from ((pixels, len(images)) for pixels in images.split(at_a_time))
            return
        found = _list(images)
        reader = ImageReader(reading=self.reading, remarks=remarks)
        batches = reader.batches(found, self.architecture.input, at_a_time)
        yield from ((pixels, len(found)) for pixels in batches)

    @property
    def head(self) -> FittedHead:
        """From feature maps to anomaly maps; shares the detector's modules."""
        return FittedHead(
            aggregator=self.extractor.aggregator,
            memory=self.memory,
            defects=self.defects,
            radius=self.radius,
            score_steps=self.score_steps,
            upsampling=self.upsampling,
            map_steps=self.map_steps,
        )

    @property
    def evaluation_size(self) -> int:
        """Side of the anomaly maps, in pixels."""
        return self.upsampling.size

    @property
    def device(self) -> torch.device:
        """Device of the backbone and the bank."""
        return self.memory.bank.device

    @property
    def provenance(self) -> str:
        """Origin of the backbone's weights."""
        return self.extractor.subnet.provenance

    @property
    def weights_sha256(self) -> str:
        """`Supernet.weights_sha256` of the supernet that the backbone was extracted from."""
        return self.extractor.subnet.weights_sha256

    @property
    def total_flops(self) -> int:
        """FLOPs per image: backbone and nearest neighbors."""
        sizes, backbone_flops = self.extractor.subnet.trace(self.architecture.input.size)
        rows = len(self.memory) + len(self.defects)
        return total_flops(backbone_flops, math.prod(max(sizes)), rows, self.memory.bank.shape[1])

    def get_extra_state(self) -> dict[str, Any]:
        """The part of the state that is not tensors, as JSON values."""
        return {
            "subnet": self.extractor.subnet.to_header(),
            "architecture": self.architecture.to_json(),
            "evaluation_size": self.evaluation_size,
            "threshold": asdict(self.threshold),
            "calibrated_on": self.calibrated_on,
            "usual_score": self.usual_score,
            "radius": self.radius,
            "usual_distance": self.defects.usual,
            "known": [asdict(image) for image in self.known],
            "data_digest": self.data_digest,
            "reading": self.reading.to_json(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Loads the `get_extra_state` of a detector of the same architecture."""
        self.extractor.subnet.take_header(state["subnet"])
        self.architecture = Architecture.from_json(state["architecture"])
        self.threshold = _threshold(state)
        self.calibrated_on = str(state["calibrated_on"])
        self.usual_score = float(state["usual_score"])
        self.radius = float(state["radius"])
        self.defects.usual = float(state["usual_distance"])
        self.known = tuple(KnownImage(**image) for image in state["known"])
        self.data_digest = str(state["data_digest"])
        self.reading = Reading.from_json(state["reading"])

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Loads the state of another detector of the same architecture; bank sizes may differ.

        Raises:
            ValueError: The state belongs to another architecture or network. Nothing is changed.
            RuntimeError: See `nn.Module.load_state_dict`.
        """
        if _EXTRA_STATE in state_dict:
            found = _form(state_dict[_EXTRA_STATE])
            expected = _form(self.get_extra_state())
            if found != expected:
                raise ValueError(f"the state is of {found}, expected {expected}")
            self.extractor.subnet.check_header(state_dict[_EXTRA_STATE]["subnet"])
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in _STORED:
            values = state_dict.get(f"{prefix}{name}")
            if isinstance(values, torch.Tensor):  # the number of images may differ
                setattr(self, name, values.detach().to(self.device, copy=True))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Detector:
        distances = self.calibration_distances
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.calibration_distances = distances.to(self.device)  # float32, like the bank
        return self

    def save(self, path: StrPath) -> None:
        """Writes the detector to one safetensors file, atomically. `load` needs no other file.

        Raises:
            InputError: The file cannot be written.
        """
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in self.state_dict().items()
            if isinstance(value, torch.Tensor)
        }
        document = {
            "format": _FORMAT,
            "autopatch": __version__,
            **self.get_extra_state(),
        }
        try:
            content = save(tensors, metadata={_METADATA: json.dumps(document)})
        except SafetensorError as error:
            raise InputError(f"{path}: cannot be written: {error}") from error
        write_bytes_atomically(path, content)

    @classmethod
    def load(cls, path: StrPath, *, device: torch.device | str = "cpu") -> Detector:
        """Reads a file written by `save` on any device. A warning is logged if the threshold was
        set on a device of another type.

        Args:
            path: The file.
            device: Device of the detector.

        Raises:
            InputError: The file is missing, damaged, or not a detector; or there is no such device.
        """
        device, path = usable_device(device), Path(path)
        document, tensors = _read(path)
        try:
            architecture = Architecture.from_json(document["architecture"])
            subnet = restore_subnet(document["subnet"])
            aggregator = PatchAggregator.of(
                architecture.head, [level.channels for level in subnet.levels]
            )
            # The state replaces the rows.
            head = FittedHead.of(
                architecture.head,
                aggregator,
                tensors["memory.bank"][:1],
                radius=float(document["radius"]),
                size=int(document["evaluation_size"]),
            )
            detector = cls(
                architecture=architecture,
                subnet=subnet,
                head=head,
                known=(),
                calibration_images=PackedImages(
                    tensors["calibration_files"], tensors["calibration_sizes"]
                ),
                calibration_distances=tensors["calibration_distances"],
                calibration=Calibration(
                    _threshold(document),
                    tensors["calibration_scores"],
                    float(document["usual_score"]),
                ),
                data_digest=str(document["data_digest"]),
                reading=Reading.from_json(document["reading"]),
            )
            detector.load_state_dict({**tensors, _EXTRA_STATE: document})
            detector._check()
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{path}: a damaged detector file ({type(error).__name__}: {one_line(error)})"
            ) from error
        if device.type != detector.calibrated_on:
            logger.warning(
                "the threshold was set on %s; scores on %s can differ in the last digits, which "
                "has not been measured yet: fit on %s if verdicts near the threshold matter",
                detector.calibrated_on,
                device.type,
                device.type,
            )
        return detector.to(device)

    def _check(self) -> None:
        """Raises ValueError if the parts do not match."""
        levels = tuple(level.index for level in self.extractor.subnet.levels)
        if levels != self.architecture.backbone.levels:
            raise ValueError(f"levels {levels} for those of {self.architecture}")
        channels = sum(level.channels for level in self.extractor.subnet.levels)
        features = self.extractor.aggregator.out_features(channels)
        for bank in (self.memory.bank, self.defects.bank):
            if bank.ndim != 2 or bank.shape[1] != features:
                raise ValueError(f"a bank of shape {list(bank.shape)}, expected {features} columns")
        rows = (
            len(self.memory) - sum(image.good_rows for image in self.known),
            len(self.defects) - sum(image.defect_rows for image in self.known),
        )
        if rows[0] < 1 or rows[1] != 0:
            raise ValueError(f"the banks do not have the rows of {len(self.known)} known images")
        images = len(self.calibration_sizes)
        distances = self.calibration_distances
        if (
            images < 1
            or distances.ndim != 3
            or {len(distances), len(self.calibration_scores), self.threshold.images} != {images}
            or int(self.calibration_sizes.sum()) != len(self.calibration_files)
        ):
            raise ValueError(f"the calibration images do not belong to {list(distances.shape)}")
        numbers = (self.threshold.value, self.usual_score, self.radius, self.defects.usual)
        if (
            not all(map(math.isfinite, numbers))
            or self.evaluation_size < 1
            or self.radius < 0
            or self.defects.usual <= 0
        ):
            raise ValueError("numbers out of range")


def _with_defects(architecture: Architecture) -> Architecture:
    """The architecture with a weight for known defects."""
    if architecture.head.defects is not None:
        return architecture
    return replace(architecture, head=replace(architecture.head, defects=DEFAULT_DEFECT_WEIGHT))


def _form(state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a state that must be equal for one detector to load another's state."""
    architecture = dict(state["architecture"])
    head = {k: v for k, v in architecture.pop("head").items() if k != "bank_size"}
    return {**architecture, "head": head, "evaluation_size": state["evaluation_size"]}


def _threshold(state: Mapping[str, Any]) -> Threshold:
    values = dict(state["threshold"])
    return Threshold(**{**values, "interval": tuple(values["interval"])})


def _good_images(images: Images) -> list[ImageInput]:
    """Images to fit on, as a list.

    Raises:
        InputError: A folder holds a whole data set, so also anomalous images.
    """
    if isinstance(images, str | os.PathLike) and path_kind(images) == "folder":
        return list(folder_of_good(images))
    return _list(images)


def _list(images: Images) -> list[ImageInput]:
    """One image, many images, or the images of folders, as a list."""
    if isinstance(images, str | os.PathLike):
        kind = path_kind(images)
        if kind == "folder":
            return list(folder_images(images))
        if kind is None:
            raise InputError(f"{images}: no such file or folder, expected images")
    listed: list[ImageInput] = []
    for image in as_images(images):
        if isinstance(image, str | os.PathLike) and path_kind(image) == "folder":
            listed.extend(folder_images(image))
        else:
            listed.append(image)
    return listed


def _refuse_twins(
    good: Sequence[ImageInput], calibration: Sequence[ImageInput], digests: Sequence[bytes]
) -> None:
    """Raises InputError if a picture of the bank is also a calibration image: its score would be
    0. The digests are of all images, those of the bank first."""
    first = {digest: index for index, digest in reversed(list(enumerate(digests[: len(good)])))}
    twins = [i for i, digest in enumerate(digests[len(good) :]) if digest in first]
    if not twins:
        return
    fitted = first[digests[len(good) + twins[0]]]
    one, other = calibration[twins[0]], good[fitted]
    raise InputError(
        f"{len(twins)} of {len(calibration)} `calibration` images are among those of the bank, "
        f"the first: {_named(one, 'calibration', twins[0])} is "
        f"{_named(other, 'images', fitted)}; expected other good images"
    )


def _named(image: ImageInput, argument: str, index: int) -> str:
    """Name of an image in messages."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    return f"{argument}[{index}]"


def _folds(
    images: Sequence[ImageInput],
    digests: Sequence[bytes],
    groups: Sequence[str | None] | None,
    seed: int,
) -> tuple[tuple[int, ...], ...]:
    """The folds of good images; images with equal digests, or of one group, stay together."""
    if groups is None:
        groups = [None] * len(images)
    if len(groups) != len(images):
        raise InputError(
            f"`groups` has {len(groups)} entries, expected {len(images)}, one for each image"
        )
    related = related_images(digests, groups)
    if len(related) < 2:
        shown = ""
        if len(images) > 1:
            alike = len(set(digests)) == 1
            shown = ", all of the same picture" if alike else ", all related by their groups"
        raise InputError(
            f"`images` has {len(images)}{shown}, expected at least 2 that are not related: the "
            "threshold is set by scoring each without itself and its relatives"
        )
    pictures: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        pictures.setdefault(digest, []).append(index)
    copies = [
        " = ".join(_named(images[index], "images", index) for index in same[:2])
        for same in pictures.values()
        if len(same) > 1
    ]
    if copies:
        logger.warning(
            f"the images show {counted(len(copies), 'picture')} more than once: "
            f"{first_names(sorted(copies))}; copies are kept in one fold for the threshold"
        )
    return draw_folds(related, seed)


def _told(progress: Progress | None, step: str) -> Callable[[int, int], None] | None:
    return None if progress is None else partial(progress, step)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    kind = path_kind(path)
    if kind != "file":
        state = "no such file" if kind is None else "is a folder"
        raise InputError(f"{path}: {state}, expected a detector (.safetensors)")
    metadata, tensors = read_safetensors(path)
    text = metadata.get(_METADATA)
    if text is None:
        raise InputError(f"{path}: a safetensors file, but not a detector of autopatch")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: a detector file with a damaged header ({error})") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found == _FORMAT:
        return document, tensors
    if is_integer(found) and found > _FORMAT:
        raise InputError(
            f"{path}: a detector of autopatch {document.get('autopatch')}, which is newer than "
            f"this version {__version__} (format {found}, expected {_FORMAT}); update autopatch"
        )
    if is_integer(found) and found > 0:
        raise InputError(
            f"{path}: a detector of an earlier version of autopatch (format {found}, expected "
            f"{_FORMAT}); fit it again"
        )
    raise InputError(f"{path}: a damaged detector file (format {found!r}, expected {_FORMAT})")
