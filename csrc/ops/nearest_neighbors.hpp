#pragma once

#include <cstdint>

namespace autopatch {

/// What a screened search did for all of its queries together.
struct SearchCounts {
  std::int64_t distances;  // distances computed in full
  std::int64_t visits;     // pairs of a query and a panel or cluster with at least one of them
};

/// k nearest rows of `bank` for every row of `queries` by squared Euclidean distance.
///
/// All arrays are contiguous and row-major: queries [num_queries, dim], bank [num_rows, dim],
/// distances and indices [num_queries, k], 1 <= k <= num_rows. `screen` is the bank's screen from
/// `build_screen`, or null to compute every distance. Distances are sums of squared differences in
/// float32, ascending; equal distances are ordered by row index. The sum of a pair does not depend
/// on its position, so identical rows have identical distances. What a screened search did is added
/// to `counts` unless it is null. Throws std::invalid_argument if a query has fewer than k finite
/// distances.
void nearest_neighbors_cpu(const float* queries, std::int64_t num_queries, const float* bank,
                           std::int64_t num_rows, std::int64_t dim, const void* screen,
                           std::int64_t k, float* distances, std::int64_t* indices,
                           SearchCounts* counts, int num_threads);

/// Maximum number of neighbors in a screened search on a CUDA device: one for each lane of a warp.
constexpr std::int64_t kMaxScreenedNeighbors = 32;

/// The same on a CUDA device, queued on `stream`; indices of queries with fewer than k finite
/// distances are -1. `screen` is the bank's screen from `build_screen_cuda`, or null to compute
/// every distance; it is not used for k > kMaxScreenedNeighbors. A screen requires a `workspace`.
void nearest_neighbors_cuda(const float* queries, std::int64_t num_queries, const float* bank,
                            std::int64_t num_rows, std::int64_t dim, const void* screen,
                            void* workspace, std::int64_t k, float* distances,
                            std::int64_t* indices, std::uintptr_t stream);

/// Bytes of the workspace of a screened search.
std::int64_t nearest_neighbors_cuda_workspace(std::int64_t num_queries, std::int64_t num_rows,
                                              std::int64_t dim);

/// Builds a float16 approximation of a bank that rules out rows that cannot be near a query; see
/// ops/cuda/nearest_neighbors.cu. `center` [dim], `scale` [1] and `order` [num_rows] are on the
/// device and affect only the speed. `order` is a permutation of all rows, with rows of similar
/// norm side by side.
void build_screen_cuda(const float* bank, std::int64_t num_rows, std::int64_t dim,
                       const std::int64_t* order, const float* center, const float* scale,
                       void* screen, std::uintptr_t stream);

std::int64_t screen_bytes_cuda(std::int64_t num_rows, std::int64_t dim);

enum class GroupMaximaMethod { mma, wgmma };

/// Runs one of the screening kernels, see ops/cuda/group_maxima.hpp. Arrays are float16.
void group_maxima_cuda(const void* queries, const void* bank, const float* half_norms,
                       std::int64_t num_queries, std::int64_t num_rows, std::int64_t depth,
                       GroupMaximaMethod method, float* maxima, std::uintptr_t stream);

bool has_wgmma();

}  // namespace autopatch
