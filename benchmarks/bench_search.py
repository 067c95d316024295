"""Times the candidates of a search: autopatch beside the published pipeline in torch and faiss.

    python benchmarks/bench_search.py                # prints the tables; takes some minutes
    python benchmarks/bench_search.py --space autopatch_s --threads 2

Both evaluate the same random architectures on the same images, with all patches or a tenth of them
in the bank, in turn and in one process. The peer does what the published search does for each
architecture, in its order: features of all images, torch's average pooling and interpolation,
faiss's exact index, enlarged distance maps, regions by scikit-image and the curve of rwAP by torch.
Anomaly maps and rwAP of both are compared; a difference is an error.

The peer's nearest-neighbor search and its coreset are extrapolated where the whole would take long:
from some of the scored images, and from some of the picks. It searches in autopatch's coreset, for
rounding would make it pick other rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import floors
from autopatch import _C

if "avx512" in _C.isa_levels():
    os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # see conftest.py

from autopatch.data import (
    EVALUATION_SIZE,
    ImageReader,
    MVTecAD,
    Split,
    draw_textures,
    load_masks,
    make_split,
)
from autopatch.detector import Architecture, Head
from autopatch.search import CandidateEvaluator, Evaluation, SharedWork, candidates, compose_space
from autopatch.supernet import Supernet, load_supernet
from bench_pixel_metrics import Problem, by_torch
from coreset_peers import AddmvLoop
from features import SHARED

SPACES = {
    "timm:mobilenetv2_100": SHARED / "weights" / "mobilenetv2_100.safetensors",
    "autopatch_s": None,
    "ofa_mbv3": None,
}
"""Spaces, and the files of weights that do not come with the package."""

BANKS = {"whole": "all patches", "coreset": "10 % greedy coreset"}
TARGETS = {"whole": 4, "coreset": 10}  # ratio of candidates per minute
STAGES = ("decode", "features", "bank", "search", "metrics")

IMAGE_SIZE = 224
IMAGES_AT_A_TIME = 16
PRODUCTS = 3e10  # of features, in the part of the peer's search that is timed
PICKS = 100  # of the peer's coreset that are timed

# Tolerance of squared distances, relative to the largest: faiss computes them in expanded form, in
# which large features of random networks cancel.
TOLERANCE = 1e-3


class Stages:
    """Seconds of each stage of a candidate; each may be a part of the whole."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str, part: float = 1.0) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] += (time.perf_counter() - start) / part


