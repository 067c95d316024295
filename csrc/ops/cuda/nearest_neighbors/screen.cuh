#pragma once

// The float16 approximation of a bank, and the rounding of rows.

#include <cuda_fp16.h>

#include <cstdint>

#include "core/cuda.cuh"
#include "ops/cuda/group_maxima.hpp"

namespace autopatch {
namespace {

struct Screen {
  std::int64_t num_rows;
  std::int64_t padded_rows;
  std::int64_t dim;
  std::int64_t depth;
  float* scale;       // [1]
  float* center;      // [dim]
  int* order;         // [padded_rows] row of the bank, or -1
  float* half_norms;  // [padded_rows] half the squared norm of the rounded row
  float* residuals;   // [groups] largest distance by which rounding moves a row
  float* norms;       // [groups] largest norm of the rounded rows
  __half* rows;       // [padded_rows, depth]

  __host__ __device__ std::int64_t groups() const { return padded_rows / kGroup; }
};

/// A chunk of queries and its intermediate results.
struct Chunk {
  const float* queries;
  std::int64_t num_queries;
  std::int64_t padded_queries;
  __half* rows;      // [padded_queries, depth]
  float* squares;    // [padded_queries] squared norm of the rounded query
  float* residuals;  // [padded_queries]
  float* maxima;     // [groups, padded_queries]
  int* unscreened;   // [padded_queries] queries left to `exact_kernel`
  int* num_unscreened;
};

struct Rounded {
  float residual;
  float square;
};

/// Rounds a row with one warp. A row out of the range of float16 becomes zero with an infinite
/// residual.
__device__ Rounded round_row(const float* row, const float* center, float scale, std::int64_t dim,
                             std::int64_t depth, __half* rounded) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr float kLargest = 65504.0f;
  float rest = 0.0f;
  float size = 0.0f;
  double square = 0.0;
  bool holds = true;
  for (std::int64_t d = lane; d < depth; d += kWarp) {
    const float value = d < dim ? (row[d] - center[d]) * scale : 0.0f;
    const bool fits = fabsf(value) <= kLargest;
    const __half half = __float2half_rn(fits ? value : 0.0f);
    const float back = __half2float(half);
    holds = holds && fits;
    rest += (value - back) * (value - back);
    size += value * value;
    square += static_cast<double>(back) * static_cast<double>(back);
    rounded[d] = half;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    rest += __shfl_xor_sync(kAllLanes, rest, step);
    size += __shfl_xor_sync(kAllLanes, size, step);
    square += __shfl_xor_sync(kAllLanes, square, step);
  }
  holds = __all_sync(kAllLanes, holds) != 0;
  if (!holds) {  // also if NaN or infinite
    for (std::int64_t d = lane; d < depth; d += kWarp) rounded[d] = __float2half_rn(0.0f);
    return {infinity(), 0.0f};
  }
  // Centering and scaling round each value by 2^-23 of it. Sums lose less than a thousandth.
  constexpr float kOfValue = 2.4e-7f;
  const float residual = 1.001f * (sqrtf(rest) + kOfValue * sqrtf(size)) + 1e-30f;
  return {residual, static_cast<float>(square)};
}

constexpr int kEncodeThreads = 256;

/// Each block rounds one group of the bank.
__global__ void __launch_bounds__(kEncodeThreads)
    encode_bank_kernel(const float* bank, Screen screen) {
  __shared__ float residuals[kGroup];
  __shared__ float squares[kGroup];
  const std::int64_t group = blockIdx.x;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int i = warp; i < kGroup; i += kEncodeThreads / kWarp) {
    const std::int64_t at = group * kGroup + i;
    const int row = screen.order[at];
    __half* rounded = screen.rows + at * screen.depth;
    Rounded found{0.0f, 0.0f};
    if (row < 0) {
      for (std::int64_t d = lane; d < screen.depth; d += kWarp) rounded[d] = __float2half_rn(0.0f);
    } else {
      found = round_row(bank + row * screen.dim, screen.center, *screen.scale, screen.dim,
                        screen.depth, rounded);
    }
    if (lane == 0) {
      constexpr float kNever = 3e38f;
      screen.half_norms[at] = row < 0 ? kNever : 0.5f * found.square;
      residuals[i] = found.residual;
      squares[i] = found.square;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    float residual = 0.0f;
    float square = 0.0f;
    for (int i = 0; i < kGroup; ++i) {
      residual = fmaxf(residual, residuals[i]);
      square = fmaxf(square, squares[i]);
    }
    screen.residuals[group] = residual;
    screen.norms[group] = 1.00001f * sqrtf(square);
  }
}

__global__ void __launch_bounds__(kEncodeThreads)
    encode_queries_kernel(Screen screen, Chunk chunk) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t query = static_cast<std::int64_t>(blockIdx.x) * (kEncodeThreads / kWarp) +
                             static_cast<int>(threadIdx.x) / kWarp;
  if (query >= chunk.padded_queries) return;
  __half* rounded = chunk.rows + query * screen.depth;
  Rounded found{0.0f, 0.0f};
  if (query < chunk.num_queries) {
    found = round_row(chunk.queries + query * screen.dim, screen.center, *screen.scale, screen.dim,
                      screen.depth, rounded);
  } else {
    for (std::int64_t d = lane; d < screen.depth; d += kWarp) rounded[d] = __float2half_rn(0.0f);
  }
  if (lane == 0) {
    chunk.squares[query] = found.square;
    chunk.residuals[query] = found.residual;
  }
}

}  // namespace
}  // namespace autopatch
