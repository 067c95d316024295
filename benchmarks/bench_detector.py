"""Times whole detectors: autopatch, an equivalent of torch and faiss, and anomalib's PatchCore.

    python benchmarks/bench_detector.py                 # prints the tables; takes some minutes
    python benchmarks/bench_detector.py --threads 2 --bank whole

All detectors have the same backbone, weights, levels (stride 8 and 16, patch size 3, 224 px), bank
and images. Each runs in its own process, with the same code for decoding images. This code reads
ahead, so the decoding time is the time spent waiting for it. The anomaly maps are compared; a
difference is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

import floors
from autopatch import _C
from autopatch.data import ImageReader, MVTecAD, draw_textures
from autopatch.detector import (
    Architecture,
    Detector,
    Head,
    Input,
    MemoryBank,
)
from autopatch.kernels import reference
from autopatch.supernet import Subnet, TimmSupernet, load_supernet
from coreset_peers import AddmvLoop, AnomalibLoop, CoresetLoop
from features import SHARED

NETWORKS = ("mobilenetv2_100", "tf_mobilenetv3_small_075")
BANKS = {"whole": "all patches", "coreset": "10 % greedy coreset"}
PIPELINES = {"autopatch": "autopatch", "faiss": "torch + faiss", "anomalib": "anomalib"}
TARGETS = {"faiss": 4, "anomalib": 5}  # ratio of images per second, with the whole bank

STAGES = ("decode", "backbone", "aggregate", "coreset", "index", "search")
PICKS = 300  # number of picks for which the peers' coresets are timed; the rest is extrapolated
IMAGES_AT_A_TIME = 16
REPEATED_SECONDS = 8.0  # shorter passes are repeated three times

# Tolerance of squared distances, relative to the largest: rounding of the backbone and, in the
# peers, of the expanded form of the distance.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Job:
    """One detector to time."""

    pipeline: str
    network: str
    bank: str
    threads: int
    images: Path  # MVTec-AD folder
    folder: Path  # files that jobs share

    def file(self, name: str) -> Path:
        return self.folder / f"{self.network}_{self.bank}_{self.threads}_{name}.pt"

    def supernet(self) -> TimmSupernet:
        weights = SHARED / "weights" / f"{self.network}.safetensors"
        supernet = load_supernet(
            f"timm:{self.network}", str(weights) if weights.is_file() else "random"
        )
        assert isinstance(supernet, TimmSupernet)
        return supernet


class Stages:
    """Seconds and peak memory of each stage."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peak: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        forget_peak()
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start
        self.peak[name] = max(self.peak[name], resident("VmHWM"))

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps `function` as a stage."""

        def run(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return function(*args, **kwargs)

        return run

    def each(self, name: str, items: Iterable[Any]) -> Iterator[Any]:
        """Yields the items; waiting for each is a stage."""
        iterator = iter(items)
        while True:
            with self(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def whole(self, function: Callable[[], Any]) -> tuple[dict[str, Any], Any]:
        """Runs `function`, which contains stages; returns its record and its result."""
        self.clear()
        load = floors.OtherLoad()
        start = time.perf_counter()
        result = function()
        total = time.perf_counter() - start
        others = load.share()
        seconds = {name: self.seconds[name] for name in STAGES if name in self.seconds}
        # Maps, and everything else outside the stages.
        seconds["rest"] = total - sum(seconds.values())
        peak = {"rest": max(resident("VmHWM"), *self.peak.values()), **self.peak}
        return {"total": total, "seconds": seconds, "peak": peak, "others": others}, result


def resident(field: str) -> float:
    """Memory of this process in MiB: VmRSS is the current size, VmHWM the peak since
    `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Pipeline:
    """A detector whose stages are timed.

    Attributes:
        distances: Squared distances found by the last `predict`, one tensor per search.
        extrapolated: Additional seconds that a whole coreset would have taken.
    """

    def __init__(self, job: Job, stages: Stages) -> None:
        self.job = job
        self.stages = stages
        self.distances: list[torch.Tensor] = []
        self.extrapolated = 0.0

    def fit(self, images: Sequence[Path]) -> None:
        raise NotImplementedError

    def predict(self, images: Sequence[Path]) -> torch.Tensor | None:
        """Maps of squared distances; None if the pipeline's maps have other values."""
        raise NotImplementedError


class Autopatch(Pipeline):
    """autopatch, called as a user would, with its parts wrapped for timing."""

    def __init__(self, job: Job, stages: Stages) -> None:
        super().__init__(job, stages)
        from autopatch.detector import coreset, extractor, memory

        batches = ImageReader.batches
        ImageReader.batches = lambda *args: stages.each("decode", batches(*args))  # type: ignore
        for home, name, stage in [
            (Subnet, "fold", "backbone"),
            (Subnet, "normalize", "backbone"),
            (Subnet, "forward", "backbone"),
            (extractor, "aggregate_patches", "aggregate"),
            (coreset, "greedy_coreset", "coreset"),
            (MemoryBank, "_set", "index"),
            (memory, "mean_distances", "search"),
        ]:
            setattr(home, name, stages.timed(stage, getattr(home, name)))
        search = memory.mean_distances

        def noted(*args: Any, **kwargs: Any) -> Any:
            found = search(*args, **kwargs)
            self.distances.append(found)
            return found

        memory.mean_distances = noted
        self.supernet = job.supernet()

    def fit(self, images: Sequence[Path]) -> None:
        architecture = patchcore(self.supernet)
        if self.job.bank == "coreset":
            height, width = self.supernet.grid(architecture.backbone, architecture.input.size)
            bank_size = round(len(images) * height * width / 10)
            architecture = replace(
                architecture, head=replace(architecture.head, bank_size=bank_size)
            )
        # A detector needs calibration images that are not in the bank. One takes negligible time.
        self.detector = Detector.fit(
            images,
            supernet=self.supernet,
            architecture=architecture,
            calibration=[Image.new("RGB", (64, 64))],
            seed=0,
        )

    def predict(self, images: Sequence[Path]) -> torch.Tensor:
        return self.detector.predict(images).anomaly_map


class Peer(Pipeline):
    """Common code of the peers: batches of images, and timing of their coreset."""

    def __init__(self, job: Job, stages: Stages) -> None:
        super().__init__(job, stages)
        supernet = job.supernet()
        architecture = patchcore(supernet)
        self.size = architecture.input.size
        # The network up to the deepest level, channels last, with batch norm.
        self.subnet = supernet.get_active_subnet(architecture.backbone)
        self.backbone = self.subnet.network

    def batches(self, images: Sequence[Path]) -> Iterator[torch.Tensor]:
        """Batches of images in the backbone's input format."""
        batches = ImageReader().batches(images, self.size, IMAGES_AT_A_TIME)
        for pixels in self.stages.each("decode", batches):
            with self.stages("backbone"):
                normalized = self.subnet.normalize(pixels)
            yield normalized

    def bank(self, rows: torch.Tensor, loop: Callable[[torch.Tensor], CoresetLoop]) -> torch.Tensor:
        """The rows of the memory bank: all rows, or the coreset picked by autopatch. For a coreset,
        the peer's `loop` is timed for some picks on the same number of rows. Its own picks are not
        used: it rounds differently, so the maps would differ."""
        if self.job.bank == "whole":
            return rows
        picked: torch.Tensor = torch.load(self.job.file("bank"))
        with self.stages("coreset"):
            pick = loop(rows)
            seconds = []
            for _ in range(PICKS):
                start = time.perf_counter()
                pick()
                seconds.append(time.perf_counter() - start)
        self.extrapolated = statistics.median(seconds) * (len(picked) - PICKS)
        return picked


class TorchFaiss(Peer):
    """A fast pipeline of common libraries: timm, torch, an addmv coreset, and faiss's exact
    index."""

    def __init__(self, job: Job, stages: Stages) -> None:
        super().__init__(job, stages)
        import faiss

        self.faiss = faiss

    def patches(self, images: Sequence[Path]) -> Iterator[torch.Tensor]:
        """Patch features of each batch."""
        for batch in self.batches(images):
            with self.stages("backbone"), torch.inference_mode():
                maps = self.backbone(batch)
            with self.stages("aggregate"):
                rows = reference.aggregate_patches(maps, [3] * len(maps))
                self.grid = max(m.shape[-2:] for m in maps)
            yield rows

    def fit(self, images: Sequence[Path]) -> None:
        rows = torch.cat(list(self.patches(images)))
        bank = self.bank(rows, AddmvLoop)
        with self.stages("index"):
            self.index = self.faiss.IndexFlatL2(bank.shape[1])
            self.index.add(bank.numpy())

    def predict(self, images: Sequence[Path]) -> torch.Tensor:
        maps = []
        for rows in self.patches(images):
            with self.stages("search"):
                distances = torch.from_numpy(self.index.search(rows.numpy(), 1)[0])
            self.distances.append(distances)
            maps.append(
                F.interpolate(
                    distances.reshape(-1, 1, *self.grid),
                    size=(self.size, self.size),
                    mode="bilinear",
                    align_corners=False,
                )
            )
        return torch.cat(maps).squeeze(1)


class Anomalib(Peer):
    """anomalib's unmodified torch model, with the same network in its feature extractor; it does
    not support channels last."""

    def __init__(self, job: Job, stages: Stages) -> None:
        super().__init__(job, stages)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from anomalib.models.image.patchcore.torch_model import PatchcoreModel
        self.backbone.to(memory_format=torch.contiguous_format)
        names = [f"stride{level.stride}" for level in self.subnet.levels]
        # With one neighbor it skips the weighting of the image score.
        model = PatchcoreModel(layers=["blocks.1"], backbone=job.network, pre_trained=False)
        model.num_neighbors = 1
        model.layers = model.feature_extractor.layers = names
        model.feature_extractor.feature_extractor = self.backbone
        model.feature_extractor.forward = stages.timed("backbone", model.feature_extractor.forward)
        model.feature_pooler.forward = stages.timed("aggregate", model.feature_pooler.forward)
        model.generate_embedding = stages.timed("aggregate", model.generate_embedding)
        model.reshape_embedding = stages.timed("aggregate", model.reshape_embedding)
        search = stages.timed("search", model.nearest_neighbors)

        def noted(*args: Any, **kwargs: Any) -> Any:
            found = search(*args, **kwargs)
            self.distances.append(found[0].square())
            return found

        model.nearest_neighbors = noted
        self.model = model

    def fit(self, images: Sequence[Path]) -> None:
        self.model.train()
        for batch in self.batches(images):
            self.model(batch.contiguous())
        rows = torch.vstack(self.model.embedding_store)
        self.model.embedding_store.clear()
        self.model.memory_bank = self.bank(rows, partial(AnomalibLoop, projects=True))
        self.model.eval()

    def predict(self, images: Sequence[Path]) -> None:
        for batch in self.batches(images):
            with torch.inference_mode():
                self.model(batch.contiguous())


def patchcore(supernet: TimmSupernet) -> Architecture:
    """The PatchCore baseline, with all patches in the bank."""
    backbone = supernet.patchcore()
    assert backbone is not None
    return Architecture(Input(224), backbone, Head((3,) * len(backbone.levels)))


CLASSES: dict[str, type[Pipeline]] = {
    "autopatch": Autopatch,
    "faiss": TorchFaiss,
    "anomalib": Anomalib,
}


def work(job: Job) -> dict[str, Any]:
    """Fits and predicts in this process; returns the record."""
    if job.threads < (os.cpu_count() or 1):
        os.sched_setaffinity(0, range(job.threads))
    torch.set_num_threads(job.threads)
    dataset = MVTecAD.scan(job.images)
    train = [sample.image for sample in dataset.train]
    test = [sample.image for sample in dataset.test]
    stages = Stages()
    pipeline = CLASSES[job.pipeline](job, stages)
    base = resident("VmRSS")
    fit, _ = stages.whole(lambda: pipeline.fit(train))
    if pipeline.extrapolated:
        fit["seconds"]["coreset"] += pipeline.extrapolated
        fit["total"] += pipeline.extrapolated
    if isinstance(pipeline, Autopatch):
        torch.save(pipeline.detector.memory.bank, job.file("bank"))
    pipeline.predict(test[:IMAGES_AT_A_TIME])
    passes: list[dict[str, Any]] = []
    while not passes or (len(passes) < 3 and passes[0]["total"] < REPEATED_SECONDS):
        pipeline.distances.clear()
        record, maps = stages.whole(lambda: pipeline.predict(test))
        passes.append(record)
    distances = torch.cat([found.flatten() for found in pipeline.distances])
    torch.save((distances, maps), job.file(job.pipeline))
    predict = sorted(passes, key=lambda record: float(record["total"]))[len(passes) // 2]
    return {
        **{name: str(value) for name, value in asdict(job).items()},
        "fit": fit,
        "predict": predict,
        "passes": [(float(record["total"]), float(record["others"])) for record in passes],
        "train": len(train),
        "test": len(test),
        "base": base,
    }


def measured(job: Job) -> dict[str, Any]:
    """Runs `work` in its own process, and compares its maps with those of autopatch."""
    values = {name: str(value) for name, value in asdict(job).items()}
    environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads)}
    if "avx512" in _C.isa_levels():
        environment.setdefault("OPENBLAS_CORETYPE", "SkylakeX")  # see conftest.py
    command = [sys.executable, "-W", "ignore", __file__, "--job", json.dumps(values)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{job}:\n{done.stderr}")
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    ours, maps = torch.load(job.file("autopatch"))
    found, found_maps = torch.load(job.file(job.pipeline))
    record["difference"] = difference(found, ours)
    if found_maps is not None:
        record["difference"] = max(record["difference"], difference(found_maps, maps))
    if record["difference"] > TOLERANCE:
        raise SystemExit(
            f"{job}: maps differ from ours by {record['difference']:.1e} of the largest"
        )
    return record


def difference(found: torch.Tensor, ours: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of `ours`."""
    return float((found - ours).abs().max() / ours.max())


def records(
    networks: Sequence[str] = NETWORKS,
    banks: Sequence[str] = tuple(BANKS),
    threads: Sequence[int] = (1, 2),
) -> Iterator[dict[str, Any]]:
    """The records of every pipeline, network, bank and thread count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = SHARED / "data" / "magnetic_tile"
        if not images.is_dir():
            images = draw_textures(folder / "textures", train=100, per_type=15)
        for network in networks:
            for bank in banks:
                for count in threads:
                    for pipeline in PIPELINES:
                        if pipeline == "autopatch" or find_spec(pipeline) is not None:
                            yield measured(Job(pipeline, network, bank, count, images, folder))


def tables(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The records as Markdown."""
    first = found[0]
    yield (
        f"Data: {Path(first['images']).name}, {first['train']} images to fit, {first['test']} to "
        "predict. Memory: the most in use, beyond imports and weights. Squared distances differ by "
        f"at most {max(record['difference'] for record in found):.0e} of the largest. "
        "!: other processes were busy meanwhile."
    )
    yield ""
    yield (
        "| network | bank | threads | pipeline | fit, s | predict, images/s | autopatch's ratio "
        "| target | MiB to fit | MiB to predict |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for record in found:
        pipeline = record["pipeline"]
        ours = next(r for r in found if same_work(r, record) and r["pipeline"] == "autopatch")
        speed, our_speed = (r["test"] / r["predict"]["total"] for r in (record, ours))
        ratio = "" if record is ours else f"{our_speed / speed:.1f}"
        target = TARGETS.get(pipeline, "") if record["bank"] == "whole" else ""
        memory = (
            f"{max(record[step]['peak'].values()) - record['base']:,.0f}"
            for step in ("fit", "predict")
        )
        yield (
            f"| {record['network']} | {BANKS[record['bank']]} | {record['threads']} "
            f"| {PIPELINES[pipeline]} | {record['fit']['total']:,.3g}{mark(record['fit'])} "
            f"| {speed:,.4g}{mark(record['predict'])} | {ratio} "
            f"| {target} | {' | '.join(memory)} |"
        )
    for step, count, title in [("fit", "train", "Fit"), ("predict", "test", "Predict")]:
        yield ""
        yield f"{title}, ms per image / peak memory in MiB, by stage:"
        yield ""
        yield f"| network | bank | threads | pipeline | {' | '.join(STAGES)} | rest |"
        yield f"|---|---|---|---|{'---|' * (len(STAGES) + 1)}"
        for record in found:
            seconds, peak = record[step]["seconds"], record[step]["peak"]
            cells = [
                f"{1e3 * seconds[name] / record[count]:,.3g} / {peak[name] - record['base']:,.0f}"
                if name in seconds
                else ""
                for name in (*STAGES, "rest")
            ]
            yield (
                f"| {record['network']} | {BANKS[record['bank']]} | {record['threads']} "
                f"| {PIPELINES[record['pipeline']]} | {' | '.join(cells)} |"
            )


def mark(record: dict[str, Any]) -> str:
    """Mark of a measurement during which other processes were busy."""
    return "!" if record["others"] > floors.DISTURBED else ""


def same_work(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("network", "bank", "threads"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Whole detectors beside their peers.")
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--bank", nargs="+", choices=tuple(BANKS), default=tuple(BANKS))
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job is None:
        found = list(records(arguments.network, arguments.bank, arguments.threads))
        print("\n".join(tables(found)))
    else:
        job = arguments.job
        paths = {name: Path(job[name]) for name in ("images", "folder")}
        print(json.dumps(work(Job(**{**job, **paths, "threads": int(job["threads"])}))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
