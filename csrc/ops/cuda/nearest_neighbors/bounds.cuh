#pragma once

// Bounds of distances from rounded rows.

#include <cstdint>

#include "ops/cuda/group_maxima.hpp"
#include "ops/cuda/nearest_neighbors/distance.cuh"

namespace autopatch {
namespace {

struct Query {
  float square;  // squared norm, rounded
  float norm;    // upper bound of the norm
  float residual;
};

/// Bounds of the distances from a query to the rows of a group, times the scale.
struct Bounds {
  float lower;  // for every row
  float upper;  // for the nearest row
};

__host__ __device__ inline Bounds bounds_of(const Query& query, float maximum, float residual,
                                            float norm, std::int64_t depth) {
  constexpr float kRounding = 1e-6f;  // relative error of the few operations here and of the norms
  const float square = query.square - 2.0f * maximum;
  const float error =
      2.0f * accumulation_error(query.norm, norm, depth) + kRounding * (query.square + norm * norm);
  const float moved = (query.residual + residual) * (1.0f + kRounding);
  const float low = square - error;
  const float high = square + error;
  return {low > 0.0f ? sqrtf(low) * (1.0f - kRounding) - moved : -moved,
          high > 0.0f ? sqrtf(high) * (1.0f + kRounding) + moved : moved};
}

/// Returns a limit for lower bounds: a row whose lower bound exceeds it has a greater float32
/// distance than a row whose upper bound is `upper`. Each term of a sum is rounded at most
/// `roundings` times, each time by 2^-24 of the partial sum; underflow is added. The factor 4
/// covers both distances, and the operations here.
__host__ __device__ inline float limit_of(float upper, std::int64_t dim, float scale) {
  constexpr float kOfRounding = 6e-8f;
  constexpr float kLeastFloat = 1.4e-45f;
  // 8 more: the difference, its square, and the incomplete sums at the end.
  const auto roundings = static_cast<float>(dim / kPartLength + kSumLength + kSumsOfPart + 8);
  const float of_sums = 4.0f * kOfRounding * roundings;
  const float vanishing = 4.0f * static_cast<float>(dim) * kLeastFloat * scale * scale;
  return sqrtf(upper * upper * (1.0f + of_sums) + vanishing);
}

}  // namespace
}  // namespace autopatch
