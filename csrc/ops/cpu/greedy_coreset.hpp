#pragma once

#include <cstdint>

namespace autopatch {

/// Running sums of a squared distance; see `greedy_coreset_cpu`.
constexpr int kCoresetSums = 16;

/// Two rows whose distance is measured.
struct CoresetPair {
  std::int32_t row;
  std::int32_t pick;
};

/// Squared distances of `count` pairs of rows of features [num_rows, dim], with the order of
/// arithmetic of `greedy_coreset_cpu`.
using CoresetDistances = void (*)(const float* features, std::int64_t dim, const CoresetPair* pairs,
                                  std::int64_t count, float* distances);

void coreset_distances_generic(const float*, std::int64_t, const CoresetPair*, std::int64_t,
                               float*);
void coreset_distances_avx2(const float*, std::int64_t, const CoresetPair*, std::int64_t, float*);
void coreset_distances_avx512(const float*, std::int64_t, const CoresetPair*, std::int64_t, float*);

}  // namespace autopatch
