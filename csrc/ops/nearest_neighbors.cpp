#include "ops/nearest_neighbors.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/isa.hpp"
#include "core/parallel.hpp"
#include "ops/cpu/nearest_neighbors.hpp"

namespace autopatch {
namespace {

// Queries a thread takes at a time: enough to make packing the bank cheap, few enough to stay in
// the second-level cache and to share out evenly.
constexpr std::int64_t kMaxBlock = 480;
constexpr std::int64_t kMinBlock = 24;

}  // namespace

void nearest_neighbors_cpu(const float* queries, std::int64_t num_queries, const float* bank,
                           std::int64_t num_rows, std::int64_t dim, std::int64_t k,
                           float* distances, std::int64_t* indices, int num_threads) {
  std::fill(distances, distances + num_queries * k, std::numeric_limits<float>::infinity());
  std::fill(indices, indices + num_queries * k, std::int64_t{-1});
  const NearestBlock block_kernel = AUTOPATCH_KERNEL(nearest_block);
  const std::int64_t share = (num_queries + num_threads - 1) / num_threads;
  const std::int64_t block = std::clamp(share, kMinBlock, kMaxBlock);
  parallel_for((num_queries + block - 1) / block, num_threads, [&](std::int64_t b) {
    std::vector<float> panel(static_cast<std::size_t>(nearest_panel_floats(dim)));
    const std::int64_t first = b * block;
    block_kernel(queries + first * dim, std::min(block, num_queries - first), bank, num_rows, dim,
                 k, distances + first * k, indices + first * k, panel.data());
  });
  for (std::int64_t q = 0; q < num_queries; ++q) {
    if (indices[q * k + k - 1] < 0) {
      throw std::invalid_argument(
          "row " + std::to_string(q) +
          " of `queries` has fewer than `k` finite squared distances to "
          "`bank`: it holds NaN, infinity or values beyond the range of float32");
    }
  }
}

}  // namespace autopatch
