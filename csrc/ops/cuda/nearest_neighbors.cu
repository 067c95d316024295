#include "core/cuda.cuh"
#include "ops/nearest_neighbors.hpp"

namespace autopatch {
namespace {

constexpr int kTile = 64;   // queries of a block, and bank rows it takes at a time
constexpr int kDepth = 16;  // features held in shared memory at a time
constexpr int kSide = 16;   // threads a side; each computes kEach x kEach pairs
constexpr int kEach = kTile / kSide;

// Copies rows [first, first + kTile) of `matrix`, features [d0, d0 + kDepth), transposed. What lies
// outside the matrix becomes zero in both operands and adds nothing.
__device__ void stage(const float* matrix, std::int64_t rows, std::int64_t dim, std::int64_t first,
                      std::int64_t d0, float (*tile)[kTile + 1]) {
  for (int i = threadIdx.x; i < kTile * kDepth; i += kSide * kSide) {
    const int r = i / kDepth;
    const int d = i % kDepth;
    const bool inside = first + r < rows && d0 + d < dim;
    tile[d][r] = inside ? matrix[(first + r) * dim + d0 + d] : 0.0f;
  }
}

// Rows come in ascending order and a newcomer goes behind its equals: ties keep the lowest index.
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

__global__ void __launch_bounds__(kSide* kSide)
    nearest_kernel(const float* queries, std::int64_t num_queries, const float* bank,
                   std::int64_t num_rows, std::int64_t dim, std::int64_t k, float* distances,
                   std::int64_t* indices) {
  __shared__ float query_tile[kDepth][kTile + 1];
  __shared__ float bank_tile[kDepth][kTile + 1];
  __shared__ float distance_tile[kTile][kTile + 1];

  const std::int64_t first_query = static_cast<std::int64_t>(blockIdx.x) * kTile;
  const int row_group = static_cast<int>(threadIdx.x) % kSide;
  const int query_group = static_cast<int>(threadIdx.x) / kSide;
  const std::int64_t own_query = first_query + threadIdx.x;
  const bool keeps_list = threadIdx.x < kTile && own_query < num_queries;
  if (keeps_list) {
    for (std::int64_t i = 0; i < k; ++i) {
      distances[own_query * k + i] = __int_as_float(0x7f800000);  // +infinity
      indices[own_query * k + i] = -1;
    }
  }

  for (std::int64_t first_row = 0; first_row < num_rows; first_row += kTile) {
    float total[kEach][kEach] = {};
    for (std::int64_t d0 = 0; d0 < dim; d0 += kDepth) {
      // A sum of its own for every kDepth features: the rounding errors of one long sum of equal
      // terms add up beyond 1e-5 of it.
      float sum[kEach][kEach] = {};
      stage(queries, num_queries, dim, first_query, d0, query_tile);
      stage(bank, num_rows, dim, first_row, d0, bank_tile);
      __syncthreads();
      for (int d = 0; d < kDepth; ++d) {
        float q[kEach];
        float b[kEach];
        for (int i = 0; i < kEach; ++i) {
          q[i] = query_tile[d][query_group + i * kSide];
          b[i] = bank_tile[d][row_group + i * kSide];
        }
        for (int i = 0; i < kEach; ++i) {
          for (int j = 0; j < kEach; ++j) {
            const float difference = b[j] - q[i];
            sum[i][j] = fmaf(difference, difference, sum[i][j]);
          }
        }
      }
      for (int i = 0; i < kEach; ++i) {
        for (int j = 0; j < kEach; ++j) total[i][j] += sum[i][j];
      }
      __syncthreads();
    }
    for (int i = 0; i < kEach; ++i) {
      for (int j = 0; j < kEach; ++j) {
        distance_tile[query_group + i * kSide][row_group + j * kSide] = total[i][j];
      }
    }
    __syncthreads();
    if (keeps_list) {
      const std::int64_t left = num_rows - first_row;
      const int rows = static_cast<int>(left < kTile ? left : kTile);
      for (int r = 0; r < rows; ++r) {
        const float distance = distance_tile[threadIdx.x][r];
        if (distance < distances[own_query * k + k - 1]) {
          insert(distance, first_row + r, k, distances + own_query * k, indices + own_query * k);
        }
      }
    }
    __syncthreads();
  }
}

}  // namespace

void nearest_neighbors_cuda(const float* queries, std::int64_t num_queries, const float* bank,
                            std::int64_t num_rows, std::int64_t dim, std::int64_t k,
                            float* distances, std::int64_t* indices, std::uintptr_t stream) {
  if (num_queries == 0) return;
  const auto blocks = static_cast<unsigned>((num_queries + kTile - 1) / kTile);
  launch("nearest_neighbors", Grid::independent, nearest_kernel, blocks, kSide * kSide, 0,
         reinterpret_cast<cudaStream_t>(stream), queries, num_queries, bank, num_rows, dim, k,
         distances, indices);
}

}  // namespace autopatch
