#pragma once

#include <cstdint>

namespace autopatch {

/// One block of queries against the whole bank, on the calling thread. `distances` and `indices`
/// must hold +infinity and -1 on entry. `panel` is workspace of `nearest_panel_floats(dim)` floats.
using NearestBlock = void (*)(const float* queries, std::int64_t num_queries, const float* bank,
                              std::int64_t num_rows, std::int64_t dim, std::int64_t k,
                              float* distances, std::int64_t* indices, float* panel);

/// Rows of the bank that a level may take at a time, at most.
constexpr std::int64_t kNearestPanelRows = 32;

constexpr std::int64_t nearest_panel_floats(std::int64_t dim) { return kNearestPanelRows * dim; }

void nearest_block_generic(const float*, std::int64_t, const float*, std::int64_t, std::int64_t,
                           std::int64_t, float*, std::int64_t*, float*);
void nearest_block_avx2(const float*, std::int64_t, const float*, std::int64_t, std::int64_t,
                        std::int64_t, float*, std::int64_t*, float*);
void nearest_block_avx512(const float*, std::int64_t, const float*, std::int64_t, std::int64_t,
                          std::int64_t, float*, std::int64_t*, float*);

}  // namespace autopatch
