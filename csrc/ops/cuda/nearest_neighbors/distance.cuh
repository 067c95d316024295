#pragma once

// Exact distances, and lists of the nearest rows.

#include <cmath>
#include <cstdint>

#include "core/cuda.cuh"

namespace autopatch {
namespace {

// Running sums of 16 features, sums of 16 of those, and a total. Rounding errors grow with the
// length of a sum; one long sum could lose more than 1e-5.
constexpr int kSumLength = 16;
constexpr int kSumsOfPart = 16;
constexpr std::int64_t kPartLength = kSumLength * kSumsOfPart;

__host__ __device__ inline float infinity() { return INFINITY; }

/// Squared distance of two rows, computed by a warp in the order of arithmetic that all paths
/// share: each lane has a running sum of 16 features; the sums of a part are added in turn, then
/// the parts.
__device__ inline float squared_distance(const float* query, const float* row, std::int64_t dim) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  float total = 0.0f;
  for (std::int64_t first = 0; first < dim; first += kWarp * kSumLength) {
    const std::int64_t begin = first + lane * kSumLength;
    const std::int64_t end = begin + kSumLength < dim ? begin + kSumLength : dim;
    float sum = 0.0f;
    if (end - begin == kSumLength) {
#pragma unroll
      for (int i = 0; i < kSumLength; ++i) {
        const float difference = row[begin + i] - query[begin + i];
        sum = __fmaf_rn(difference, difference, sum);
      }
    } else {
      for (std::int64_t d = begin; d < end; ++d) {
        const float difference = row[d] - query[d];
        sum = __fmaf_rn(difference, difference, sum);
      }
    }
    const std::int64_t sums = (dim - first + kSumLength - 1) / kSumLength;
    for (int part = 0; part < kWarp && part < sums; part += kSumsOfPart) {
      float of_part = 0.0f;
      for (int i = part; i < part + kSumsOfPart && i < sums; ++i) {
        of_part = __fadd_rn(of_part, __shfl_sync(kAllLanes, sum, i));
      }
      total = __fadd_rn(total, of_part);
    }
  }
  return total;
}

/// Whether a row comes before another one: it is nearer, or equally near with a lower index.
__host__ __device__ inline bool before(float distance, int row, float other_distance,
                                       int other_row) {
  return distance < other_distance || (distance == other_distance && row < other_row);
}

/// The k nearest rows so far in ascending order, one per lane.
struct Nearest {
  float distance;
  int row;

  /// Merges in the rows of all lanes that have one. All lanes must call it.
  __device__ void merge(float candidate, int candidate_row, bool has_one, int k) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    for (;;) {
      const float last = __shfl_sync(kAllLanes, distance, k - 1);
      const int last_row = __shfl_sync(kAllLanes, row, k - 1);
      has_one = has_one && before(candidate, candidate_row, last, last_row);
      const unsigned left = __ballot_sync(kAllLanes, has_one);
      if (left == 0) return;
      const int source = __ffs(static_cast<int>(left)) - 1;
      const float coming = __shfl_sync(kAllLanes, candidate, source);
      const int coming_row = __shfl_sync(kAllLanes, candidate_row, source);
      if (lane == source) has_one = false;
      const bool stays = before(distance, row, coming, coming_row);
      const float previous = __shfl_up_sync(kAllLanes, distance, 1);
      const int previous_row = __shfl_up_sync(kAllLanes, row, 1);
      const unsigned staying = __ballot_sync(kAllLanes, stays);
      const int place = __popc(staying);
      if (lane == place) {
        distance = coming;
        row = coming_row;
      } else if (lane > place) {
        distance = previous;
        row = previous_row;
      }
    }
  }
};

}  // namespace
}  // namespace autopatch
