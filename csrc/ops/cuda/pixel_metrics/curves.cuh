#pragma once

// Areas under the curves.

#include <cstddef>
#include <cstdint>

#include "ops/cuda/pixel_metrics/scan.cuh"
#include "ops/false_positives.hpp"
#include "ops/pixel_metrics.hpp"

namespace autopatch {
namespace {

/// Weight of a positive in rwAP: every type with a region gets the same total weight.
template <typename Key>
__device__ double weight_of(const Images& images, const Memory<Key>& memory, std::uint32_t root) {
  const std::int32_t type = images.types[root / images.size];
  if (type < 0 || type >= images.num_types) return 0;  // reported as an error elsewhere
  const double area = memory.areas[root];
  const double count = memory.regions_of_type[type];
  return memory.found->num_positives / (area * count * images.num_types);
}

template <typename Key>
struct Weights {
  Images images;
  Memory<Key> memory;

  __device__ std::uint32_t size() const { return memory.found->num_positives; }
  __device__ double value(std::uint32_t i) const {
    return weight_of(images, memory, memory.roots[0][i]);
  }
  __device__ void put(std::uint32_t i, double, double sum) const {
    const std::uint32_t key = memory.key_index[i];
    if (i + 1 == size() || memory.key_index[i + 1] != key) memory.weights[key] = sum;
  }
};

template <typename Key>
__global__ void __launch_bounds__(kThreads) curve_kernel(Images images, Memory<Key> memory) {
  const Found found = *memory.found;
  const double num_negatives = images.num_pixels - found.num_positives;
  const double limit = kMaxFalsePositiveRate * num_negatives;
  const double num_regions = found.num_regions;
  double sums[kSums] = {};
  const Part part(found.num_positives, kThreads);
  for (std::uint32_t i = part.begin + threadIdx.x; i < part.end; i += kThreads) {
    const std::uint32_t key = memory.key_index[i];
    const std::uint32_t root = memory.roots[0][i];
    const double true_positives =
        key + 1 < found.num_keys ? memory.starts[key + 1] : found.num_positives;
    const double untied = memory.slots[std::size_t{2} * key];
    const double false_positives = memory.slots[std::size_t{2} * key + 1];
    const double weight = memory.weights[key];
    const double to_limit = found_along(untied, false_positives, limit);
    sums[0] += weight_of(images, memory, root) * (weight / (weight + false_positives));
    sums[1] += true_positives / (true_positives + false_positives);
    sums[2] += found_along(untied, false_positives, num_negatives);
    sums[3] += to_limit;
    sums[4] += to_limit / (memory.areas[root] * num_regions);
  }
  auto* shared = shared_memory<double>();
  for (int j = 0; j < kSums; ++j) {
    double total;
    block_inclusive(sums[j], shared, total);
    if (threadIdx.x == 0) memory.sums[blockIdx.x * kSums + static_cast<unsigned>(j)] = total;
  }
}

__device__ inline double error_code(MetricsError error, std::uint32_t image) {
  return static_cast<double>(error) + static_cast<double>(kMetricsErrors) * image;
}

template <typename Key>
__global__ void __launch_bounds__(kThreads)
    finish_kernel(Images images, Memory<Key> memory, int blocks, double* out) {
  double sums[kSums] = {};
  for (int j = 0; j < kSums; ++j) {
    double sum = 0;
    for (int block = static_cast<int>(threadIdx.x); block < blocks; block += kThreads) {
      sum += memory.sums[block * kSums + j];
    }
    block_inclusive(sum, shared_memory<double>(), sums[j]);
  }
  if (threadIdx.x != 0) return;
  const Found found = *memory.found;
  const double nan = __longlong_as_double(0x7FF8000000000000);
  double error = 0;
  if (found.bad_type != 0) {
    error = error_code(MetricsError::type_out_of_range, 0);
  } else if (found.in_good_image != 0) {
    error = error_code(MetricsError::anomalous_pixel_in_good_image, ~found.in_good_image);
  } else if (found.num_positives == 0) {
    error = error_code(MetricsError::no_anomalous_pixel, 0);
  } else if (found.nan != 0) {
    error = error_code(MetricsError::nan_score, ~found.nan / images.size);
  }
  out[5] = error;
  if (error != 0) {
    for (int j = 0; j < 5; ++j) out[j] = nan;
    return;
  }
  const double num_positives = found.num_positives;
  const double num_negatives = images.num_pixels - found.num_positives;
  out[0] = sums[0] / memory.weights[found.num_keys - 1];
  out[1] = sums[1] / num_positives;
  if (num_negatives == 0) {
    out[2] = out[3] = out[4] = nan;
    return;
  }
  out[2] = sums[2] / (num_positives * num_negatives);
  out[3] = standardized(sums[3] / (num_positives * num_negatives));
  out[4] = sums[4] / (kMaxFalsePositiveRate * num_negatives);
}

}  // namespace
}  // namespace autopatch
