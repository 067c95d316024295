#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace autopatch {

constexpr std::int64_t kGroup = 64;           // rows of a bank whose maximum is kept
constexpr std::int64_t kQueriesOfTile = 128;  // of group_maxima; numbers of queries are multiples
constexpr std::int64_t kRowsOfTile = 256;     // and numbers of rows,
constexpr std::int64_t kDepthOfTile = 64;     // and of features

/// How near each query is to the nearest row of each group: with q.r in float32 of float16 values,
///
///     maxima[g][q] = max over the rows r of group g of (q.r - half_norms[r]).
///
/// queries [num_queries, depth] and bank [num_rows, depth], row-major; maxima [num_rows / 64,
/// num_queries]. All sizes are multiples of those above. See `GroupBound` for the error.
struct GroupMaxima {
  const __half* queries;
  const __half* bank;
  const float* half_norms;
  std::int64_t num_queries;
  std::int64_t num_rows;
  std::int64_t depth;
  float* maxima;
};

/// On tensor cores, by the faster of the two below.
void group_maxima(const GroupMaxima& work, cudaStream_t stream);

/// With mma.sync.
void group_maxima_mma(const GroupMaxima& work, cudaStream_t stream);

/// With wgmma, where `has_wgmma()`: on Hopper, if it was compiled for sm_90a.
void group_maxima_wgmma(const GroupMaxima& work, cudaStream_t stream);

/// The number of segments to split a bank's tiles into, one for each block of a query tile, so that
/// the last wave of blocks is nearly full.
int segments_of(std::int64_t query_tiles, std::int64_t bank_tiles, std::int64_t processors);

/// Bound of the error of a maximum by accumulation, for a query of norm `query` and rows of norm at
/// most `row`. Tensor cores add the 16 products of a step and what was before in one go, with terms
/// aligned to the largest and cut to no fewer than 24 bits (Fasi et al., "Numerical behavior of
/// NVIDIA tensor cores", PeerJ Computer Science 2021): less than 18 times 2^-23 of the largest,
/// which the norms bound. 2^-18 is taken for each step.
__host__ __device__ inline float accumulation_error(float query, float row, std::int64_t depth) {
  constexpr float kOfStep = 3.814697265625e-06f;
  const auto steps = static_cast<float>(depth / 16 + 1);
  return steps * kOfStep * (query * row + row * row);
}

}  // namespace autopatch
