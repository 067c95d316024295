"""The feature maps of candidates, and the work that candidates share."""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, repeat
from typing import TypeAlias

import torch

from autopatch.data import DEFAULT_READING, Cache, ImageReader, Reading, Sample
from autopatch.detector import Architecture, Head, Input, cut_subnet, stack_maps
from autopatch.detector.extractor import images_at_a_time
from autopatch.supernet import Backbone, Segment, Supernet, in_float32

_Key: TypeAlias = tuple[Hashable, ...]


@dataclass(frozen=True)
class SharedWork:
    """The work on feature maps that candidates share. Counts are in images times segments of a
    backbone, see `Supernet.segments`.

    Attributes:
        computed: Segments that were computed.
        reused: Segments that were not, because an earlier candidate's maps were in the cache.
        seconds: Time in which segments were computed.
        seconds_saved: Time that the reused ones took when they were computed.
        images_read: Images that were decoded and resized.
        images_reused: Images that were not, because their pixels or maps were in the cache.
    """

    computed: int = 0
    reused: int = 0
    seconds: float = 0.0
    seconds_saved: float = 0.0
    images_read: int = 0
    images_reused: int = 0


class FeatureMaps:
    """The feature maps of a fixed list of images, computed on first use and kept in a cache.

    A candidate starts from the deepest maps in the cache that its first segments have in common
    with earlier candidates. Its maps are the same, bit for bit, as without the cache. If its maps
    together are larger than the whole cache, none of them is kept.

    Maps in use do not count towards the budget of the cache. Several threads can ask for maps; only
    one computes at a time.

    Args:
        supernet: The supernet.
        fit: Good images. Batch norm is recalibrated on them if the supernet requires it.
        scored: Images to score, after the fit images in every map.
        cache: Keeps decoded images and maps, perhaps beside other things.
        reading: How image files become pixels.
        device: Device of the maps.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        fit: Sequence[Sample],
        scored: Sequence[Sample],
        cache: Cache,
        reading: Reading = DEFAULT_READING,
        device: torch.device | str = "cpu",
    ) -> None:
        self._supernet = supernet
        self._device = torch.device(device)
        self._fit = [sample.image for sample in fit]
        self._images = [*self._fit, *(sample.image for sample in scored)]
        self._cache = cache
        self._reader = ImageReader(self._cache, reading)
        self._seconds: dict[_Key, float] = {}  # of segments, the last time they were computed
        self._work = SharedWork()
        self._asked = 0  # images, by all candidates
        self._lock = threading.Lock()  # an executor may use threads

    @property
    def work(self) -> SharedWork:
        """The work done and saved so far."""
        return self._work

    def get(self, architecture: Architecture) -> list[torch.Tensor]:
        """Maps of the architecture's levels.

        Returns:
            One tensor `[N, C_l, H_l, W_l]` per level, float32, channels last in memory; the fit
            images come first.
        """
        with self._lock:
            return self._get(architecture)

    def bytes_needed(self, architecture: Architecture) -> int:
        """Bytes of all maps that are kept for an architecture."""
        chain = _Chain.of(architecture, self._supernet, shared=True)
        return self._bytes(chain, chain.kept)

    def _get(self, architecture: Architecture) -> list[torch.Tensor]:
        keeps = self.bytes_needed(architecture) <= self._cache.budget
        chain = _Chain.of(architecture, self._supernet, shared=keeps)
        maps = {}
        for level in chain.wanted:
            whole = self._cache.get(chain.key(level))
            if whole is not None:
                maps[level] = whole
        starts = self._starts(chain, [level for level in chain.wanted if level not in maps])
        if starts:
            computed = [level for number in starts for level in chain.segments[number].levels]
            stored = [
                level for level in computed if level in (chain.kept if keeps else chain.wanted)
            ]
            if keeps:
                self._cache.make_room(self._bytes(chain, stored))
            for level, whole in zip(stored, self._compute(chain, starts, stored), strict=True):
                maps[level] = whole
                if keeps:
                    self._cache.put(chain.key(level), whole, whole.nbytes)
        self._count(chain, starts)
        return [maps[level] for level in chain.wanted]

    def _bytes(self, chain: _Chain, levels: Iterable[int]) -> int:
        """Bytes of the maps of some levels."""
        grids = self._supernet.grids(chain.backbone.network, chain.input.size)
        floats = 0
        for level in self._supernet.levels(replace(chain.backbone, levels=tuple(levels))):
            height, width = grids[level.index]
            floats += level.channels * height * width
        return 4 * floats * len(self._images)

    def _starts(self, chain: _Chain, missing: Sequence[int]) -> dict[int, torch.Tensor | None]:
        """The segments that give the missing maps, in order, each with the map to start from if the
        cache holds it. The others start from the segment before, the first from the images."""
        starts: dict[int, torch.Tensor | None] = {}
        for level in missing:
            number = chain.segment_of(level)
            while number >= 0 and number not in starts:
                start = None
                if number > 0:
                    start = self._cache.get(chain.key(chain.segments[number - 1].levels[-1]))
                starts[number] = start
                if start is not None:
                    break
                number -= 1
        return dict(sorted(starts.items()))

    def _compute(
        self, chain: _Chain, starts: Mapping[int, torch.Tensor | None], levels: Sequence[int]
    ) -> list[torch.Tensor]:
        """Maps of some levels of the segments of `starts`."""
        architecture = Architecture(
            chain.input, chain.backbone, Head((1,) * len(chain.backbone.levels))
        )
        subnet = cut_subnet(
            self._supernet, architecture, self._fit, self._device, reader=self._reader
        )
        layers = self._supernet.split(chain.backbone, subnet)
        at_a_time = images_at_a_time(self._device)
        seconds = dict.fromkeys(starts, 0.0)

        def maps_of(first: int, pixels: torch.Tensor | None) -> list[torch.Tensor]:
            found: dict[int, torch.Tensor] = {}
            if pixels is not None:
                last = subnet.normalize(pixels.to(self._device))
            for number, start in starts.items():
                if start is not None:
                    last = start[first : first + at_a_time]
                began = self._now()
                maps = layers[number](last)
                seconds[number] += self._now() - began
                found.update(zip(chain.segments[number].levels, maps, strict=True))
                last = maps[-1]
            return [found[level] for level in levels]

        def batches() -> Iterator[list[torch.Tensor]]:
            pixels: Iterator[torch.Tensor | None] = repeat(None)
            if 0 in starts:
                pixels = self._reader.batches(self._images, chain.input, at_a_time)
            firsts = range(0, len(self._images), at_a_time)
            for first, batch in zip(firsts, pixels, strict=False):
                with torch.inference_mode(), in_float32(self._device):
                    maps = maps_of(first, batch)
                yield maps

        stacked = stack_maps(batches(), len(self._images))
        self._seconds.update({chain.keys[number]: taken for number, taken in seconds.items()})
        return stacked

    def _count(self, chain: _Chain, starts: Mapping[int, torch.Tensor | None]) -> None:
        """Adds a candidate to the work."""
        run = range(max(map(chain.segment_of, chain.wanted)) + 1)
        seconds = [self._seconds[chain.keys[number]] for number in run]
        images, read = len(self._images), self._reader.decoded
        done = self._work
        self._asked += images
        self._work = SharedWork(
            computed=done.computed + images * len(starts),
            reused=done.reused + images * (len(run) - len(starts)),
            seconds=done.seconds + sum(seconds[number] for number in starts),
            seconds_saved=done.seconds_saved
            + sum(seconds[number] for number in run if number not in starts),
            images_read=read,
            images_reused=max(self._asked - read, 0),
        )

    def _now(self) -> float:
        """Clock time in seconds, read after the device has finished its work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@dataclass(frozen=True)
