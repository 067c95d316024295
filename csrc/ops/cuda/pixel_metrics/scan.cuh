#pragma once

// Prefix sums of items.

#include <cstddef>
#include <cstdint>

#include "core/cuda.cuh"
#include "ops/cuda/pixel_metrics/memory.cuh"

namespace autopatch {
namespace {

template <typename T>
__device__ T warp_inclusive(T value) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int step = 1; step < kWarp; step *= 2) {
    const T other = __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(step));
    if (lane >= step) value += other;
  }
  return value;
}

/// Returns the sum of the values of this thread and all threads before it; `total` receives the sum
/// of all. `shared` has one entry per warp.
template <typename T>
__device__ T block_inclusive(T value, T* shared, T& total) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  value = warp_inclusive(value);
  __syncthreads();  // until all threads have read `shared`
  if (threadIdx.x % kWarp == kWarp - 1) shared[warp] = value;
  __syncthreads();
  T before = 0;
  total = 0;
  for (int other = 0; other < kWarps; ++other) {
    if (other == warp) before = total;
    total += shared[other];
  }
  return before + value;
}

/// Items [begin, end) of this block; whole tiles, except at the end of the items.
struct Part {
  std::uint32_t begin;
  std::uint32_t end;

  __device__ Part(std::uint32_t count, std::uint32_t tile) {
    const std::uint32_t tiles = count / tile + (count % tile != 0);
    const std::uint64_t each = (tiles + gridDim.x - 1) / gridDim.x * std::uint64_t{tile};
    const std::uint64_t first = blockIdx.x * each;
    begin = static_cast<std::uint32_t>(first < count ? first : count);
    end = static_cast<std::uint32_t>(first + each < count ? first + each : count);
  }
};

// A scan takes three kernels. `items` has size(), value(i), and put(i, value, sum), which receives
// the sum up to and including item i.

template <typename Items, typename T>
__global__ void __launch_bounds__(kThreads) sum_kernel(Items items, T* sums) {
  const Part part(items.size(), kThreads);
  T sum = 0;
  for (std::uint32_t i = part.begin + threadIdx.x; i < part.end; i += kThreads) {
    sum += items.value(i);
  }
  T total;
  block_inclusive(sum, shared_memory<T>(), total);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

/// Replaces the sum of each block by the sum of all blocks before it.
template <typename T>
__global__ void __launch_bounds__(kThreads) offset_kernel(T* sums, int blocks, T* total_of_all) {
  T before = 0;
  for (int base = 0; base < blocks; base += kThreads) {
    const int block = base + static_cast<int>(threadIdx.x);
    const T sum = block < blocks ? sums[block] : T{0};
    T total;
    const T inclusive = block_inclusive(sum, shared_memory<T>(), total);
    if (block < blocks) sums[block] = before + (inclusive - sum);
    before += total;
  }
  if (threadIdx.x == 0 && total_of_all != nullptr) *total_of_all = before;
}

template <typename Items, typename T>
__global__ void __launch_bounds__(kThreads) put_kernel(Items items, const T* offsets) {
  const Part part(items.size(), kThreads);
  T before = offsets[blockIdx.x];
  for (std::uint32_t base = part.begin; base < part.end; base += kThreads) {
    const std::uint32_t i = base + threadIdx.x;
    const T value = i < part.end ? items.value(i) : T{0};
    T total;
    const T inclusive = block_inclusive(value, shared_memory<T>(), total);
    if (i < part.end) items.put(i, value, before + inclusive);
    before += total;
  }
}

template <typename Items, typename T>
void scan(const Items& items, T* sums, T* total, int blocks, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(blocks);
  constexpr std::size_t kShared = kWarps * sizeof(T);
  launch(kName, Grid::independent, sum_kernel<Items, T>, grid, kThreads, kShared, stream, items,
         sums);
  launch(kName, Grid::independent, offset_kernel<T>, 1, kThreads, kShared, stream, sums, blocks,
         total);
  launch(kName, Grid::independent, put_kernel<Items, T>, grid, kThreads, kShared, stream, items,
         sums);
}

}  // namespace
}  // namespace autopatch
