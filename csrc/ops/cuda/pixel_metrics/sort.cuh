#pragma once

// Radix sort of the positives by key.

#include <cstddef>
#include <cstdint>
#include <utility>

#include "ops/cuda/pixel_metrics/scan.cuh"

namespace autopatch {
namespace {

constexpr std::uint32_t kSortTile = kThreads * kRounds;

template <typename Key>
__device__ int digit_of(Key key, int shift) {
  return static_cast<int>(key >> shift & (kDigits - 1));
}

template <typename Key>
__global__ void __launch_bounds__(kThreads)
    digit_kernel(const Key* keys, const Found* found, int shift, std::uint32_t* digits) {
  auto* counts = shared_memory<std::uint32_t>();
  counts[threadIdx.x] = 0;
  __syncthreads();
  const Part part(found->num_positives, kSortTile);
  for (std::uint32_t i = part.begin + threadIdx.x; i < part.end; i += kThreads) {
    atomicAdd(&counts[digit_of(keys[i], shift)], 1u);
  }
  __syncthreads();
  digits[threadIdx.x * gridDim.x + blockIdx.x] = counts[threadIdx.x];
}

/// One warp per digit: replaces its counts per block by the counts of all blocks before.
__global__ void __launch_bounds__(kThreads)
    digit_offset_kernel(std::uint32_t* digits, std::uint32_t* totals, int blocks) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int digit = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  std::uint32_t* counts = digits + digit * blocks;
  std::uint32_t before = 0;
  for (int base = 0; base < blocks; base += kWarp) {
    const int block = base + lane;
    const std::uint32_t count = block < blocks ? counts[block] : 0;
    const std::uint32_t inclusive = warp_inclusive(count);
    if (block < blocks) counts[block] = before + inclusive - count;
    before += __shfl_sync(kAllLanes, inclusive, kWarp - 1);
  }
  if (lane == 0) totals[digit] = before;
}

/// Sorts items by one digit; equal items keep their order.
template <typename Key>
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(const Key* keys, const std::uint32_t* roots, Key* sorted_keys,
                   std::uint32_t* sorted_roots, const Found* found, int shift,
                   const std::uint32_t* digits, const std::uint32_t* totals) {
  auto* next = shared_memory<std::uint32_t>();         // [kDigits]
  std::uint32_t* places = next + kDigits;              // [kWarps][kDigits]
  std::uint32_t* scratch = places + kWarps * kDigits;  // [kWarps]
  const auto thread = static_cast<int>(threadIdx.x);
  const int warp = thread / kWarp;
  const int lane = thread % kWarp;
  std::uint32_t* counts = places + warp * kDigits;

  const std::uint32_t own = totals[thread];
  std::uint32_t total;
  next[thread] =
      block_inclusive(own, scratch, total) - own + digits[threadIdx.x * gridDim.x + blockIdx.x];
  const Part part(found->num_positives, kSortTile);
  for (std::uint32_t base = part.begin; base < part.end; base += kSortTile) {
    for (int i = thread; i < kWarps * kDigits; i += kThreads) places[i] = 0;
    __syncthreads();
    const std::uint32_t first = base + static_cast<std::uint32_t>(warp * kRounds * kWarp + lane);
    Key own_keys[kRounds];
    std::uint32_t ranks[kRounds];
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const std::uint32_t i = first + static_cast<std::uint32_t>(round * kWarp);
      own_keys[round] = i < part.end ? keys[i] : Key{0};
    }
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const bool present = first + static_cast<std::uint32_t>(round * kWarp) < part.end;
      const int digit = present ? digit_of(own_keys[round], shift) : kDigits;
      const unsigned same = __match_any_sync(kAllLanes, digit);
      const std::uint32_t before = present ? counts[digit] : 0;
      ranks[round] = before + static_cast<std::uint32_t>(__popc(same & ((1u << lane) - 1)));
      __syncwarp();
      if (present && (same >> lane) == 1) counts[digit] = ranks[round] + 1;
      __syncwarp();
    }
    __syncthreads();
    std::uint32_t place = next[thread];
    for (int other = 0; other < kWarps; ++other) {
      const std::uint32_t count = places[other * kDigits + thread];
      places[other * kDigits + thread] = place;
      place += count;
    }
    next[thread] = place;
    __syncthreads();
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const std::uint32_t i = first + static_cast<std::uint32_t>(round * kWarp);
      if (i >= part.end) continue;
      const std::uint32_t to = counts[digit_of(own_keys[round], shift)] + ranks[round];
      sorted_keys[to] = own_keys[round];
      sorted_roots[to] = roots[i];
    }
    __syncthreads();
  }
}

/// Sorts keys and roots. The first buffer of each pair then holds the sorted items.
template <typename Key>
void sort(Memory<Key>& memory, int key_bits, int blocks, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(blocks);
  for (int shift = 0; shift < key_bits; shift += kDigitBits) {
    launch(kName, Grid::independent, digit_kernel<Key>, grid, kThreads,
           kDigits * sizeof(std::uint32_t), stream, memory.keys[0], memory.found, shift,
           memory.digits);
    launch(kName, Grid::independent, digit_offset_kernel, kDigits / kWarps, kThreads, 0, stream,
           memory.digits, memory.totals, blocks);
    launch(kName, Grid::independent, scatter_kernel<Key>, grid, kThreads,
           (kDigits + kWarps * kDigits + kWarps) * sizeof(std::uint32_t), stream, memory.keys[0],
           memory.roots[0], memory.keys[1], memory.roots[1], memory.found, shift, memory.digits,
           memory.totals);
    std::swap(memory.keys[0], memory.keys[1]);
    std::swap(memory.roots[0], memory.roots[1]);
  }
  // The second buffer of each pair is no longer needed.
  memory.distinct = memory.keys[1];
  memory.starts = memory.roots[1];
}

}  // namespace
}  // namespace autopatch
