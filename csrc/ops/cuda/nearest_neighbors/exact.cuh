#pragma once

// The nearest rows of each query, from all distances.

#include <cstdint>

#include "core/cuda.cuh"
#include "ops/cuda/nearest_neighbors/distance.cuh"

namespace autopatch {
namespace {

constexpr int kTile = 64;  // queries per block, and bank rows processed at a time
constexpr int kSide = 16;  // threads per side; each computes kEach x kEach pairs
constexpr int kEach = kTile / kSide;

// Rows are inserted in ascending order, each after its equals, so ties keep the lowest index.
__device__ void insert(float distance, std::int64_t index, std::int64_t k, float* distances,
                       std::int64_t* indices) {
  std::int64_t at = k - 1;
  for (; at > 0 && distance < distances[at - 1]; --at) {
    distances[at] = distances[at - 1];
    indices[at] = indices[at - 1];
  }
  distances[at] = distance;
  indices[at] = index;
}

/// The queries to process: all of [0, count), or the `*length` queries in `list`.
struct Selection {
  const int* list;
  const int* length;
  std::int64_t count;
};

__global__ void __launch_bounds__(kSide* kSide, 3)
    exact_kernel(const float* queries, Selection selection, const float* bank,
                 std::int64_t num_rows, std::int64_t dim, std::int64_t k, float* distances,
                 std::int64_t* indices) {
  __shared__ float query_tile[kSumLength][kTile + 1];
  __shared__ float bank_tile[kSumLength][kTile + 1];
  __shared__ float distance_tile[kTile][kTile + 1];
  __shared__ std::int64_t numbers[kTile];  // of the queries; -1 after the last

  const std::int64_t count = selection.list == nullptr ? selection.count : *selection.length;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kTile;
  if (first >= count) return;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kTile) {
    const std::int64_t at = first + thread;
    numbers[thread] = at >= count ? -1 : selection.list == nullptr ? at : selection.list[at];
  }
  __syncthreads();
  const int row_group = thread % kSide;
  const int query_group = thread / kSide;
  const std::int64_t own_query = thread < kTile ? numbers[thread] : -1;
  float* own_distances = distances + own_query * k;
  std::int64_t* own_indices = indices + own_query * k;
  if (own_query >= 0) {
    for (std::int64_t i = 0; i < k; ++i) {
      own_distances[i] = infinity();
      own_indices[i] = -1;
    }
  }

  for (std::int64_t first_row = 0; first_row < num_rows; first_row += kTile) {
    // Totals are kept in the tile of distances, each written by the thread of its pair.
    std::int64_t part = 0;
    do {
      const std::int64_t end = part + kPartLength < dim ? part + kPartLength : dim;
      float of_part[kEach][kEach] = {};
      for (std::int64_t d0 = part; d0 < end; d0 += kSumLength) {
        // Values outside are zero on both sides and add nothing.
        for (int i = thread; i < kTile * kSumLength; i += kSide * kSide) {
          const int r = i / kSumLength;
          const int d = i % kSumLength;
          const bool has_feature = d0 + d < dim;
          query_tile[d][r] =
              has_feature && numbers[r] >= 0 ? queries[numbers[r] * dim + d0 + d] : 0.0f;
          bank_tile[d][r] =
              has_feature && first_row + r < num_rows ? bank[(first_row + r) * dim + d0 + d] : 0.0f;
        }
        __syncthreads();
        float sum[kEach][kEach] = {};
        for (int d = 0; d < kSumLength; ++d) {
          float q[kEach];
          float b[kEach];
          for (int i = 0; i < kEach; ++i) {
            q[i] = query_tile[d][query_group + i * kSide];
            b[i] = bank_tile[d][row_group + i * kSide];
          }
          for (int i = 0; i < kEach; ++i) {
            for (int j = 0; j < kEach; ++j) {
              const float difference = b[j] - q[i];
              sum[i][j] = __fmaf_rn(difference, difference, sum[i][j]);
            }
          }
        }
        for (int i = 0; i < kEach; ++i) {
          for (int j = 0; j < kEach; ++j) of_part[i][j] = __fadd_rn(of_part[i][j], sum[i][j]);
        }
        __syncthreads();
      }
      for (int i = 0; i < kEach; ++i) {
        for (int j = 0; j < kEach; ++j) {
          float& total = distance_tile[query_group + i * kSide][row_group + j * kSide];
          total = part == 0 ? of_part[i][j] : __fadd_rn(total, of_part[i][j]);
        }
      }
      part += kPartLength;
    } while (part < dim);
    __syncthreads();
    if (own_query >= 0) {
      const std::int64_t left = num_rows - first_row;
      const int rows = static_cast<int>(left < kTile ? left : kTile);
      for (int r = 0; r < rows; ++r) {
        const float distance = distance_tile[thread][r];
        if (distance < own_distances[k - 1]) {
          insert(distance, first_row + r, k, own_distances, own_indices);
        }
      }
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace autopatch
