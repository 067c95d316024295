// Screened search. Bank and queries are centered, scaled and rounded to float16. Tensor cores
// compute how near each query is to each group of 64 rounded rows (group_maxima.hpp). By the
// triangle inequality
//
//     | |q - r| scale - |q~ - r~| | <= |q scale - q~| + |r scale - r~|.
//
// This gives an upper bound of the distance to the nearest row of each group, and a lower bound for
// all of its rows. The k-th smallest upper bound also bounds the k-th smallest distance. Groups
// whose lower bound does not exceed it are computed row by row, in float32 and with the order of
// arithmetic of `exact_kernel`. Queries with too many such groups are left to `exact_kernel`.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/cuda.cuh"
#include "core/parts.hpp"
#include "ops/cuda/group_maxima.hpp"
#include "ops/cuda/nearest_neighbors/exact.cuh"
#include "ops/cuda/nearest_neighbors/screen.cuh"
#include "ops/cuda/nearest_neighbors/selection.cuh"
#include "ops/nearest_neighbors.hpp"

namespace autopatch {
namespace {

constexpr const char* kName = "nearest_neighbors";
constexpr std::int64_t kChunkBytes = std::int64_t{512} << 20;  // maximum size of a chunk of queries

std::int64_t lay_out(std::int64_t num_rows, std::int64_t dim, void* memory, Screen& screen) {
  Parts parts(memory);
  screen.num_rows = num_rows;
  screen.padded_rows = round_up(num_rows, kRowsOfTile);
  screen.dim = dim;
  screen.depth = std::max(round_up(dim, kDepthOfTile), kDepthOfTile);
  screen.scale = parts.take<float>(1);
  screen.center = parts.take<float>(dim);
  screen.order = parts.take<int>(screen.padded_rows);
  screen.half_norms = parts.take<float>(screen.padded_rows);
  screen.residuals = parts.take<float>(screen.groups());
  screen.norms = parts.take<float>(screen.groups());
  screen.rows = parts.take<__half>(screen.padded_rows * screen.depth);
  return parts.size();
}

std::int64_t lay_out(const Screen& screen, std::int64_t num_queries, void* memory, Chunk& chunk) {
  Parts parts(memory);
  const std::int64_t of_query = 4 * screen.groups() + 2 * screen.depth;  // maxima, rows
  const std::int64_t most = kChunkBytes / of_query / kQueriesOfTile * kQueriesOfTile;
  chunk.padded_queries =
      std::min(round_up(num_queries, kQueriesOfTile), std::max(most, kQueriesOfTile));
  chunk.rows = parts.take<__half>(chunk.padded_queries * screen.depth);
  chunk.squares = parts.take<float>(chunk.padded_queries);
  chunk.residuals = parts.take<float>(chunk.padded_queries);
  chunk.maxima = parts.take<float>(screen.groups() * chunk.padded_queries);
  chunk.unscreened = parts.take<int>(chunk.padded_queries);
  chunk.num_unscreened = parts.take<int>(1);
  return parts.size();
}

__global__ void __launch_bounds__(kEncodeThreads)
    order_kernel(const std::int64_t* order, const float* center, const float* scale,
                 Screen screen) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kEncodeThreads + threadIdx.x;
  if (at < screen.padded_rows) {
    screen.order[at] = at < screen.num_rows ? static_cast<int>(order[at]) : -1;
  }
  if (at < screen.dim) screen.center[at] = center[at];
  if (at == 0) *screen.scale = *scale;
}

void launch_exact(const float* queries, const Selection& selection, const float* bank,
                  std::int64_t num_rows, std::int64_t dim, std::int64_t k, float* distances,
                  std::int64_t* indices, cudaStream_t stream) {
  launch(kName, Grid::independent, exact_kernel,
         static_cast<unsigned>(divide_up(selection.count, kTile)), kSide * kSide, 0, stream,
         queries, selection, bank, num_rows, dim, k, distances, indices);
}

}  // namespace

std::int64_t screen_bytes_cuda(std::int64_t num_rows, std::int64_t dim) {
  Screen screen{};
  return lay_out(num_rows, dim, nullptr, screen);
}

void build_screen_cuda(const float* bank, std::int64_t num_rows, std::int64_t dim,
                       const std::int64_t* order, const float* center, const float* scale,
                       void* memory, std::uintptr_t stream) {
  const auto queue = reinterpret_cast<cudaStream_t>(stream);
  Screen screen{};
  lay_out(num_rows, dim, memory, screen);
  launch(kName, Grid::independent, order_kernel,
         static_cast<unsigned>(divide_up(std::max(screen.padded_rows, dim), kEncodeThreads)),
         kEncodeThreads, 0, queue, order, center, scale, screen);
  launch(kName, Grid::independent, encode_bank_kernel, static_cast<unsigned>(screen.groups()),
         kEncodeThreads, 0, queue, bank, screen);
}

std::int64_t nearest_neighbors_cuda_workspace(std::int64_t num_queries, std::int64_t num_rows,
                                              std::int64_t dim) {
  Screen screen{};
  lay_out(num_rows, dim, nullptr, screen);
  Chunk chunk{};
  return lay_out(screen, num_queries, nullptr, chunk);
}

void nearest_neighbors_cuda(const float* queries, std::int64_t num_queries, const float* bank,
                            std::int64_t num_rows, std::int64_t dim, const void* screen_memory,
                            void* workspace, std::int64_t k, float* distances,
                            std::int64_t* indices, std::uintptr_t stream) {
  if (num_queries == 0) return;
  const auto queue = reinterpret_cast<cudaStream_t>(stream);
  if (screen_memory == nullptr || k > kMaxScreenedNeighbors) {
    launch_exact(queries, {nullptr, nullptr, num_queries}, bank, num_rows, dim, k, distances,
                 indices, queue);
    return;
  }
  Screen screen{};
  lay_out(num_rows, dim, const_cast<void*>(screen_memory), screen);
  Chunk chunk{};
  lay_out(screen, num_queries, workspace, chunk);
  const std::int64_t most = chunk.padded_queries;
  for (std::int64_t first = 0; first < num_queries; first += most) {
    chunk.queries = queries + first * dim;
    chunk.num_queries = std::min(most, num_queries - first);
    chunk.padded_queries = round_up(chunk.num_queries, kQueriesOfTile);
    launch(kName, Grid::independent, encode_queries_kernel,
           static_cast<unsigned>(divide_up(chunk.padded_queries, kEncodeThreads / kWarp)),
           kEncodeThreads, 0, queue, screen, chunk);
    group_maxima({chunk.rows, screen.rows, screen.half_norms, chunk.padded_queries,
                  screen.padded_rows, screen.depth, chunk.maxima},
                 queue);
    cuda_check(cudaMemsetAsync(chunk.num_unscreened, 0, sizeof(int), queue), kName);
    launch(kName, Grid::independent, select_kernel,
           static_cast<unsigned>(chunk.padded_queries / kSelectQueries), kSelectThreads, 0, queue,
           screen, chunk, bank, static_cast<int>(k), distances + first * k, indices + first * k);
    launch_exact(chunk.queries, {chunk.unscreened, chunk.num_unscreened, chunk.num_queries}, bank,
                 num_rows, dim, k, distances + first * k, indices + first * k, queue);
  }
}

}  // namespace autopatch
