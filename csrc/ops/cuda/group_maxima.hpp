#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace autopatch {

constexpr std::int64_t kGroup = 64;           // rows of a bank that share one maximum
constexpr std::int64_t kQueriesOfTile = 128;  // the number of queries is a multiple of this
constexpr std::int64_t kRowsOfTile = 256;     // the number of rows is a multiple of this
constexpr std::int64_t kDepthOfTile = 64;     // the number of features is a multiple of this

/// Computes how near each query is to the nearest row of each group, with float32 products q.r of
/// float16 values:
///
///     maxima[g][q] = max over the rows r of group g of (q.r - half_norms[r]).
///
/// queries [num_queries, depth] and bank [num_rows, depth], row-major; maxima [num_rows / 64,
/// num_queries]. All sizes are multiples of the constants above. See `accumulation_error` for the
/// error.
struct GroupMaxima {
  const __half* queries;
  const __half* bank;
  const float* half_norms;
  std::int64_t num_queries;
  std::int64_t num_rows;
  std::int64_t depth;
  float* maxima;
};

/// Uses tensor cores, with the faster of the two kernels below.
void group_maxima(const GroupMaxima& work, cudaStream_t stream);

/// With mma.sync.
void group_maxima_mma(const GroupMaxima& work, cudaStream_t stream);

/// With wgmma. Requires `has_wgmma()`: a Hopper GPU and a build for sm_90a.
void group_maxima_wgmma(const GroupMaxima& work, cudaStream_t stream);

/// Number of segments into which a bank's tiles are split, one for each block of a query tile, so
/// that the last wave of blocks is nearly full.
int segments_of(std::int64_t query_tiles, std::int64_t bank_tiles, std::int64_t processors);

/// Bound of the accumulation error of a maximum, for a query of norm `query` and rows of norm at
/// most `row`. In each step, tensor cores add 16 products to the sum so far at once, with terms
/// aligned to the largest and truncated to at least 24 bits (Fasi et al., "Numerical behavior of
/// NVIDIA tensor cores", PeerJ Computer Science 2021). The error of a step is less than 18 times
/// 2^-23 of the largest term, which the norms bound. The bound uses 2^-18 per step.
__host__ __device__ inline float accumulation_error(float query, float row, std::int64_t depth) {
  constexpr float kOfStep = 3.814697265625e-06f;
  const auto steps = static_cast<float>(depth / 16 + 1);
  return steps * kOfStep * (query * row + row * row);
}

}  // namespace autopatch
