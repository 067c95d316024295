"""Images in memory as PNG files, and their feature maps."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from PIL import Image

from autopatch.data.threads import in_threads
from autopatch.detector.extractor import images_at_a_time
from autopatch.errors import InputError
from autopatch.supernet import Subnet

MAPS_BYTES = 2 << 30
"""Default memory for the feature maps of packed images, in bytes."""


@dataclass(frozen=True)
class PackedImages:
    """Images of one size as PNG files, so without loss.

    Attributes:
        files: The files, one after the other, uint8 `[B]`, on the CPU.
        sizes: Size of each file in bytes, int64 `[n]`, on the CPU.
    """

    files: torch.Tensor
    sizes: torch.Tensor

    @classmethod
    def of(
        cls,
        batches: Iterable[torch.Tensor],
        count: int,
        told: Callable[[int, int], None] | None = None,
    ) -> PackedImages:
        """Packs images.

        Args:
            batches: Pixels, uint8 `[m, 3, H, W]` each.
            count: Number of images in all batches.
            told: Called after every batch with the number of images done, and their total.
        """
        files: list[bytes] = []
        for pixels in batches:
            files += in_threads(_packed, pixels.cpu().numpy())
            if told is not None:
                told(len(files), count)
        joined = np.frombuffer(b"".join(files), np.uint8).copy()
        return cls(torch.from_numpy(joined), torch.tensor([len(file) for file in files]))

    def __len__(self) -> int:
        return len(self.sizes)

    def batches(self, size: int) -> list[range]:
        """The images by number, `size` at a time."""
        count = len(self)
        return [range(first, min(first + size, count)) for first in range(0, count, size)]

    def pixels(self, images: range) -> torch.Tensor:
        """Pixels of some images, uint8 `[m, 3, H, W]`, on the CPU.

        Raises:
            InputError: An image is damaged, or has another size than the others.
        """
        sizes = self.sizes.tolist()
        ends = list(accumulate(sizes))
        files = self.files.numpy()
        try:
            unpacked = in_threads(
                lambda number: _unpacked(files[ends[number] - sizes[number] : ends[number]]), images
            )
            return torch.stack(unpacked)
        except (OSError, SyntaxError, ValueError, RuntimeError) as error:
            raise InputError("a packed image is damaged; fit the detector again") from error


class PackedMaps(Iterable[Sequence[torch.Tensor]]):
    """Feature maps of packed images, batch by batch. The first that fit into memory are computed
    once; the others are computed each time.

    Args:
        subnet: The backbone. The maps are on its device.
        images: The images.
        memory_bytes: Memory for the maps, in bytes.
        told: Called after every computed batch with the number of images done, and their total.
    """

    def __init__(
        self,
        subnet: Subnet,
        images: PackedImages,
        *,
        memory_bytes: int = MAPS_BYTES,
        told: Callable[[int, int], None] | None = None,
    ) -> None:
        self._subnet = subnet
        self._images = images
        self._left = memory_bytes
        self._told = told
        self._kept: dict[int, Sequence[torch.Tensor]] = {}

    def __iter__(self) -> Iterator[Sequence[torch.Tensor]]:
        for batch in self._images.batches(images_at_a_time(self._subnet.device)):
            maps = self._kept.get(batch.start)
            if maps is None:
                maps = self._computed(batch)
            yield maps

    def _computed(self, batch: range) -> Sequence[torch.Tensor]:
        pixels = self._images.pixels(batch).to(self._subnet.device)
        with torch.inference_mode():
            maps: Sequence[torch.Tensor] = self._subnet(self._subnet.normalize(pixels))
        size = sum(m.nbytes for m in maps)
        if size <= self._left:
            self._kept[batch.start] = maps
            self._left -= size
        if self._told is not None:
            self._told(batch.stop, len(self._images))
        return maps


def _packed(pixels: np.ndarray) -> bytes:
    """One image `[3, H, W]` as a PNG file; a gray one has one channel."""
    gray = (pixels == pixels[:1]).all()
    image = Image.fromarray(pixels[0] if gray else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    file = io.BytesIO()
    # Higher levels take up to four times as long for files that are 10 % smaller.
    image.save(file, "png", compress_level=1)
    return file.getvalue()


def _unpacked(file: np.ndarray) -> torch.Tensor:
    with Image.open(io.BytesIO(file.tobytes()), formats=["PNG"]) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
