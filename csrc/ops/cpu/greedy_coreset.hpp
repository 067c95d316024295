#pragma once

#include <cstdint>

namespace autopatch {

/// Running sums of a squared distance; see `greedy_coreset_cpu`.
constexpr int kCoresetSums = 16;

struct CoresetRows {
  const float* features;  // [num_rows, dim]
  std::int64_t dim;
  const float* tails;  // [num_rows, 16]: the last dim % 16 features of each row, then zeros
};

/// Lowers `nearest[i]`, for each of `num_points` consecutive rows, to the smallest squared distance
/// to rows `centers[0 .. num_centers)` where that is smaller. The order of arithmetic is that of
/// `greedy_coreset_cpu`; a pair of zeros in the tails adds nothing to a sum.
using CoresetUpdate = void (*)(const CoresetRows& rows, std::int64_t first_point,
                               std::int64_t num_points, const std::int64_t* centers,
                               std::int64_t num_centers, float* nearest);

void coreset_update_generic(const CoresetRows&, std::int64_t, std::int64_t, const std::int64_t*,
                            std::int64_t, float*);
void coreset_update_avx2(const CoresetRows&, std::int64_t, std::int64_t, const std::int64_t*,
                         std::int64_t, float*);
void coreset_update_avx512(const CoresetRows&, std::int64_t, std::int64_t, const std::int64_t*,
                           std::int64_t, float*);

}  // namespace autopatch
