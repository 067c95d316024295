#pragma once

#include <cstdint>

namespace autopatch {

/// k nearest rows of `bank` for every row of `queries` by squared Euclidean distance.
///
/// All arrays are contiguous and row-major: queries [num_queries, dim], bank [num_rows, dim],
/// distances and indices [num_queries, k], 1 <= k <= num_rows. `screen` is the bank's, as
/// `build_screen` made it, or null to compute every distance. Distances are sums of squared
/// differences in float32, ascending; equal distances are ordered by row index. The sum of a pair
/// does not depend on where the pair stands, so identical rows have identical distances. Throws
/// std::invalid_argument where a query has fewer than k finite distances.
void nearest_neighbors_cpu(const float* queries, std::int64_t num_queries, const float* bank,
                           std::int64_t num_rows, std::int64_t dim, const void* screen,
                           std::int64_t k, float* distances, std::int64_t* indices,
                           int num_threads);

/// The same on a CUDA device without a screen, queued on `stream`; indices of queries with fewer
/// than k finite distances are -1.
void nearest_neighbors_cuda(const float* queries, std::int64_t num_queries, const float* bank,
                            std::int64_t num_rows, std::int64_t dim, std::int64_t k,
                            float* distances, std::int64_t* indices, std::uintptr_t stream);

}  // namespace autopatch
