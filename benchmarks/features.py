"""Features for timing kernels: patch features of real networks and images, and difficult synthetic
ones.

Images and weights are in `../shared`, beside the repository. If they are missing, correlated
synthetic features replace them, and `origin` says so. Computed features are cached in
`runs/features`, under a hash of everything they depend on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from autopatch.data import GOOD, MVTecAD, load_images
from autopatch.kernels import greedy_coreset, reference
from autopatch.supernet import load_supernet

SHARED = Path(__file__).parents[2] / "shared"
CACHE = Path(__file__).parents[1] / "runs" / "features"

PATCH_SIZE = 3
NUM_QUERIES = 25_088  # 8 images of 56 x 56 patches, 32 of 28 x 28
CORESET_SAMPLE = 50_000
CORESET_SIZE = 20_000

_VERSION = 1  # version of the computations in this file, part of the hash
_IMAGES_AT_A_TIME = 16


@dataclass(frozen=True)
class Source:
    """The source of features.

    Attributes:
        data: Folder of images in `../shared/data`.
        network: Model of timm, with weights in `../shared/weights`.
        modules: Modules whose outputs are the feature maps, the largest map first.
        image_size: Side of the images in pixels.
    """

    data: str
    network: str
    modules: tuple[str, ...]
    image_size: int = 448

    @property
    def images(self) -> Path:
        return SHARED / "data" / self.data

    @property
    def weights(self) -> Path:
        return SHARED / "weights" / f"{self.network}.safetensors"

    @property
    def is_here(self) -> bool:
        return self.images.is_dir() and self.weights.is_file()


SOURCES = {
    # Stride 8 and 16, PatchCore's choice: 24 + 40 and 32 + 96 channels.
    64: Source("dagm_class1", "tf_mobilenetv3_small_075", ("blocks.1", "blocks.3")),
    128: Source("magnetic_tile", "mobilenetv2_100", ("blocks.2", "blocks.4")),
    # The expansion within a block of stride 16.
    384: Source("magnetic_tile", "mobilenetv2_100", ("blocks.3.2.bn2",)),
    # 64 channels of stride 16 beside the 960 of an expansion of stride 32.
    1024: Source("magnetic_tile", "mobilenetv2_100", ("blocks.3.3", "blocks.5.2.bn2")),
}
"""Sources by number of features."""


def origin(dim: int) -> str:
    """Short description of the features of a dimension."""
    source = SOURCES[dim]
    return f"{source.data}, {source.network}" if source.is_here else "correlated synthetic"


def train_rows(dim: int, count: int) -> torch.Tensor:
    """`count` random patches of good images, `[count, dim]`, in image order."""
    source = SOURCES[dim]
    if not source.is_here:
        return _correlated(count, dim, seed=1)

    def compute() -> torch.Tensor:
        dataset = MVTecAD.scan(source.images)
        rows = _patches(source, [sample.image for sample in dataset.train])
        generator = torch.Generator().manual_seed(0)
        return rows[torch.randperm(len(rows), generator=generator)[:count].sort().values]

    return kept(f"train_{dim}_{count}", dim, compute)


def coreset_bank(dim: int) -> torch.Tensor:
    """A greedy coreset of `CORESET_SIZE` out of `CORESET_SAMPLE` patches of good images, as in
    PatchCore's bank."""

    def compute() -> torch.Tensor:
        rows = train_rows(dim, CORESET_SAMPLE)
        return rows[greedy_coreset(rows, CORESET_SIZE, start=0)[0]]

    return kept(f"bank_{dim}", dim, compute)


def query_rows(dim: int) -> torch.Tensor:
    """All patches of test images, `[NUM_QUERIES, dim]`, with equally many images of each type and
    good ones."""
    source = SOURCES[dim]
    if not source.is_here:
        return _correlated(NUM_QUERIES, dim, seed=2)

    def compute() -> torch.Tensor:
        dataset = MVTecAD.scan(source.images)
        by_type = [
            [sample.image for sample in dataset.test if sample.type == kind]
            for kind in (GOOD, *dataset.types)
        ]
        longest = max(map(len, by_type))
        paths = [files[i] for i in range(longest) for files in by_type if i < len(files)]
        return _patches(source, paths, at_least=NUM_QUERIES)[:NUM_QUERIES]

    return kept(f"test_{dim}", dim, compute)


