#include "ops/cpu/nearest_neighbors.hpp"

#include "ops/cpu/simd.hpp"

namespace {

// A panel holds this many bank rows, transposed: [dim][kPanel]. The kernel keeps the distances of
// kQueries x kPanel pairs in registers: 12 of 32 with AVX-512, 8 of 16 otherwise.
constexpr int kPanel = 2 * kLanes;
constexpr int kQueries = kLanes == 16 ? 6 : 4;
static_assert(kPanel <= autopatch::kNearestPanelRows, "the caller's workspace is too small");

// Features summed before the sum joins the total: in one long sum equal terms, and with them their
// rounding errors, add up beyond 1e-5 of it from about 1000 features on.
constexpr std::int64_t kChunk = 128;

void pack_panel(const float* rows, std::int64_t count, std::int64_t dim, float* panel) {
  for (int r = 0; r < kPanel; ++r) {
    // Past the end of the bank the last row stands in; its copies are never looked at.
    const float* row = rows + (r < count ? r : count - 1) * dim;
    for (std::int64_t d = 0; d < dim; ++d) panel[d * kPanel + r] = row[d];
  }
}

template <int kCount>
inline void squared_distances(const float* queries, std::int64_t dim, const float* panel,
                              float (*out)[kPanel]) {
  for (int q = 0; q < kCount; ++q) {
    store(out[q], Vector{});
    store(out[q] + kLanes, Vector{});
  }
  for (std::int64_t first = 0; first < dim; first += kChunk) {
    const std::int64_t last = dim - first < kChunk ? dim : first + kChunk;
    Vector sum[kCount][2] = {};
    for (std::int64_t d = first; d < last; ++d) {
      const Vector left = load(panel + d * kPanel);
      const Vector right = load(panel + d * kPanel + kLanes);
#pragma GCC unroll 8
      for (int q = 0; q < kCount; ++q) {
        const float x = queries[q * dim + d];
        const Vector dl = left - x;
        const Vector dr = right - x;
        sum[q][0] += dl * dl;
        sum[q][1] += dr * dr;
      }
    }
    for (int q = 0; q < kCount; ++q) {
      store(out[q], load(out[q]) + sum[q][0]);
      store(out[q] + kLanes, load(out[q] + kLanes) + sum[q][1]);
    }
  }
}

// Rows come in ascending order and a newcomer goes behind its equals: ties keep the lowest index.
inline void insert(float distance, std::int64_t index, std::int64_t k, float* distances,
                   std::int64_t* indices) {
  std::int64_t at = k - 1;
  for (; at > 0 && distance < distances[at - 1]; --at) {
    distances[at] = distances[at - 1];
    indices[at] = indices[at - 1];
  }
  distances[at] = distance;
  indices[at] = index;
}

template <int kCount>
void update(const float* queries, std::int64_t dim, const float* panel, std::int64_t first_row,
            std::int64_t rows, std::int64_t k, float* distances, std::int64_t* indices) {
  alignas(64) float tile[kCount][kPanel];
  squared_distances<kCount>(queries, dim, panel, tile);
  for (int q = 0; q < kCount; ++q) {
    float* best = distances + q * k;
    std::int64_t* where = indices + q * k;
    const Vector smaller = minimum(load(tile[q]), load(tile[q] + kLanes));
    float least = smaller[0];
    for (int lane = 1; lane < kLanes; ++lane) {
      least = smaller[lane] < least ? smaller[lane] : least;
    }
    if (!(least < best[k - 1])) continue;
    for (int r = 0; r < rows; ++r) {
      if (tile[q][r] < best[k - 1]) insert(tile[q][r], first_row + r, k, best, where);
    }
  }
}

}  // namespace

namespace autopatch {

void AUTOPATCH_ISA_SYMBOL(nearest_block)(const float* queries, std::int64_t num_queries,
                                         const float* bank, std::int64_t num_rows, std::int64_t dim,
                                         std::int64_t k, float* distances, std::int64_t* indices,
                                         float* panel) {
  for (std::int64_t first = 0; first < num_rows; first += kPanel) {
    const std::int64_t rows = num_rows - first < kPanel ? num_rows - first : kPanel;
    pack_panel(bank + first * dim, rows, dim, panel);
    std::int64_t q = 0;
    for (; q + kQueries <= num_queries; q += kQueries) {
      update<kQueries>(queries + q * dim, dim, panel, first, rows, k, distances + q * k,
                       indices + q * k);
    }
    for (; q < num_queries; ++q) {
      update<1>(queries + q * dim, dim, panel, first, rows, k, distances + q * k, indices + q * k);
    }
  }
}

}  // namespace autopatch
