#pragma once

// The anomalous pixels ("positives") and their 8-connected regions.

#include <cstdint>

#include "ops/cuda/pixel_metrics/memory.cuh"

namespace autopatch {
namespace {

/// Scan items of sixteen pixels. Writes the positives in pixel order, each as its own region.
struct Masks {
  const std::uint8_t* masks;
  std::uint32_t num_pixels;
  std::uint32_t* pixels;
  std::uint32_t* parents;
  std::uint32_t* areas;

  static constexpr std::uint32_t kPixels = 16;

  __device__ std::uint32_t size() const {
    return num_pixels / kPixels + (num_pixels % kPixels != 0);
  }

  /// Returns one bit per pixel: whether it is anomalous.
  __device__ std::uint32_t bits(std::uint32_t i) const {
    const std::uint32_t first = i * kPixels;
    std::uint32_t result = 0;
    if (num_pixels - first < kPixels || reinterpret_cast<std::uintptr_t>(masks) % kPixels != 0) {
      const std::uint32_t count = min(kPixels, num_pixels - first);
      for (std::uint32_t j = 0; j < count; ++j) {
        result |= static_cast<std::uint32_t>(masks[first + j] != 0) << j;
      }
      return result;
    }
    const uint4 four = *reinterpret_cast<const uint4*>(masks + first);
    const std::uint32_t words[4] = {four.x, four.y, four.z, four.w};
    if ((four.x | four.y | four.z | four.w) == 0) return 0;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      result |= static_cast<std::uint32_t>((words[j / 4] >> (j % 4 * 8) & 0xFF) != 0) << j;
    }
    return result;
  }

  __device__ std::uint32_t value(std::uint32_t i) const {
    return static_cast<std::uint32_t>(__popc(bits(i)));
  }

  __device__ void put(std::uint32_t i, std::uint32_t count, std::uint32_t sum) const {
    if (count == 0) return;
    std::uint32_t at = sum - count;
    for (std::uint32_t left = bits(i); left != 0; left &= left - 1) {
      const std::uint32_t pixel =
          i * kPixels + static_cast<std::uint32_t>(__ffs(static_cast<int>(left)) - 1);
      pixels[at++] = pixel;
      parents[pixel] = pixel;
      areas[pixel] = 0;
    }
  }
};

/// Finds the root and halves the path. A parent is in the same region and has a lower index.
/// Concurrent writes by other threads keep this true.
__device__ inline std::uint32_t find_root(volatile std::uint32_t* parents, std::uint32_t i) {
  std::uint32_t parent = parents[i];
  while (parent != i) {
    const std::uint32_t next = parents[parent];
    if (next != parent) parents[i] = next;
    i = parent;
    parent = next;
  }
  return i;
}

/// Unites two regions. The root with the lower index becomes the root of both.
__device__ inline void unite(std::uint32_t* parents, std::uint32_t a, std::uint32_t b) {
  while (true) {
    a = find_root(parents, a);
    b = find_root(parents, b);
    if (a == b) return;
    const std::uint32_t high = max(a, b);
    const std::uint32_t low = min(a, b);
    const std::uint32_t before = atomicMin(&parents[high], low);
    if (before == high) return;
    // `high` was no longer a root: unite its former parent as well.
    a = before;
    b = low;
  }
}

template <typename Key>
__global__ void __launch_bounds__(kThreads) unite_kernel(Images images, Memory<Key> memory) {
  const std::uint32_t first = blockIdx.x * kThreads + threadIdx.x;
  const std::uint32_t step = gridDim.x * kThreads;
  for (std::uint32_t image = first; image < images.count; image += step) {
    if (images.types[image] < -1 || images.types[image] >= images.num_types) {
      memory.found->bad_type = 1;
    }
  }
  const std::uint32_t width = images.width;
  for (std::uint32_t i = first; i < memory.found->num_positives; i += step) {
    const std::uint32_t pixel = memory.roots[0][i];
    const std::uint32_t place = pixel % images.size;
    const std::uint32_t x = place % width;
    const bool below = place >= width;
    const std::uint8_t* mask = images.masks + pixel;
    const std::uint8_t* above = mask - width;
    if (below && above[0] != 0) {
      // The pixel above unites this pixel with its left, upper-left and upper-right neighbors.
      unite(memory.parents, pixel, pixel - width);
      continue;
    }
    if (x > 0 && *(mask - 1) != 0) {
      unite(memory.parents, pixel, pixel - 1);
    } else if (below && x > 0 && *(above - 1) != 0) {
      unite(memory.parents, pixel, pixel - width - 1);
    }
    if (below && x + 1 < width && above[1] != 0) {
      unite(memory.parents, pixel, pixel - width + 1);
    }
  }
}

/// Replaces pixels by their roots, measures regions and writes keys.
template <typename Format, typename Key>
__global__ void __launch_bounds__(kThreads)
    key_kernel(const typename Format::Bits* scores, Images images, Memory<Key> memory) {
  const std::uint32_t count = memory.found->num_positives;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::uint32_t step = gridDim.x * kThreads;
  for (std::uint32_t base = blockIdx.x * kThreads + threadIdx.x - static_cast<unsigned>(lane);
       base < count; base += step) {
    const std::uint32_t i = base + static_cast<unsigned>(lane);
    std::uint32_t root = kNone;
    if (i < count) {
      const std::uint32_t pixel = memory.roots[0][i];
      root = pixel;
      while (memory.parents[root] != root) root = memory.parents[root];
      memory.roots[0][i] = root;
      memory.keys[0][i] = Format::key(scores[pixel]);
      if (root == pixel) {
        const std::uint32_t image = pixel / images.size;
        const std::int32_t type = images.types[image];
        if (type < 0) {
          atomicMax(&memory.found->in_good_image, ~image);
        } else if (type < images.num_types) {
          atomicAdd(&memory.regions_of_type[type], 1u);
        }
        atomicAdd(&memory.found->num_regions, 1u);
      }
    }
    const unsigned same = __match_any_sync(kAllLanes, root);
    if (root != kNone && __ffs(static_cast<int>(same)) - 1 == lane) {
      atomicAdd(&memory.areas[root], static_cast<std::uint32_t>(__popc(same)));
    }
  }
}

}  // namespace
}  // namespace autopatch
