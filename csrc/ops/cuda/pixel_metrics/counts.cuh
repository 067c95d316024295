#pragma once

// Distinct keys of positives, and the counts of normal pixels ("negatives") between and at them.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "ops/cpu/score_key.hpp"
#include "ops/cuda/pixel_metrics/scan.cuh"

namespace autopatch {
namespace {

template <typename Key>
struct FirstOfKey {
  Memory<Key> memory;

  __device__ std::uint32_t size() const { return memory.found->num_positives; }

  __device__ std::uint32_t value(std::uint32_t i) const {
    return i == 0 || memory.keys[0][i] != memory.keys[0][i - 1];
  }

  __device__ void put(std::uint32_t i, std::uint32_t is_first, std::uint32_t sum) const {
    const std::uint32_t index = sum - 1;
    memory.key_index[i] = index;
    if (is_first == 0) return;
    memory.distinct[index] = memory.keys[0][i];
    memory.starts[index] = i;
    memory.slots[std::size_t{2} * index] = 0;
    memory.slots[std::size_t{2} * index + 1] = 0;
  }
};

/// The score of a key; see score_key.hpp.
__device__ inline float score_of(std::uint32_t key) {
  constexpr std::uint32_t kMagnitude = Float32::kMagnitude;
  return __uint_as_float((key & Float32::kSign) != 0 ? key + 1 : key ^ kMagnitude);
}

/// Cells between the first and the last key. For float32 they have equal width in score, because
/// keys of numbers around zero are far apart. For other types, or if a score is infinite, they have
/// equal width in key.
template <typename Format, typename Key>
struct Cells {
  static constexpr bool kIsFloat = std::is_same_v<Format, Float32>;
  Key first;
  Key last;
  std::uint32_t last_cell;
  int shift;
  bool by_score = false;
  float highest = 0.0f;
  float per_score = 0.0f;

  __device__ Cells(const Key* distinct, std::uint32_t count, int log_bins)
      : first(distinct[0]), last(distinct[count - 1]), last_cell((1u << log_bins) - 1) {
    const auto range = static_cast<long long>(last - first);
    shift = max(0, 64 - __clzll(range) - log_bins);
    if constexpr (kIsFloat) {
      highest = score_of(first);
      per_score = static_cast<float>(last_cell) / (highest - score_of(last));
      by_score = per_score > 0.0f && per_score < 1e30f;
    }
  }

  __device__ std::uint32_t cell_of(Key key) const {
    if constexpr (kIsFloat) {
      if (by_score) {  // rounding keeps the order
        const float cell = (highest - score_of(key)) * per_score;
        return min(static_cast<std::uint32_t>(cell), last_cell);
      }
    }
    return static_cast<std::uint32_t>((key - first) >> shift);
  }
};

template <typename Format, typename Key>
__global__ void __launch_bounds__(kThreads) bin_kernel(Memory<Key> memory, int log_bins) {
  const std::uint32_t count = memory.found->num_keys;
  if (count == 0) return;
  const Cells<Format, Key> cells(memory.distinct, count, log_bins);
  const std::uint32_t step = gridDim.x * kThreads;
  for (std::uint32_t bin = blockIdx.x * kThreads + threadIdx.x; bin <= 1u << log_bins;
       bin += step) {
    std::uint32_t low = 0;
    std::uint32_t high = count;
    while (low < high) {
      const std::uint32_t middle = low + (high - low) / 2;
      if (cells.cell_of(memory.distinct[middle]) < bin) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    memory.bins[bin] = low;
  }
}

template <typename Format, typename Key>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const typename Format::Bits* scores, Images images, Memory<Key> memory,
                 int log_bins) {
  using Bits = typename Format::Bits;
  const std::uint32_t num_keys = memory.found->num_keys;
  if (num_keys == 0) return;
  const Cells<Format, Key> cells(memory.distinct, num_keys, log_bins);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const Part part(images.num_pixels, kThreads * kTogether);
  std::uint32_t before_all = 0;
  // With few slots each is hit often, so a block first counts in shared memory.
  const std::uint32_t num_slots = 2 * num_keys;
  const bool counts_apart = num_slots <= kSlotsApart;
  auto* apart = shared_memory<std::uint32_t>();
  std::uint32_t* slots = counts_apart ? apart : memory.slots;
  if (counts_apart) {
    for (std::uint32_t i = threadIdx.x; i < num_slots; i += kThreads) apart[i] = 0;
    __syncthreads();
  }
  for (std::uint32_t base = part.begin; base < part.end; base += kThreads * kTogether) {
    Bits own_scores[kTogether];
    bool normal[kTogether];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const std::uint32_t i = base + static_cast<std::uint32_t>(j * kThreads) + threadIdx.x;
      own_scores[j] = i < part.end ? scores[i] : Bits{0};
      normal[j] = i < part.end && images.masks[i] == 0;
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (Format::is_nan(own_scores[j])) {
        const std::uint32_t i = base + static_cast<std::uint32_t>(j * kThreads) + threadIdx.x;
        atomicMax(&memory.found->nan, ~i);
      }
      const auto key = static_cast<Key>(Format::key(own_scores[j]));
      std::uint32_t slot = kNone;  // no curve changes after the last positive
      if (normal[j] && key < cells.first) {
        ++before_all;
      } else if (normal[j] && key <= cells.last) {
        const std::uint32_t cell = cells.cell_of(key);
        std::uint32_t low = memory.bins[cell];
        std::uint32_t high = memory.bins[cell + 1];
        while (low < high) {
          const std::uint32_t middle = low + (high - low) / 2;
          if (memory.distinct[middle] < key) {
            low = middle + 1;
          } else {
            high = middle;
          }
        }
        slot = 2 * low + (memory.distinct[low] == key ? 1 : 0);
      }
      if (__any_sync(kAllLanes, slot != kNone) == 0) continue;
      const unsigned same = __match_any_sync(kAllLanes, slot);
      if (slot != kNone && __ffs(static_cast<int>(same)) - 1 == lane) {
        atomicAdd(&slots[slot], static_cast<std::uint32_t>(__popc(same)));
      }
    }
  }
  before_all = warp_inclusive(before_all);
  if (lane == kWarp - 1 && before_all != 0) atomicAdd(&memory.slots[0], before_all);
  if (counts_apart) {
    __syncthreads();
    for (std::uint32_t i = threadIdx.x; i < num_slots; i += kThreads) {
      if (apart[i] != 0) atomicAdd(&memory.slots[i], apart[i]);
    }
  }
}

/// Replaces the counts of slots by running sums: the negatives up to and including each slot.
template <typename Key>
struct Slots {
  Memory<Key> memory;

  __device__ std::uint32_t size() const { return 2 * memory.found->num_keys; }
  __device__ std::uint32_t value(std::uint32_t i) const { return memory.slots[i]; }
  __device__ void put(std::uint32_t i, std::uint32_t, std::uint32_t sum) const {
    memory.slots[i] = sum;
  }
};

}  // namespace
}  // namespace autopatch