class Published:
    """The published pipeline.

    Args:
        supernet: The supernet.
        split: The images.
    """

    def __init__(self, supernet: Supernet, split: Split) -> None:
        import faiss
        from skimage.measure import label

        self.faiss, self.label = faiss, label
        faiss.omp_set_num_threads(torch.get_num_threads())
        self.supernet = supernet
        scored = (*split.holdout, *split.validation)
        self.fit_images = len(split.fit)
        self.images = [sample.image for sample in (*split.fit, *scored)]
        self.masks = load_masks(scored, EVALUATION_SIZE)
        self.types = [sample.type for sample in scored]
        self.pixels: torch.Tensor | None = None

    def features(self, architecture: Architecture, stages: Stages) -> torch.Tensor:
        """Patch features `[N, H, W, D]` of all images."""
        with stages("decode"):
            if self.pixels is None:  # kept in memory, as there
                batches = ImageReader().batches(self.images, IMAGE_SIZE, IMAGES_AT_A_TIME)
                self.pixels = torch.cat(list(batches))
        with stages("features"), torch.inference_mode():
            subnet = self.supernet.get_active_subnet(architecture.backbone)
            found = []
            for pixels in self.pixels.split(IMAGES_AT_A_TIME):
                maps = subnet(subnet.normalize(pixels))
                side = max(m.shape[-2:] for m in maps)
                pooled = [
                    F.avg_pool2d(m, size, stride=1, padding=(size - 1) // 2)
                    for m, size in zip(maps, architecture.head.patch_sizes, strict=True)
                ]
                resized = [
                    F.interpolate(m, size=side, mode="bilinear", align_corners=False)
                    for m in pooled
                ]
                found.append(torch.cat(resized, dim=1).permute(0, 2, 3, 1).contiguous())
            return torch.cat(found)

    def coreset(self, patches: torch.Tensor, picks: int, stages: Stages) -> None:
        """Times the greedy coreset of all patches, without its result."""
        rows = patches[: self.fit_images].flatten(0, 2)
        timed = min(PICKS, picks)
        pick = AddmvLoop(rows)
        with stages("bank", timed / picks):
            for _ in range(timed):
                pick()

    def maps(self, patches: torch.Tensor, bank: torch.Tensor, stages: Stages) -> torch.Tensor:
        """Anomaly maps of the scored images, or of the first of them."""
        rows = patches[self.fit_images :]
        images, height, width, dim = rows.shape
        products = height * width * dim * len(bank)
        timed = min(max(int(PRODUCTS / products), 1), images)
        with stages("bank"):
            index = self.faiss.IndexFlatL2(dim)
            index.add(bank.numpy())
        with stages("search", timed / images):
            distances = torch.from_numpy(index.search(rows[:timed].flatten(0, 2).numpy(), 1)[0])
            return F.interpolate(
                distances.reshape(timed, 1, height, width),
                size=(EVALUATION_SIZE, EVALUATION_SIZE),
                mode="bilinear",
                align_corners=False,
            ).squeeze(1)

    def rwap(self, maps: torch.Tensor, stages: Stages) -> float:
        """rwAP of the anomaly maps of all scored images."""
        with stages("metrics"):
            problem = Problem("", maps, self.masks.bool(), self.types, None, 0.0)
            weights = problem.weights(lambda mask: self.label(mask, connectivity=2))
            return by_torch(problem, weights)


class Autopatch:
    """autopatch's evaluator; keeps what the last candidate is checked with.

    Attributes:
        maps: Anomaly maps of the last candidate.
        bank: Its memory bank.
    """

    def __init__(self, supernet: Supernet, split: Split) -> None:
        self.evaluator = CandidateEvaluator(
            supernet, fit=split.fit, scored=(*split.holdout, *split.validation)
        )

    def __call__(self, architecture: Architecture) -> tuple[float, Evaluation]:
        """Seconds of an evaluation, and its result."""
        measure = candidates.score_maps
        fitted = candidates.head_of_coreset

        def score_maps(maps: torch.Tensor, *labels: Any) -> dict[str, float]:
            self.maps = maps
            return measure(maps, *labels)

        def head_of_coreset(*parts: Any, **options: Any) -> Any:
            head = fitted(*parts, **options)
            self.bank = head.memory.bank
            return head

        candidates.score_maps, candidates.head_of_coreset = score_maps, head_of_coreset
        try:
            start = time.perf_counter()
            result = self.evaluator(architecture)
            return time.perf_counter() - start, result
        finally:
            candidates.score_maps, candidates.head_of_coreset = measure, fitted


@dataclass
class Record:
    """Times of the candidates of a space with one kind of bank.

    Attributes:
        space: Name of the space.
        bank: Kind of bank.
        ours: Seconds of each stage of autopatch, one dictionary per candidate.
        peers: Seconds of each stage of the peer.
        difference: Largest difference of a squared distance, relative to the largest one.
        others: Share of the CPU time that other processes took.
        work: What autopatch's candidates shared.
    """

    space: str
    bank: str
    ours: list[dict[str, float]] = field(default_factory=list)
    peers: list[dict[str, float]] = field(default_factory=list)
    difference: float = 0.0
    others: float = 0.0
    work: SharedWork = field(default_factory=SharedWork)

    @property
    def ratio(self) -> float:
        """Candidates per minute of autopatch, divided by those of the peer."""
        return per_minute(self.ours) / per_minute(self.peers)


def per_minute(seconds: Sequence[dict[str, float]]) -> float:
    return 60 * len(seconds) / sum(sum(each.values()) for each in seconds)


def drawn(supernet: Supernet, count: int) -> list[Architecture]:
    """Random architectures at 224 px, with heads that the published pipeline has too."""
    preset = supernet.presets.get("published")
    choices = {"image_size": (IMAGE_SIZE,)} if preset is None else None
    space = compose_space(supernet, preset=preset, choices=choices)
    generator = np.random.default_rng(0)
    found = [space.decode(space.sample(generator)) for _ in range(count)]
    return [replace(each, head=Head(each.head.patch_sizes)) for each in found]


def measured(space: str, split: Split, count: int) -> list[Record]:
    """Times the candidates of a space with both kinds of bank."""
    file = SPACES[space]
    weights = str(file) if file is not None and file.is_file() else "auto"
    if space != "autopatch_s" and weights == "auto":
        weights = "random"
    supernet = load_supernet(space, weights)
    published = Published(supernet, split)
    autopatch = {bank: Autopatch(supernet, split) for bank in BANKS}
    records = {bank: Record(space, bank) for bank in BANKS}
    for number, architecture in enumerate(drawn(supernet, count)):
        print(f"{space}: {number + 1} of {count}", file=sys.stderr)
        load = floors.OtherLoad()
        first = Stages()
        patches = published.features(architecture, first)
        others = load.share()
        rows = patches[: published.fit_images].flatten(0, 2)
        for bank, record in records.items():
            load = floors.OtherLoad()
            picks = round(len(rows) / 10)
            candidate = architecture
            if bank == "coreset":
                candidate = replace(architecture, head=replace(architecture.head, bank_size=picks))
            seconds, found = autopatch[bank](candidate)
            ours = {
                "features": found.timings["features"],
                "bank": found.timings["bank"],
                "search": found.timings["neighbors"],
            }
            record.ours.append({**ours, "metrics": seconds - sum(ours.values())})
            stages = Stages()
            stages.seconds.update(first.seconds)
            if bank == "coreset":
                published.coreset(patches, picks, stages)
                rows = autopatch[bank].bank
            maps = published.maps(patches, rows, stages)
            mine = autopatch[bank].maps
            value = published.rwap(mine, stages)
            record.peers.append(dict(stages.seconds))
            record.others = max(record.others, others, load.share())
            record.work = autopatch[bank].evaluator.shared_work
            difference = float((maps - mine[: len(maps)]).abs().max() / mine.max())
            record.difference = max(record.difference, difference)
            if difference > TOLERANCE or abs(value - found.metrics["rwAP"]) > 1e-9:
                raise SystemExit(
                    f"{candidate.describe(supernet)}: anomaly maps differ by {difference:.1e} of "
                    f"the largest, rwAP is {found.metrics['rwAP']} and {value}"
                )
    return list(records.values())


def tables(records: Sequence[Record], split: Split) -> Iterator[str]:
    """The records as Markdown."""
    scored = len(split.holdout) + len(split.validation)
    yield (
        f"{len(records[0].ours)} random architectures of {records[0].space}, {IMAGE_SIZE} px, "
        f"{len(split.fit)} images to fit, {scored} to score, {torch.get_num_threads()} threads. "
        f"Squared distances differ by at most {max(each.difference for each in records):.0e} of "
        "the largest. Ratio: candidates per minute; median: of the candidates' own ratios. !: "
        "other processes were busy meanwhile."
    )
    yield ""
    yield (
        "| space | bank | published, per minute | autopatch, per minute | ratio | target | median "
        "| segments reused |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for record in records:
        ratios = [
            sum(peer.values()) / sum(ours.values())
            for ours, peer in zip(record.ours, record.peers, strict=True)
        ]
        mark = "!" if record.others > floors.DISTURBED else ""
        work = record.work
        yield (
            f"| {record.space} | {BANKS[record.bank]} | {per_minute(record.peers):,.3g} "
            f"| {per_minute(record.ours):,.3g}{mark} | {record.ratio:.1f} | {TARGETS[record.bank]} "
            f"| {statistics.median(ratios):.1f} "
            f"| {work.reused / (work.reused + work.computed):.0%} |"
        )
    yield ""
    yield (
        "Seconds per candidate, by stage. Published: pooling belongs to the features. autopatch: "
        "decoding belongs to the features, pooling to bank and search, and metrics are all six."
    )
    yield ""
    yield f"| space | bank | pipeline | {' | '.join(STAGES)} |"
    yield f"|---|---|---|{'---|' * len(STAGES)}"
    for record in records:
        for pipeline, candidates_ in (("published", record.peers), ("autopatch", record.ours)):
            cells = [
                f"{statistics.mean(each[name] for each in candidates_):.3g}"
                if name in candidates_[0]
                else ""
                for name in STAGES
            ]
            yield f"| {record.space} | {BANKS[record.bank]} | {pipeline} | {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description="Candidates of a search beside the published way.")
    parser.add_argument("--space", nargs="+", choices=tuple(SPACES), default=tuple(SPACES))
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    try:
        import faiss  # noqa: F401
        import skimage  # noqa: F401
    except ImportError as error:
        print(f"bench_search.py: skipped, {error.name} is not installed")
        return 0
    if arguments.threads < (os.cpu_count() or 1):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        images = SHARED / "data" / "magnetic_tile"
        if not images.is_dir():
            images = draw_textures(Path(folder) / "textures", train=100, per_type=15)
        split = make_split(MVTecAD.scan(images), shots=1, reserve=4)
        for space in arguments.space:
            records = measured(space, split, arguments.candidates)
            print("\n".join(tables(records, split)), end="\n\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