def kept(name: str, dim: int, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """The result of `compute` for the features of a dimension, cached in a file."""
    path = CACHE / f"{name}_{_digest(name, SOURCES[dim])}.safetensors"
    if not path.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".partial")
        save_file({"rows": compute().contiguous()}, unfinished)
        unfinished.replace(path)
    return load_file(path)["rows"]


def gaussian(num_rows: int, num_queries: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bank and queries without structure: all rows are about equally far apart."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(num_rows, dim, generator=generator),
        torch.randn(num_queries, dim, generator=generator),
    )


def duplicated(num_rows: int, num_queries: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A bank of 200 distinct rows, repeated. Half of the queries equal one of them, half are near
    one."""
    generator = torch.Generator().manual_seed(0)
    distinct = torch.randn(200, dim, generator=generator)
    bank, queries = (
        distinct[torch.randint(len(distinct), (count,), generator=generator)]
        for count in (num_rows, num_queries)
    )
    near = queries[num_queries // 2 :]
    near += 0.1 * torch.randn(near.shape, generator=generator)
    return bank, queries


def far_offset(num_rows: int, num_queries: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian values, all shifted by 100."""
    bank, queries = gaussian(num_rows, num_queries, dim)
    return bank + 100, queries + 100


def heavy_outliers(num_rows: int, num_queries: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian values; one row in 1,000 and one value in 100,000 are a hundred times as large."""
    generator = torch.Generator().manual_seed(1)
    sides = gaussian(num_rows, num_queries, dim)
    for rows in sides:
        rows[torch.randperm(len(rows), generator=generator)[: len(rows) // 1000]] *= 100
        values = torch.randint(rows.numel(), (rows.numel() // 100_000,), generator=generator)
        rows.view(-1)[values] *= 100
    return sides


ADVERSARIAL: dict[str, Callable[[int, int, int], tuple[torch.Tensor, torch.Tensor]]] = {
    "i.i.d. Gaussian": gaussian,
    "duplicated rows": duplicated,
    "offset + 100": far_offset,
    "heavy outliers": heavy_outliers,
}
"""Features on which pruning and screening gain little."""


def _correlated(count: int, dim: int, *, seed: int) -> torch.Tensor:
    """Features like those of a network: clustered latent factors of decreasing weight, followed by
    a ReLU."""
    generator = torch.Generator().manual_seed(0)
    factors = dim // 4
    weights = torch.arange(1, factors + 1).pow(-0.5)[:, None]
    mix = weights * torch.randn(factors, dim, generator=generator)
    centers = torch.randn(100, factors, generator=generator)
    generator.manual_seed(seed)
    clusters = torch.randint(len(centers), (count,), generator=generator)
    latent = centers[clusters] + 0.5 * torch.randn(count, factors, generator=generator)
    return torch.relu(latent @ mix)


def _patches(source: Source, paths: Sequence[Path], at_least: int | None = None) -> torch.Tensor:
    """Patch features of images: of all, or of the first ones until there are `at_least` rows."""
    supernet = load_supernet(f"timm:{source.network}", str(source.weights))
    subnet = supernet.get_active_subnet(supernet.largest())
    maps: dict[str, torch.Tensor] = {}
    for name in source.modules:
        subnet.network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: maps.update({name: output})
        )
    rows: list[torch.Tensor] = []
    for first in range(0, len(paths), _IMAGES_AT_A_TIME):
        pixels = load_images(paths[first : first + _IMAGES_AT_A_TIME], source.image_size)
        with torch.no_grad():
            subnet.network(subnet.normalize(pixels))
        chosen = [maps[name] for name in source.modules]
        rows.append(reference.aggregate_patches(chosen, [PATCH_SIZE] * len(chosen)))
        if at_least is not None and sum(map(len, rows)) >= at_least:
            break
    return torch.cat(rows)


def _digest(name: str, source: Source) -> str:
    made_from: list[object] = [_VERSION, name, PATCH_SIZE, CORESET_SAMPLE, CORESET_SIZE]
    if source.is_here:
        files = sorted(path for path in source.images.rglob("*") if path.is_file())
        made_from += [
            asdict(source),
            hashlib.sha256(source.weights.read_bytes()).hexdigest(),
            [(str(path.relative_to(source.images)), path.stat().st_size) for path in files],
        ]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