class _Chain:
    """The segments that an architecture's maps come from.

    Attributes:
        input: How images are prepared.
        backbone: The backbone whose subnet is run.
        segments: Its segments.
        keys: For each segment, what its maps depend on.
        wanted: The architecture's own levels.
    """

    input: Input
    backbone: Backbone
    segments: tuple[Segment, ...]
    keys: tuple[_Key, ...]
    wanted: tuple[int, ...]

    @classmethod
    def of(cls, architecture: Architecture, supernet: Supernet, *, shared: bool) -> _Chain:
        """The chain of an architecture, or of the backbone that shares its maps with others."""
        backbone = architecture.backbone
        if shared:
            backbone = supernet.shared(backbone)
        segments = supernet.segments(backbone)
        keys = accumulate(
            ((segment.key,) for segment in segments),
            initial=(architecture.input, backbone.network),
        )
        return cls(
            architecture.input,
            backbone,
            segments,
            tuple(keys)[1:],
            architecture.backbone.levels,
        )

    @property
    def kept(self) -> tuple[int, ...]:
        """The levels whose maps are kept."""
        return tuple(
            level
            for segment in self.segments
            for level in segment.levels
            if segment.reusable or level in self.wanted
        )

    def segment_of(self, level: int) -> int:
        """Number of the segment that gives the map of a level."""
        return next(n for n, segment in enumerate(self.segments) if level in segment.levels)

    def key(self, level: int) -> _Key:
        """The key of a map in the cache."""
        return (*self.keys[self.segment_of(level)], level)
